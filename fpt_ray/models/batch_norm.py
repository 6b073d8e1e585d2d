"""The norm of the probes' readings, over the batches of all workers."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

_EPS = 1e-5
_MOMENTUM = 0.1
"""Of the running mean and variance, as PyTorch's batch norm has it."""


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
            self.mean.add_(mean - self.mean, alpha=_MOMENTUM)
            self.variance.add_(variance * size / max(1, size - 1) - self.variance, alpha=_MOMENTUM)
        return centred * (variance + _EPS).rsqrt()

    def get_extra_state(self) -> Float[Tensor, "*G 2 F"]:
        """The running mean and variance, which a checkpoint keeps."""
        return torch.stack([self.mean, self.variance], dim=-2)

    def set_extra_state(self, state: Float[Tensor, "*G 2 F"]) -> None:
        """Takes them over."""
        self.mean.copy_(state[..., 0, :])
        self.variance.copy_(state[..., 1, :])


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
