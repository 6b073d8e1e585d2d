"""The LPM's own attention: what it multiplies is heard on the way, and on a CPU it is computed here.

PyTorch's fused attention makes no maps, of which importance is the mean. Which way is fastest depends on the machine
(``Way``; figures in docs/decisions.md). Dimension letters stand in ``importance.py``; here additionally Q is the number
of queries.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

SCORE_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}
"""Attention scores held at once, counted in float32: what a cache holds, or what keeps a GPU busy."""

_PARTS = 3
"""In bfloat16 of a number that has float32's precision."""
_FURTHER_COLUMNS = 8
"""Which take them; the kernel is faster where rows are whole vectors."""
_kernel_on_cpu: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""What PyTorch's fused attention runs on a CPU, which itself keeps the sums of exponentials to itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What attention is computed of."""

    queries: Float[Tensor, "B H Q E"]
    keys: Float[Tensor, "B H N E"]
    values: Float[Tensor, "B H N E"]
    scale: float
    """Of the products of queries and keys."""
    bias: Float[Tensor, "... H Q N"] | None = None
    """What is added to them."""

    def of_first_query(self) -> "Heard":
        """What the class token asks."""
        bias = None if self.bias is None else self.bias[..., :1, :]
        return replace(self, queries=self.queries[:, :, :1], bias=bias)

    def found_by(self, maps: Float[Tensor, "B H q N"]) -> Float[Tensor, "B H q E"]:
        """What queries of these maps find."""
        return maps @ self.values


class Way(Enum):
    """How attention and the mean of its maps are computed."""

    KERNEL = "PyTorch's fused kernel; maps are made beside it where importance is asked for"
    KERNEL_TWICE = "PyTorch's kernel; where importance is asked for once more, with keys in the queries' place"
    PRODUCTS = "plain products in every block, whose maps are made once"


def way_for(images: Tensor) -> Way:
    """The fastest where it reads such images."""
    if images.device.type != "cpu" or images.dtype != torch.bfloat16 or torch.compiler.is_exporting():
        return Way.KERNEL
    return Way.KERNEL_TWICE if torch.cpu._is_amx_tile_supported() else Way.PRODUCTS


class Listening(TorchFunctionMode):
    """Hands on what attention is computed of, before it is.

    Where maps are made beside a kernel, plain attention is heard at its projection. Another one may rotate its queries
    and keys, or add biases: it is heard when it calls PyTorch's fused attention. So is all attention that is computed
    another way: its output is then what ``hear`` gives.
    """

    def __init__(self, hear: Callable[[Heard], Tensor | None], *, way: Way, score_bytes: int | None) -> None:
        super().__init__()
        self.hear = hear
        self.way = way
        self.score_bytes = score_bytes
        self.scale: float | None = None
        """Of the attention that is to be heard next; None: none is."""

    def listen(self, attention: nn.Module) -> RemovableHandle:
        """Has this attention heard, until the handle is removed."""
        if self.way is Way.KERNEL and isinstance(attention, Attention):
            return attention.qkv.register_forward_hook(partial(self._projected, attention))
        attention.fused_attn = True  # type: ignore[assignment]  # whatever timm's settings say
        return attention.register_forward_pre_hook(self._announced)

    def _projected(self, attention: Attention, _projection: nn.Module, _given: Any, projected: Tensor) -> None:
        split = projected.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = split.unbind(0)
        queries, keys = attention.q_norm(queries), attention.k_norm(keys)
        self.hear(Heard(queries=queries, keys=keys, values=values, scale=attention.scale))

    def _announced(self, attention: Any, _given: Any) -> None:
        self.scale = attention.scale

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            output = self._attention(*args[:3], **(kwargs or {}))
            if output is not None:
                return output
        return func(*args, **(kwargs or {}))

    def _attention(
        self, queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None = None, **other: Any
    ) -> Tensor | None:
        """Its output, unless PyTorch's own kernel is to compute it."""
        scale, self.scale = self.scale, None
        is_plain = not any(other.values()) and (attn_mask is None or attn_mask.is_floating_point())
        computed = is_plain and self.way is Way.PRODUCTS
        if scale is None and not computed:
            return None
        if computed:  # once, not at every product
            keys, values = keys.contiguous(), values.contiguous()
        scaled_by = scale or queries.shape[-1] ** -0.5
        heard = Heard(queries=queries, keys=keys, values=values, scale=scaled_by, bias=attn_mask)
        output = None if scale is None else self.hear(heard)
        if computed and output is None:
            return attention_output(heard, self.score_bytes)
        return output if is_plain else None


def attention_maps(heard: Heard, score_bytes: int | None = None) -> Iterator[Float[Tensor, "B H q N"]]:
    """Softmaxed attention of some queries q after the other. ``score_bytes`` of scores are held at once."""
    batch, heads, _, _ = heard.queries.shape
    held = score_bytes or SCORE_BYTES.get(heard.keys.device.type, 2**22)
    images = 1 if torch.compiler.is_exporting() else batch  # a file takes any number of them
    chunk = max(32, held // (4 * images * heads * heard.keys.shape[2]))
    transposed = _centred(heard.keys).contiguous().transpose(-2, -1)  # once, not at every product
    parts = (heard.queries * heard.scale).split(chunk, dim=2)
    biases = [None] * len(parts) if heard.bias is None else heard.bias.split(chunk, dim=-2)
    for part, added in zip(parts, biases, strict=True):
        yield _softmaxed(part @ transposed, added)  # no name keeps them until the next ones are there


def _softmaxed(scores: Tensor, bias: Tensor | None) -> Tensor:
    return torch.softmax(scores if bias is None else scores + bias, dim=-1)


def _centred(keys: Float[Tensor, "B H N E"]) -> Float[Tensor, "B H N E"]:
    """Keys that give the same maps, of which 16 bits lose less: softmax does not see what a query's scores share.

    So do SageAttention's (arXiv 2410.02367). What all keys of a head have in common is a large part of them.
    """
    if keys.dtype == torch.float32 or keys.dtype == torch.float64:
        return keys
    return keys - keys.mean(dim=2, keepdim=True)


def attention_output(heard: Heard, score_bytes: int | None = None) -> Float[Tensor, "B H Q E"]:
    """What the queries find, as PyTorch's fused attention gives it."""
    return torch.cat(list(map(heard.found_by, attention_maps(heard, score_bytes))), dim=2)


def mean_attention(heard: Heard, score_bytes: int | None = None) -> Float[Tensor, "B H N"]:
    """Mean over the queries of the softmaxed attention, per head, in float32 (section 3.5)."""
    return _mean(heard, score_bytes, lambda _: None)


def attention_and_mean_twice(heard: Heard) -> tuple[Float[Tensor, "B H Q E"], Float[Tensor, "B H N"]]:
    """``attention_and_mean`` without a map: PyTorch's kernel run twice, on a CPU, where nothing is added to products.

    Beside what a query finds, the kernel tells log sum_n exp(q k_n) =: s_q (FlashAttention, arXiv 2205.14135). A key's
    mean over the queries, of exp(q k - s_q), is such a sum, too, over queries: that of the kernel with queries and keys
    in each other's place and -s_q added to their products. The kernel's mask could add it, slowly; so it stands in
    further columns of the queries, in three parts that together have float32's precision, and keys have ones there.
    """
    output, log_sums = _kernel_on_cpu(heard.queries, heard.keys, heard.values, scale=heard.scale)
    left, added = -log_sums / heard.scale, []
    for _ in range(_PARTS):
        added.append(left.to(heard.queries.dtype))
        left = left - added[-1]
    more = (0, _FURTHER_COLUMNS)
    queries, keys = F.pad(heard.queries, more), F.pad(heard.keys, more)
    width = heard.queries.shape[-1]
    queries[..., width : width + _PARTS] = torch.stack(added, dim=-1)
    keys[..., width : width + _PARTS] = 1
    _, log_means = _kernel_on_cpu(keys, queries, queries, scale=heard.scale)
    return output, log_means.exp() / heard.queries.shape[2]


def attention_and_mean(
    heard: Heard, score_bytes: int | None = None
) -> tuple[Float[Tensor, "B H Q E"], Float[Tensor, "B H N"]]:
    """``attention_output`` and ``mean_attention`` of the same maps."""
    outputs: list[Tensor] = []
    mean = _mean(heard, score_bytes, lambda maps: outputs.append(heard.found_by(maps)))
    return torch.cat(outputs, dim=2), mean


def _mean(heard: Heard, score_bytes: int | None, look: Callable[[Tensor], None]) -> Float[Tensor, "B H N"]:
    batch, heads, num_queries, _ = heard.queries.shape
    total = torch.zeros(batch, heads, heard.keys.shape[2], dtype=torch.float32, device=heard.keys.device)
    for maps in attention_maps(heard, score_bytes):
        total += maps.sum(dim=2, dtype=torch.float32)
        look(maps)
        del maps  # before the next ones are made
    return total / num_queries
