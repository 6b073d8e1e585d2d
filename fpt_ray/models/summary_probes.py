"""Probes of what the LPM's blocks say of an image in a token or two: the class token and the mean of the patch tokens.

They read 37 kB an image (ViT-B) where a side network reads megabytes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from fpt_ray.config.trial import TrialConfig
from fpt_ray.models.backbone import BackboneShape
from fpt_ray.models.batch_norm import BatchNorm
from fpt_ray.models.probe import SCALE
from fpt_ray.models.side_block import attend
from fpt_ray.models.side_network import initialise

_EPS = 1e-6
"""Of a ViT's layer norm, as timm has it."""


def normalised(tokens: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """Tokens after the LPM's last norm but for its affine map, which a linear layer behind it can learn."""
    tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    return F.layer_norm(tokens, tokens.shape[-1:], eps=_EPS)


class StoredLinearProbe(nn.Module):
    """Linear probing of the last block's class token, from the store: the LPM is not run.

    Table 1's ``linear_probing`` is the same function of the image, trained on augmented images.
    """

    def __init__(self, _trial: TrialConfig, backbone: BackboneShape, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(backbone.width, num_classes)
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

    def __init__(self, trial: TrialConfig, backbone: BackboneShape, num_classes: int) -> None:
        super().__init__()
        heads, queries = backbone.num_heads, trial.probe.num_queries
        self.queries = nn.Parameter(torch.empty(heads, backbone.head_width, queries))
        nn.init.normal_(self.queries, std=0.02)
        self.preferences = nn.Parameter(torch.zeros(heads, 2 * backbone.depth, queries))
        self.norm = BatchNorm(queries * backbone.width)
        self.head = nn.Linear(queries * backbone.width, num_classes)
        initialise(self.head)

    @override
    def forward(self, summaries: Float[Tensor, "B M 2 D"]) -> Float[Tensor, "B C"]:
        """Logits."""
        heads = len(self.queries)
        tokens = normalised(summaries).flatten(1, 2).unflatten(-1, (heads, -1)).transpose(1, 2)  # B H 2M E
        found = attend(self.queries * SCALE, tokens, tokens, self.preferences)
        return self.head(self.norm(found.flatten(1)))
