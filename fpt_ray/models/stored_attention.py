"""Attention to the LPM's stored keys and values: they lie in 16 bits, are converted as they are read, and never learn.

Converted beforehand, a batch would be written and read in full in the type of the arithmetic, forward and backward.
Here a CPU converts a piece that stays in its cache, and a GPU half a layer, and both convert it again to go backward:
no more than that is ever held (docs/decisions.md).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from fpt_ray.models.side_block import attend, few_ask

_aten: Any = torch.ops.aten
_PIECE_BYTES = 1 << 20
"""Of keys or values that a CPU converts at once."""


class StoredAttention(nn.Module):
    """Queries that learn, some for each head of the LPM, attend to that head's stored keys and values."""

    halves: bool | None = None
    """Whether a piece is half a layer and, where nothing is learnt, all of it goes to ``attend``; None: on GPUs.

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
        halves = queries.is_cuda if self.halves is None else self.halves
        learn = torch.is_grad_enabled() and queries.requires_grad
        others_learn = keys.requires_grad or values.requires_grad
        if torch.compiler.is_exporting() or others_learn or (halves and not learn):
            return attend(queries, keys.to(arithmetic), values.to(arithmetic))
        found, _ = _Attention.apply(queries, keys, values, arithmetic, halves)
        return found.transpose(1, 2).flatten(-2) if few_ask(queries) else found.permute(0, 3, 1, 2).flatten(-2)


class _Attention(torch.autograd.Function):
    """``attend`` with a gradient to the queries alone.

    What is found and the maps have the dimensions of their products: of few queries B H M E and B H M T, of many
    B H E M and B H T M.
    """

    @staticmethod
    @override
    def forward(
        queries: Tensor, keys: Tensor, values: Tensor, arithmetic: torch.dtype, halves: bool
    ) -> tuple[Tensor, Tensor]:
        (images, heads, tokens, width), asking, few = keys.shape, queries.shape[-1], few_ask(queries)
        found = keys.new_empty(images, heads, *((asking, width) if few else (width, asking)), dtype=arithmetic)
        maps = keys.new_empty(images, heads, *((asking, tokens) if few else (tokens, asking)), dtype=arithmetic)
        size = _piece_size(keys, arithmetic, halves)
        read = _reader(keys, size, arithmetic, halves)
        own = _of_pieces(queries.to(arithmetic), images, size)
        for query, key, value, of_map, into in zip(own, *_split(size, keys, values, maps, found), strict=True):
            products = torch.bmm(query.mT, read(key).mT) if few else torch.bmm(read(key), query)
            _aten._softmax.out(products, -1 if few else -2, False, out=of_map)
            del products
            torch.bmm(*((of_map, read(value)) if few else (read(value).mT, of_map)), out=into)
        return found, maps

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
        keys, values, maps = ctx.saved_tensors
        gradient, few, arithmetic = gradients[0].contiguous(), ctx.few, ctx.arithmetic
        of_queries = torch.empty_like(gradient)
        size = _piece_size(keys, arithmetic, ctx.halves)
        read = _reader(keys, size, arithmetic, ctx.halves)
        pieces = _split(size, keys, values, maps, gradient, of_queries)
        for key, value, of_map, of_found, into in zip(*pieces, strict=True):
            of_maps = torch.bmm(of_found, read(value).mT) if few else torch.bmm(read(value), of_found)
            of_products = _aten._softmax_backward_data(of_maps, of_map, -1 if few else -2, arithmetic)
            torch.bmm(*((of_products, read(key)) if few else (read(key).mT, of_products)), out=into)
        of_queries = of_queries.sum(0, dtype=ctx.type)
        return of_queries.mT if few else of_queries, None, None, None, None

    @staticmethod
    @override
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        """Network after network: each converts for itself."""
        found = []
        for at in range(info.batch_size):
            own = [one if axis is None else one.select(axis, at) for one, axis in zip(inputs, in_dims, strict=True)]
            found.append(_Attention.apply(*own))
        return tuple(map(torch.stack, zip(*found, strict=True))), (0, 0)


def _piece_size(stored: Tensor, arithmetic: torch.dtype, halves: bool) -> int:
    """How many heads of images are a piece: those of some images, or some of an image's."""
    images, heads, tokens, width = stored.shape
    fitting = -(-images // 2) * heads if halves else max(1, _PIECE_BYTES // (tokens * width * arithmetic.itemsize))
    return min(images, fitting // heads) * heads or max(size for size in range(1, fitting + 1) if heads % size == 0)


def _split(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The pieces of each tensor whose first dimensions are images and heads."""
    return (tensor.flatten(0, 1).split(size) for tensor in tensors)


def _of_pieces(queries: Tensor, images: int, size: int) -> Iterator[Tensor]:
    """What asks in each piece."""
    heads = len(queries)
    if size < heads:
        return iter(queries.split(size) * images)
    own = queries.repeat(size // heads, 1, 1)
    return (own[: min(size, images * heads - at)] for at in range(0, images * heads, size))


def _reader(stored: Tensor, size: int, arithmetic: torch.dtype, halves: bool) -> Callable[[Tensor], Tensor]:
    """What gives a piece in the type of the arithmetic; it stands until the next is asked for.

    Small pieces are converted in one memory, which stays in a CPU's cache. That of half a layer ends with its product.
    """
    if halves or stored.dtype == arithmetic:
        return lambda piece: piece.to(arithmetic)
    memory = stored.new_empty(size, *stored.shape[2:], dtype=arithmetic)
    if arithmetic.itemsize == stored.dtype.itemsize:
        # From one kind of 16 bits to the other, a CPU is three times as fast by way of float32.
        return lambda piece: memory[: len(piece)].copy_(piece.float())
    return lambda piece: memory[: len(piece)].copy_(piece)
