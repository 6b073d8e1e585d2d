"""Attention to the LPM's stored keys and values: they lie in 16 bits, are converted as they are read, and never learn.

Converted beforehand, a batch would be written and read in full in the type of the arithmetic, forward and backward.
Here a CPU converts a piece that stays in its cache, and a GPU half a layer, and both convert it again to go backward:
no more than that is ever held (docs/decisions.md).
"""

import math
import threading
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from fpt_ray.models.side_block import attend, few_ask

_aten: Any = torch.ops.aten
_PIECE_BYTES = 3 << 19
"""Of keys or values that a CPU converts at once."""


class StoredAttention(nn.Module):
    """Queries that learn, some for each head of the LPM, attend to that head's stored keys and values."""

    halves: bool | None = None
    """Whether a piece is half a layer and, where nothing is learnt, all of it goes to ``attend``; None: not on CPUs.

    A prediction for a GPU sets it.
    """

    @override
    def forward(
        self,
        queries: Float[Tensor, "H E M"],
        keys: Float[Tensor, "B H T E"],
        values: Float[Tensor, "B H T E"],
    ) -> Float[Tensor, "B M D"]:
        """What the queries, which are scaled, find in each image: in autocast's type if it is on, else in their own."""
        device = queries.device.type
        mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        arithmetic = torch.get_autocast_dtype(device) if mixed else queries.dtype
        halves = not queries.is_cpu if self.halves is None else self.halves
        learn = torch.is_grad_enabled()  # of networks that are mapped over, the queries do not say it
        others_learn = keys.requires_grad or values.requires_grad
        as_stored = keys.dtype == arithmetic
        if torch.compiler.is_exporting() or others_learn or as_stored or (halves and not learn):
            return attend(queries, keys.to(arithmetic), values.to(arithmetic))
        found, _ = _Attention.apply(queries[None], keys[None], values[None], arithmetic, halves)
        return found[0]


class _Attention(torch.autograd.Function):
    """``attend`` of G networks, with a gradient to their queries alone.

    What is found, until it is given back, and the maps have the dimensions of their products, N of all heads of all
    images of all networks: of few queries N M E and N M T, of many N E M and N T M.
    """

    @staticmethod
    @override
    def forward(
        queries: Float[Tensor, "G H E M"],
        keys: Float[Tensor, "G B H T E"],
        values: Float[Tensor, "G B H T E"],
        arithmetic: torch.dtype,
        halves: bool,
    ) -> tuple[Float[Tensor, "G B M D"], Tensor]:
        (networks, images, heads, tokens, width), asking, few = keys.shape, queries.shape[-1], few_ask(queries)
        rows = networks * images * heads
        found = keys.new_empty(rows, *((asking, width) if few else (width, asking)), dtype=arithmetic)
        maps = keys.new_empty(rows, *((asking, tokens) if few else (tokens, asking)), dtype=arithmetic)
        size = _piece_size(keys, arithmetic, halves)
        read = _reader(keys, size, arithmetic, halves)
        asked = queries.to(arithmetic).unsqueeze(1).expand(-1, images, -1, -1, -1).flatten(0, 2)
        pieces = (one.split(size) for one in (asked, keys.flatten(0, 2), values.flatten(0, 2), maps, found))
        for query, key, value, of_map, into in zip(*pieces, strict=True):
            products = torch.bmm(query.mT, read(key).mT) if few else torch.bmm(read(key), query)
            _aten._softmax.out(products, -1 if few else -2, False, out=of_map)
            del products
            torch.bmm(*((of_map, read(value)) if few else (read(value).mT, of_map)), out=into)
        found = found.unflatten(0, (networks, images, heads))
        return (found.transpose(2, 3) if few else found.permute(0, 1, 4, 2, 3)).flatten(-2), maps

    @staticmethod
    @override
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        queries, keys, values, ctx.arithmetic, ctx.halves = inputs
        ctx.few, ctx.type = few_ask(queries), queries.dtype
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(keys, values, output[1])

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if any(ctx.needs_input_grad[1:]):
            raise RuntimeError("keys and values of several networks do not learn; give them without a gradient")
        keys, values, maps = ctx.saved_tensors
        few, arithmetic, by_head = ctx.few, ctx.arithmetic, gradients[0].unflatten(-1, (keys.shape[2], -1))  # G B M H E
        of_found = (by_head.transpose(2, 3) if few else by_head.permute(0, 1, 3, 4, 2)).flatten(0, 2).contiguous()
        of_queries = torch.empty_like(of_found)
        size = _piece_size(keys, arithmetic, ctx.halves)
        read = _reader(keys, size, arithmetic, ctx.halves)
        pieces = (one.split(size) for one in (keys.flatten(0, 2), values.flatten(0, 2), maps, of_found, of_queries))
        for key, value, of_map, of_piece, into in zip(*pieces, strict=True):
            of_maps = torch.bmm(of_piece, read(value).mT) if few else torch.bmm(read(value), of_piece)
            of_products = _aten._softmax_backward_data(of_maps, of_map, -1 if few else -2, arithmetic)
            torch.bmm(*((of_products, read(key)) if few else (read(key).mT, of_products)), out=into)
        of_queries = of_queries.unflatten(0, keys.shape[:3]).sum(1, dtype=ctx.type)
        return of_queries.mT if few else of_queries, None, None, None, None

    @staticmethod
    @override
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        """Networks more; those that all read the same keys and values ask with their queries side by side."""
        (queries, keys, values, *how), (of_queries, of_keys, of_values, *_) = inputs, in_dims
        assert of_queries is not None
        queries = queries.movedim(of_queries, 0)
        if of_keys is None:
            asked = queries.permute(1, 2, 3, 0, 4).flatten(-2)
            found, maps = _Attention.apply(asked, keys, values, *how)
            return (found.unflatten(2, (info.batch_size, -1)), maps), (2, None)
        keys, values = keys.movedim(of_keys, 0), values.movedim(of_values, 0)
        found, maps = _Attention.apply(*(one.flatten(0, 1) for one in (queries, keys, values)), *how)
        return (found.unflatten(0, (info.batch_size, -1)), maps), (0, None)


def _piece_size(stored: Tensor, arithmetic: torch.dtype, halves: bool) -> int:
    """How many heads of images are a piece: those of some images, or some of an image's."""
    networks, images, heads, tokens, width = stored.shape
    images *= networks
    if halves:
        return -(-images // 2) * heads
    fitting = max(1, _PIECE_BYTES // (tokens * width * arithmetic.itemsize))
    return min(images, fitting // heads) * heads or max(size for size in range(1, fitting + 1) if heads % size == 0)


def _reader(stored: Tensor, size: int, arithmetic: torch.dtype, halves: bool) -> Callable[[Tensor], Tensor]:
    """What gives a piece in the type of the arithmetic; it stands until the next is asked for.

    Small pieces are converted in one memory, which stays in a CPU's cache. That of half a layer ends with its product.
    """
    if halves:
        return lambda piece: piece.to(arithmetic)
    memory = _memory((size, *stored.shape[3:]), arithmetic)
    if arithmetic.itemsize == stored.dtype.itemsize:
        # From one kind of 16 bits to the other, a CPU is three times as fast by way of float32.
        return lambda piece: memory[: len(piece)].copy_(piece.float())
    return lambda piece: memory[: len(piece)].copy_(piece)


class _Kept(threading.local):
    """Of a thread: what its pieces are converted into. Fresh memory would cost more than the conversion."""

    memory: dict[torch.dtype, Tensor]

    def __init__(self) -> None:
        self.memory = {}


_kept = _Kept()


def _memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor in this thread's memory for a type, good until the next one of that type."""
    kept, numbers = _kept.memory.get(dtype), math.prod(shape)
    if kept is None or kept.numel() < numbers:
        with torch.inference_mode(False):  # else no step could write into it
            kept = _kept.memory[dtype] = torch.empty(numbers, dtype=dtype)
    return kept[:numbers].view(shape)
