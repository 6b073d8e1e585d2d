"""Keys, values and importance of the LPM's tokens, by hooks on its own projections: no model is forked.

Dimension letters stand in ``side_network.py``; here additionally R is the resolution in pixels and N the number of
tokens, prefix tokens (class token, registers) included.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fpt_ray.config.trial import Importance

SCORE_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}
"""Attention scores held at once while importance is summed: what a cache holds, or what keeps a GPU busy."""


class Extracted(NamedTuple):
    """Features of L blocks; tokens are sorted by importance, best first, for each head by its own scores."""

    keys: Float[Tensor, "L B H T E"]
    values: Float[Tensor, "L B H T E"]
    tokens: Int[Tensor, "L B H T"]
    summaries: Float[Tensor, "M 2 B D"] | None = None
    """What each of the LPM's M blocks puts out: its class token, and the mean of its patch tokens."""


class _Captured(Exception):
    """Ends the forward pass once the last of the blocks has projected its tokens."""


@torch.no_grad()
def extract(
    model: VisionTransformer,
    images: Float[Tensor, "B 3 R R"],
    *,
    blocks: Sequence[int],
    num_kept: int,
    importance: Importance = "global",
    summarised: bool = False,
    score_bytes: int | None = None,
) -> Extracted:
    """Keys and values of the important tokens in some blocks, in rising order (Eq. 3, sections 3.4 and 3.5).

    Images are normalised; arithmetic is in the model's own type, importance is summed in float32. Memory grows with N.
    ``summarised`` asks for the class token and the mean patch token of every block, too, for which the LPM is run to
    its end. ``score_bytes`` is how many bytes of scores are held at once. Default: what suits the device.
    """
    layers: list[Any] = list(model.blocks)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    summaries: list[Tensor] = []

    def capture(attention: Attention, projected: Tensor) -> None:
        found.append(_important(attention, projected, num_kept, importance, score_bytes))
        if len(found) == len(blocks) and not summarised:
            raise _Captured

    handles = [
        attention.qkv.register_forward_hook(lambda _, __, projected, attention=attention: capture(attention, projected))
        for attention in (layers[block].attn for block in blocks)
    ]
    if summarised:
        prefix = model.num_prefix_tokens
        handles += [
            layer.register_forward_hook(lambda _, __, out: summaries.append(_summary(out, prefix))) for layer in layers
        ]
    try:
        model.forward_features(images.to(next(model.parameters()).dtype))
    except _Captured:
        pass
    finally:
        for handle in handles:
            handle.remove()
    keys, values, tokens = (torch.stack(parts) for parts in zip(*found, strict=True))
    return Extracted(keys, values, tokens, torch.stack(summaries) if summarised else None)


def _summary(tokens: Float[Tensor, "B N D"], num_prefix: int) -> Float[Tensor, "2 B D"]:
    return torch.stack([tokens[:, 0], tokens[:, num_prefix:].mean(dim=1)])


def _important(
    attention: Attention,
    projected: Float[Tensor, "B N QKV"],
    num_kept: int,
    importance: Importance,
    score_bytes: int | None,
) -> tuple[Float[Tensor, "B H T E"], Float[Tensor, "B H T E"], Int[Tensor, "B H T"]]:
    batch, num_tokens, _ = projected.shape
    split = projected.reshape(batch, num_tokens, 3, attention.num_heads, attention.head_dim).permute(2, 0, 3, 1, 4)
    queries, keys, values = split.unbind(0)
    queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    if importance == "class_token":
        queries = queries[:, :, :1]
    scores = mean_attention(queries, keys, attention.scale, score_bytes)
    # A stable sort, not top-k: ties keep their order, so that fewer tokens are always a prefix of more.
    tokens = scores.argsort(dim=-1, descending=True, stable=True)[..., :num_kept]
    at = tokens.unsqueeze(-1).expand(-1, -1, -1, attention.head_dim)
    return keys.gather(2, at), values.gather(2, at), tokens


def mean_attention(
    queries: Float[Tensor, "B H Q E"], keys: Float[Tensor, "B H N E"], scale: float, score_bytes: int | None = None
) -> Float[Tensor, "B H N"]:
    """Mean over the queries of the softmaxed attention, per head, in chunks of queries (section 3.5)."""
    batch, heads, num_queries, _ = queries.shape
    num_tokens = keys.shape[2]
    held = score_bytes or SCORE_BYTES.get(keys.device.type, 2**22)
    chunk = max(32, held // (4 * batch * heads * num_tokens))
    transposed = keys.transpose(-2, -1)
    total = torch.zeros(batch, heads, num_tokens, dtype=torch.float32, device=keys.device)
    for part in (queries * scale).split(chunk, dim=2):
        total += torch.softmax(part @ transposed, dim=-1).sum(dim=2, dtype=torch.float32)
    return total / num_queries
