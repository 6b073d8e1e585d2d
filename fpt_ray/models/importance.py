"""Keys, values and importance of the LPM's tokens, by hooks on its own attention: no model is forked.

Dimension letters stand in ``side_network.py``; here additionally R is the resolution in pixels and N the number of
tokens, prefix tokens (class token, registers) included.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from fpt_ray.config.trial import Importance
from fpt_ray.models.backbone import ViT

SCORE_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}
"""Attention scores held at once while importance is summed: what a cache holds, or what keeps a GPU busy."""


class Extracted(NamedTuple):
    """Features of L blocks; tokens are sorted by importance, best first, for each head by its own scores."""

    keys: Float[Tensor, "L B H T E"]
    values: Float[Tensor, "L B H T E"]
    tokens: Int[Tensor, "L B H T"]
    summaries: Float[Tensor, "M 2 B D"] | None = None
    """What each of the LPM's M blocks puts out: its class token (without one, what the LPM would pool of it after the
    last norm), and the mean of its patch tokens."""


class _Captured(Exception):
    """Ends the forward pass once the last of the blocks has made its keys and values."""


@torch.no_grad()
def extract(
    model: ViT,
    images: Float[Tensor, "B 3 R R"],
    *,
    blocks: Sequence[int],
    num_kept: int,
    importance: Importance = "global",
    summarised: bool = False,
    score_bytes: int | None = None,
) -> Extracted:
    """Keys and values of the important tokens in some blocks, in rising order (Eq. 3, sections 3.4 and 3.5).

    They are what the LPM's own attention multiplies: with its biases, norms and rotary positions. What it adds to the
    products, such as BEiT's bias of relative positions, counts for importance.

    Images are normalised; arithmetic is in the model's own type, importance is summed in float32. Memory grows with N.
    ``summarised`` asks for the class token and the mean patch token of every block, too, for which the LPM is run to
    its end. ``score_bytes`` is how many bytes of scores are held at once. Default: what suits the device.
    """
    layers: list[Any] = list(model.blocks)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    summaries: list[Tensor] = []

    def capture(heard: _Heard) -> None:
        found.append(_important(heard, num_kept, importance, score_bytes))
        whole = summarised or torch.compiler.is_exporting()  # to a file goes no exception, and nothing that is not read
        if len(found) == len(blocks) and not whole:
            raise _Captured

    overheard = _Overheard(capture)
    handles = [overheard.listen(layers[block].attn) for block in blocks]
    plain = all(isinstance(layers[block].attn, Attention) for block in blocks)
    if summarised:
        handles += [
            layer.register_forward_hook(lambda _, __, out: summaries.append(_summary(model, out))) for layer in layers
        ]
    try:
        with nullcontext() if plain else overheard:
            model.forward_features(images.to(next(model.parameters()).dtype))
    except _Captured:
        pass
    finally:
        for handle in handles:
            handle.remove()
    keys, values, tokens = (torch.stack(parts) for parts in zip(*found, strict=True))
    return Extracted(keys, values, tokens, torch.stack(summaries) if summarised else None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Heard:
    """What attention is computed of."""

    queries: Float[Tensor, "B H N E"]
    keys: Float[Tensor, "B H N E"]
    values: Float[Tensor, "B H N E"]
    scale: float
    """Of the products of queries and keys."""
    bias: Float[Tensor, "... H N N"] | None = None
    """What is added to them."""


class _Overheard(TorchFunctionMode):
    """Hands on what attention is computed of, before it is.

    Plain attention is heard at its projection. Another one may rotate its queries and keys, or add biases: it is heard
    when it calls PyTorch's fused attention.
    """

    def __init__(self, capture: Callable[[_Heard], None]) -> None:
        super().__init__()
        self.capture = capture
        self.scale: float | None = None
        """Of the attention that is to be heard next; None: none is."""

    def listen(self, attention: nn.Module) -> RemovableHandle:
        """Has this attention heard, until the handle is removed."""
        if isinstance(attention, Attention):
            return attention.qkv.register_forward_hook(partial(self._projected, attention))
        attention.fused_attn = True  # type: ignore[assignment]  # whatever timm's settings say
        return attention.register_forward_pre_hook(self._announced)

    def _projected(self, attention: Attention, _projection: nn.Module, _given: Any, projected: Tensor) -> None:
        split = projected.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = split.unbind(0)
        queries, keys = attention.q_norm(queries), attention.k_norm(keys)
        self.capture(_Heard(queries=queries, keys=keys, values=values, scale=attention.scale))

    def _announced(self, attention: Any, _given: Any) -> None:
        self.scale = attention.scale

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.scale is not None and func is F.scaled_dot_product_attention:
            scale, self.scale = self.scale, None
            queries, keys, values = args[:3]
            bias = (kwargs or {}).get("attn_mask")
            self.capture(_Heard(queries=queries, keys=keys, values=values, scale=scale, bias=bias))
        return func(*args, **(kwargs or {}))


def _summary(model: ViT, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "2 B D"]:
    first = tokens[:, 0]
    if model.cls_token is None:
        first = model.pool(model.norm(tokens))  # type: ignore[operator]  # BEiT, which has no such, has a class token
    return torch.stack([first, tokens[:, model.num_prefix_tokens :].mean(dim=1)])


def _important(
    heard: _Heard, num_kept: int, importance: Importance, score_bytes: int | None
) -> tuple[Float[Tensor, "B H T E"], Float[Tensor, "B H T E"], Int[Tensor, "B H T"]]:
    queries, keys, values, bias = heard.queries, heard.keys, heard.values, heard.bias
    if importance == "class_token":
        queries = queries[:, :, :1]
        bias = None if bias is None else bias[..., :1, :]
    scores = mean_attention(queries, keys, heard.scale, score_bytes, bias)
    if torch.compiler.is_exporting():  # for a file, whose format has no stable sort; of one trial nothing is a prefix
        tokens = scores.topk(num_kept, dim=-1).indices
    else:
        # A stable sort, not top-k: ties keep their order, so that fewer tokens are always a prefix of more.
        tokens = scores.argsort(dim=-1, descending=True, stable=True)[..., :num_kept]
    at = tokens.unsqueeze(-1).expand(-1, -1, -1, keys.shape[-1])
    return keys.gather(2, at), values.gather(2, at), tokens


def mean_attention(
    queries: Float[Tensor, "B H Q E"],
    keys: Float[Tensor, "B H N E"],
    scale: float,
    score_bytes: int | None = None,
    bias: Float[Tensor, "... H Q N"] | None = None,
) -> Float[Tensor, "B H N"]:
    """Mean over the queries of the softmaxed attention, per head, in chunks of queries (section 3.5)."""
    batch, heads, num_queries, _ = queries.shape
    num_tokens = keys.shape[2]
    held = score_bytes or SCORE_BYTES.get(keys.device.type, 2**22)
    images = 1 if torch.compiler.is_exporting() else batch  # a file takes any number of them
    chunk = max(32, held // (4 * images * heads * num_tokens))
    transposed = keys.transpose(-2, -1)
    total = torch.zeros(batch, heads, num_tokens, dtype=torch.float32, device=keys.device)
    parts = (queries * scale).split(chunk, dim=2)
    biases = [None] * len(parts) if bias is None else bias.split(chunk, dim=-2)
    for part, added in zip(parts, biases, strict=True):
        scores = part @ transposed
        total += torch.softmax(scores if added is None else scores + added, dim=-1).sum(dim=2, dtype=torch.float32)
    return total / num_queries
