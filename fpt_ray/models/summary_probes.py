"""Probes of what the LPM's blocks say of an image in a token or two: the class token and the mean of the patch tokens.

They read 37 kB an image (ViT-B) where a side network reads megabytes.
"""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from fpt_ray.config.tasks import Task
from fpt_ray.config.trial import TrialConfig
from fpt_ray.models.backbone import BackboneShape
from fpt_ray.models.batch_norm import BatchNorm
from fpt_ray.models.probe import SCALE
from fpt_ray.models.side_block import attend
from fpt_ray.models.side_network import initialise

_EPS = 1e-6
"""Of a ViT's layer norm, as timm has it."""
_TEMPERATURE = 0.07
"""Of the votes of neighbours: Wu et al. 2018, arXiv 1805.01978, section 3.4."""
_LEAST_SHARE = 1e-6
"""Of votes for or against a label, so that log-odds are finite."""


def normalised(tokens: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """Tokens after the LPM's last norm but for its affine map, which a linear layer behind it can learn."""
    tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    return F.layer_norm(tokens, tokens.shape[-1:], eps=_EPS)


class StoredLinearProbe(nn.Module):
    """Linear probing of the last block's class token, from the store: the LPM is not run.

    Table 1's ``linear_probing`` is the same function of the image, trained on augmented images.
    """

    def __init__(self, _trial: TrialConfig, backbone: BackboneShape, num_outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(backbone.width, num_outputs)
        initialise(self.head)

    @override
    def forward(self, summaries: Float[Tensor, "B M 2 D"]) -> Float[Tensor, "B C"]:
        """Logits."""
        return self.head(normalised(summaries[:, -1, 0]))


class LayerFusion(nn.Module):
    """Attentive layer fusion: queries choose among the class tokens and mean patch tokens of all blocks.

    After Ciernik et al., arXiv 2601.09322, without its projections of keys and values, which at ViT-S are as many
    parameters as a side network has; in their place a query has a preference for each of the tokens, whatever they
    say: attention alone could not tell one block from another.
    """

    def __init__(self, trial: TrialConfig, backbone: BackboneShape, num_outputs: int) -> None:
        super().__init__()
        heads, queries = backbone.num_heads, trial.probe.num_queries
        self.queries = nn.Parameter(torch.empty(heads, backbone.head_width, queries))
        nn.init.normal_(self.queries, std=0.02)
        self.preferences = nn.Parameter(torch.zeros(heads, 2 * backbone.depth, queries))
        self.norm = BatchNorm(queries * backbone.width)
        self.head = nn.Linear(queries * backbone.width, num_outputs)
        initialise(self.head)

    @override
    def forward(self, summaries: Float[Tensor, "B M 2 D"]) -> Float[Tensor, "B C"]:
        """Logits."""
        heads = len(self.queries)
        tokens = normalised(summaries).flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2)  # B H 2M E
        found = attend(self.queries * SCALE, tokens, tokens, self.preferences)
        return self.head(self.norm(found.flatten(1)))


class UnitToken(nn.Module):
    """The last block's class token as a direction: after the LPM's last norm but for its affine map, of length 1."""

    @override
    def forward(self, summaries: Float[Tensor, "B M 2 D"]) -> Float[Tensor, "B D"]:
        """Rows whose products are cosine similarities."""
        return F.normalize(normalised(summaries[:, -1, 0]), dim=-1)


def _similarities(tokens: Float[Tensor, "B D"], others: Float[Tensor, "N D"]) -> Float[Tensor, "B N"]:
    """In full precision whatever autocast says, which has no say on ``meta``: 16 bit would order neighbours anew."""
    plain = tokens.is_meta or torch.compiler.is_exporting()
    with nullcontext() if plain else torch.autocast(tokens.device.type, enabled=False):
        return tokens @ others.T


class NearestNeighbours(nn.Module):
    """The training images whose class tokens are the nearest vote for their classes; nothing is learnt.

    After Wu et al., arXiv 1805.01978, as DINO is evaluated (Caron et al., arXiv 2104.14294): the k of highest cosine
    similarity s vote with the weight exp(s / 0.07). Their tokens have passed the LPM's norm with its affine map. They
    vote for each label that they have, of those that are known of them, and of values they give the mean.
    """

    tokens: Tensor
    labels: Tensor

    def __init__(self, trial: TrialConfig, backbone: BackboneShape, num_outputs: int) -> None:
        super().__init__()
        self.neighbours, self.num_outputs = trial.knn.neighbours, num_outputs
        self.task: Task = "multiclass"
        self.unit_token = UnitToken()
        self.register_buffer("tokens", torch.empty(0, backbone.width), persistent=False)
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64), persistent=False)

    def remember(self, tokens: Float[Tensor, "N D"], labels: Tensor, task: Task = "multiclass") -> None:
        """Takes the place of what it knew: unit tokens of the training images, and their labels."""
        kind = self.tokens.dtype if labels.is_floating_point() else torch.int64
        self.task, self.tokens, self.labels = task, tokens.to(self.tokens), labels.to(self.tokens.device, kind)

    @override
    def forward(self, summaries: Float[Tensor, "B M 2 D"]) -> Float[Tensor, "B F"]:
        """What ``loss.says`` turns back into shares of the votes or a mean: logarithms, log-odds, values."""
        similarities = _similarities(self.unit_token(summaries), self.tokens)
        nearest, rows = similarities.topk(min(self.neighbours, len(self.tokens)))
        weights, said = (nearest / _TEMPERATURE).exp(), self.labels[rows]
        if self.task == "regression":
            return (weights * said).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
        if self.task == "multilabel":
            known = ~said.isnan()
            votes = (weights.unsqueeze(-1) * known).sum(dim=1)
            having = (weights.unsqueeze(-1) * said.nan_to_num()).sum(dim=1)
            return torch.where(votes > 0, having / votes, 0.5).logit(_LEAST_SHARE)
        votes = similarities.new_zeros(summaries.shape[0], self.num_outputs + (self.task == "ordinal"))
        votes.scatter_add_(1, said, weights)
        shares = F.normalize(votes, p=1, dim=-1)
        if self.task == "ordinal":
            above = shares.flip(-1).cumsum(-1).flip(-1)
            return _logarithm(above[:, 1:]) - _logarithm(shares[:, :-1])
        return _logarithm(shares)

    def get_extra_state(self) -> dict[str, Any]:
        """What it remembers, which a checkpoint keeps."""
        return {"tokens": self.tokens, "labels": self.labels, "task": self.task}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Remembers it."""
        self.remember(state["tokens"], state["labels"], state.get("task", "multiclass"))


def _logarithm(shares: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    return shares.clamp_min(torch.finfo(shares.dtype).tiny).log()
