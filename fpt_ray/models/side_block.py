"""A layer of the side network: a ViT's block that computes only what is read of it.

What becomes of a layer's prompts is dropped (Eq. 7), and of the last layer the class token alone is read out. So the
other tokens are attended to and ask nothing themselves: results and gradients are those of the whole block.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor
from typing_extensions import override

_FEW = 16
"""Queries from which on they are faster on the right: a vector of the processor has so many numbers."""


def attend(
    queries: Float[Tensor, "*B H E M"],
    keys: Float[Tensor, "B H N E"],
    values: Float[Tensor, "B H N E"],
    bias: Float[Tensor, "H N M"] | None = None,
) -> Float[Tensor, "B M D"]:
    """Attention as plain products, of queries that are scaled; those without B are every image's. A bias is added.

    Many queries stand on the right of keys and values, forward and backward, and few on their left: a CPU takes two to
    four times as long the other way (docs/decisions.md).
    """
    few = few_ask(queries)
    products = queries.mT @ keys.mT if few else keys @ queries
    if bias is not None:
        products = products + (bias.mT if few else bias)
    # With a type of its own: autocast would give float32, and keep that for the gradient beside a copy in 16 bits.
    maps = torch.softmax(products, dim=-1 if few else -2, dtype=products.dtype)  # B H M N or B H N M
    if few:
        return (maps @ values).transpose(1, 2).flatten(-2)
    return (values.mT @ maps).permute(0, 3, 1, 2).flatten(-2)


def few_ask(queries: Float[Tensor, "*B H E M"]) -> bool:
    """Whether so few ask that a CPU is faster with them on the left of the products."""
    return queries.shape[-1] < _FEW


class SideAttention(Attention):
    """timm's attention, with its parameters, in which the first tokens alone ask and all of them are asked."""

    in_one_kernel: bool | None = None
    """Whether PyTorch's fused attention computes it; None: where that is faster. A prediction for a GPU sets it."""

    @override
    def forward(self, tokens: Float[Tensor, "B N W"], num_read: int) -> Float[Tensor, "B M W"]:  # type: ignore[override]
        """What the first ``num_read`` tokens find."""
        split = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = split.unbind(0)
        queries = queries[:, :, :num_read]
        # On CPUs plain products are faster: heads are few numbers wide, and the maps of a low resolution are small.
        if tokens.is_cuda if self.in_one_kernel is None else self.in_one_kernel:
            found = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(-2)
        else:
            found = attend((queries * self.scale).transpose(-2, -1), keys, values)
        return self.proj(found)


class SideBlock(Block):
    """timm's block, with its parameters, of which the first tokens alone come out."""

    attn: SideAttention

    @override
    def forward(self, tokens: Float[Tensor, "B N W"], num_read: int) -> Float[Tensor, "B M W"]:  # type: ignore[override]
        """What becomes of the first ``num_read`` tokens."""
        read = tokens[:, :num_read] + self.attn(self.norm1(tokens), num_read)
        return read + self.mlp(self.norm2(read))
