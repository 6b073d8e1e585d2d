"""Rows that lie on the device where the network is trained: read once, then a batch is a selection there."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fpt_ray.features.rows import IMAGE_AXES, Batch, Memory, Rows, fresh_memory

_AT_ONCE = 64
"""Rows that are brought to the device together."""


class RowsOnDevice:
    """A split, or a worker's share of it, as one trial reads it, whole on its device."""

    def __init__(self, rows: Rows, device: torch.device) -> None:
        self.row_ids, self.labels, self.weights = rows.row_ids, rows.labels, rows.weights
        self._kinds: dict[str, Tensor | None] = {}
        for first in range(0, len(rows), _AT_ONCE):
            self._fill(rows, first, device)
        self.device_bytes = sum(whole.nbytes for whole in self._kinds.values() if whole is not None)

    def _fill(self, rows: Rows, first: int, device: torch.device) -> None:
        ids = rows.row_ids[first : first + _AT_ONCE]
        batch = rows.take(ids)
        for name, axis in IMAGE_AXES.items():
            part: Tensor | None = getattr(batch, name)
            if part is None:
                self._kinds[name] = None
                continue
            if name not in self._kinds:
                shape = [len(rows) if at == axis else size for at, size in enumerate(part.shape)]
                self._kinds[name] = torch.empty(shape, dtype=part.dtype, device=device)
            whole = self._kinds[name]
            assert whole is not None
            whole.narrow(axis, first, len(ids)).copy_(part)

    def __len__(self) -> int:
        return len(self.row_ids)

    def take(self, row_ids: Int[np.ndarray, "B"], memory: Memory = fresh_memory) -> Batch:
        """A copy of these rows on the device, where they are."""
        del memory  # the host's
        at = torch.from_numpy(np.searchsorted(self.row_ids, np.asarray(row_ids, np.int64)))
        labels = torch.from_numpy(self.labels)[at]
        weights = None if self.weights is None else torch.from_numpy(self.weights)[at]
        found = {
            name: None if whole is None else whole.index_select(IMAGE_AXES[name], at.to(whole.device))
            for name, whole in self._kinds.items()
        }
        return Batch(**found, labels=labels, weights=weights)
