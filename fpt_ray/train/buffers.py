"""Rows that are read ahead of their use, into memory that is kept: on a CPU, what they are converted into is kept, too.

Fresh memory costs a CPU ten times the conversion; a GPU copies while it computes from pinned memory alone.
"""

import math
import time
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fpt_ray.features.rows import Batch, RowReader

_FEW_BYTES = 16 << 20
"""Of keys or values that a CPU converts before they are read."""


class Kept:
    """Tensors on the host by their names. What it gave for a name stands until that name is next asked."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of a shape and type in the memory of its name, pinned in a process that works on a GPU."""
        kept, size = self._kept.get(name), math.prod(shape)
        if kept is None or kept.dtype != dtype or kept.numel() < size:
            kept = self._kept[name] = torch.empty(size, dtype=dtype, pin_memory=torch.cuda.is_initialized())
        return kept[:size].view(shape)


class Taken(NamedTuple):
    """A batch that was read."""

    row_ids: Any
    batch: Batch
    waited: float
    """Seconds."""


class Buffers:
    """A worker's: two memories in turn, of which one is read into while the other is worked on, and the converted."""

    def __init__(self) -> None:
        self._read, self._converted = (Kept(), Kept()), Kept()
        self._used: list[torch.cuda.Event | None] = [None, None]

    def memory(self, turn: int) -> Kept:
        """What a batch is read into, by its number, as soon as the GPU has done with the batch that it held."""
        if (used := self._used[turn % 2]) is not None:
            used.synchronize()
        return self._read[turn % 2]

    def worked_on(self, turn: int) -> None:
        """All work on a batch has been asked for: on a GPU, its memory is free when that is done."""
        if torch.cuda.is_initialized():
            event = torch.cuda.Event()
            event.record()
            self._used[turn % 2] = event

    def moved(self, name: str, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Stored features on a device, in their own type or in the one that is computed in.

        On a CPU few are converted at once, in the memory that is kept under the name: many would leave its cache before
        they are read, and are converted as they are read, as on a GPU (``models/stored_attention.py``).
        """
        if device.type != "cpu":
            return tensor.to(device, non_blocking=True)
        if tensor.dtype == dtype or tensor.numel() * dtype.itemsize > _FEW_BYTES:
            return tensor
        return self._converted(name, tuple(tensor.shape), dtype).copy_(tensor)


def taken_ahead(asked: Iterable[tuple[RowReader, Any]], buffers: Buffers) -> Generator[Taken, None, None]:
    """The batches that are asked for, each of a reader by its row ids; the next is read while one is worked on.

    A batch is good until the next is asked for.
    """

    def taken(turn: int, rows: RowReader, row_ids: Any) -> Batch:
        return rows.take(row_ids, buffers.memory(turn))

    with ThreadPoolExecutor(1) as reader:
        begun = ((turn, ids, reader.submit(taken, turn, rows, ids)) for turn, (rows, ids) in enumerate(asked))
        ahead = next(begun, None)
        while ahead is not None:
            started = time.perf_counter()
            turn, row_ids, batch = ahead[0], ahead[1], ahead[2].result()
            waited, ahead = time.perf_counter() - started, next(begun, None)
            try:
                yield Taken(row_ids, batch, waited)
            finally:
                buffers.worked_on(turn)
