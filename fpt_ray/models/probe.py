"""The attention probe: queries that learn, and nothing beside them and a linear layer, read the LPM's keys and values.

It is the yardstick of a side network: on the same store, a few thousand parameters. After efficient probing (Psomas et
al., arXiv 2506.10178), on the LPM's own keys and values of any of its blocks instead of new projections of the last.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from fpt_ray.config.trial import TrialConfig
from fpt_ray.models.backbone import BackboneShape, blocks_read
from fpt_ray.models.side_block import attend

_SCALE = 0.5
"""Of a query's products with keys. The queries start near 0: with 1/sqrt(E) of attention they would learn slowly."""
_EPS = 1e-5
_MOMENTUM = 0.1
"""Of the running mean and variance, as PyTorch's batch norm has it."""


class Probe(nn.Module):
    """Queries for each head of each block; what they find is concatenated, normalised and classified."""

    def __init__(self, trial: TrialConfig, backbone: BackboneShape, num_classes: int) -> None:
        super().__init__()
        blocks, queries = blocks_read(trial.side, backbone), trial.probe.num_queries
        self.queries = nn.Parameter(torch.empty(len(blocks), backbone.num_heads, backbone.head_width, queries))
        nn.init.normal_(self.queries, std=0.02)
        self.norm = BatchNorm(len(blocks) * queries * backbone.width)
        self.head = nn.Linear(len(blocks) * queries * backbone.width, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    @override
    def forward(
        self,
        low_res: Tensor | None,
        keys: Float[Tensor, "L B H T E"],
        values: Float[Tensor, "L B H T E"],
        keep_masks: Tensor | None = None,
    ) -> Float[Tensor, "B C"]:
        """Logits; neither an image nor a mask of prompts is read."""
        del low_res, keep_masks
        layers = zip(self.queries * _SCALE, keys, values, strict=True)
        found = torch.cat([attend(*layer).flatten(1) for layer in layers], dim=1)
        return self.head(self.norm(found))


class BatchNorm(nn.Module):
    """Batch norm without an affine map, over the batch of all workers, so that no number depends on how many there are.

    PyTorch's own is of one worker or, over several, of GPUs alone.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width), persistent=False)
        self.register_buffer("variance", torch.ones(width), persistent=False)

    @override
    def forward(self, found: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        """Standardised by the batch in training, and by its running mean and variance otherwise."""
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        if not self.training:
            return (found - self.mean) * (self.variance + _EPS).rsqrt()
        workers = dist.get_world_size() if dist.is_initialized() else 1
        size = len(found) * workers
        mean = _summed(found.sum(dim=0), workers) / size
        centred = found - mean
        variance = _summed(centred.square().sum(dim=0), workers) / size
        with torch.no_grad():
            self.mean.lerp_(mean, _MOMENTUM)
            self.variance.lerp_(variance * size / max(1, size - 1), _MOMENTUM)
        return centred * (variance + _EPS).rsqrt()

    def get_extra_state(self) -> Float[Tensor, "2 F"]:
        """The running mean and variance, which a checkpoint keeps."""
        return torch.stack([self.mean, self.variance])

    def set_extra_state(self, state: Float[Tensor, "2 F"]) -> None:
        """Takes them over."""
        self.mean.copy_(state[0])
        self.variance.copy_(state[1])


def _summed(part: Tensor, workers: int) -> Tensor:
    return _Summed.apply(part) if workers > 1 else part


class _Summed(torch.autograd.Function):
    """The sum over all workers; what its gradient is, is summed as well."""

    @staticmethod
    def forward(_context: Any, part: Tensor) -> Tensor:
        whole = part.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        whole = gradient.clone()
        dist.all_reduce(whole)
        return whole
