"""Rows of several trials that train as one model and read other blocks of the LPM: each finds its own."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fpt_ray.features.rows import IMAGE_AXES, Batch, Memory, RowReader, fresh_memory


class RowsOfEach:
    """A split as G networks read it, all of the same images and as many numbers of each."""

    def __init__(self, readers: Sequence[RowReader]) -> None:
        self.readers = readers
        """Of each network; some may be the same."""
        first = readers[0]
        self.row_ids, self.labels = first.row_ids, first.labels
        self.device_bytes = sum(one.device_bytes for one in {id(one): one for one in readers}.values())

    def __len__(self) -> int:
        return len(self.row_ids)

    def take(self, row_ids: Int[np.ndarray, " asked"], memory: Memory = fresh_memory) -> Batch:
        """The rows that the networks ask for, as many each, one network's after the other's."""
        asked, shared = np.split(np.asarray(row_ids, np.int64), len(self.readers)), _Shared(memory, len(self.readers))
        parts = [one.take(own, shared.part(at)) for at, (one, own) in enumerate(zip(self.readers, asked, strict=True))]
        whole = {name: _joined(name, parts, shared) for name in (*IMAGE_AXES, "weights")}
        return Batch(**whole, labels=torch.cat([part.labels for part in parts]))


class _Shared:
    """Memory for the parts of all networks, of which each is given its own."""

    def __init__(self, memory: Memory, count: int) -> None:
        self.memory, self.count = memory, count
        self.given: dict[str, Tensor] = {}

    def part(self, at: int) -> Memory:
        """What a network reads into."""

        def given(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            axis = IMAGE_AXES[name]
            if name not in self.given:
                whole = (*shape[:axis], shape[axis] * self.count, *shape[axis + 1 :])
                self.given[name] = self.memory(name, whole, dtype)
            return self.given[name].narrow(axis, at * shape[axis], shape[axis])

        return given


def _joined(name: str, parts: Sequence[Batch], shared: _Shared) -> Tensor | None:
    """What was read into memory that is shared; what lies on a device, or is small, is put together."""
    if name in shared.given:
        return shared.given[name]
    found = [getattr(part, name) for part in parts]
    return None if found[0] is None else torch.cat(found, dim=IMAGE_AXES.get(name, 0))
