"""The attention probe: queries that learn, and nothing beside them and a linear layer, read the LPM's keys and values.

It is the yardstick of a side network: on the same store, a few thousand parameters. After efficient probing (Psomas et
al., arXiv 2506.10178), on the LPM's own keys and values of any of its blocks instead of new projections of the last.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from fpt_ray.config.trial import TrialConfig
from fpt_ray.models.backbone import BackboneShape, blocks_read
from fpt_ray.models.batch_norm import BatchNorm
from fpt_ray.models.side_network import initialise
from fpt_ray.models.stored_attention import StoredAttention

SCALE = 0.5
"""Of a query's products with keys. The queries start near 0: with 1/sqrt(E) of attention they would learn slowly."""


class Probe(nn.Module):
    """Queries for each head of each block; what they find is concatenated, normalised and classified."""

    def __init__(self, trial: TrialConfig, backbone: BackboneShape, num_outputs: int) -> None:
        super().__init__()
        blocks, queries = blocks_read(trial.side, backbone), trial.probe.num_queries
        self.queries = nn.Parameter(torch.empty(len(blocks), backbone.num_heads, backbone.head_width, queries))
        nn.init.normal_(self.queries, std=0.02)
        self.attention = StoredAttention()
        self.norm = BatchNorm(len(blocks) * queries * backbone.width)
        self.head = nn.Linear(len(blocks) * queries * backbone.width, num_outputs)
        initialise(self.head)

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
        layers = zip(self.queries * SCALE, keys, values, strict=True)
        found = torch.cat([self.attention(*layer).flatten(1) for layer in layers], dim=1)
        return self.head(self.norm(found))
