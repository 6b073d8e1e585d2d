"""The rows of a split as training reads them. Every place they are read from gives the same batches bit for bit.

A place finds rows in a ``Group``: neighbouring rows of a shard with keys and values as H T E arrays. ``Rows.take``
copies what is asked for, layer first, into the batch: once, and into memory that the caller may keep.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int
from torch import Tensor

from fpt_ray.features.joining import Features
from fpt_ray.features.shards import HASH, cell_view
from fpt_ray.features.spec import (
    SUMMARIES,
    Slice,
    StoreError,
    StoreSpec,
    column_widths,
    columns_of,
    everything,
    feature_columns,
    image_column,
)

NUMPY = {"float16": np.float16, "bfloat16": np.int16, "float32": np.float32}
"""Stored types; NumPy has no bfloat16, so that its bytes travel as whole numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Some images; keys and values are L B H T E in the stored type, or None for a side network alone.

    Images are B R R 3, or None for a probe; class tokens and mean patch tokens B M 2 D, for those that read them.
    """

    low_res: Tensor | None
    keys: Tensor | None
    values: Tensor | None
    labels: Tensor
    summaries: Tensor | None = None
    weights: Tensor | None = None
    """How much each image counts in training, on the host as labels are; None: all alike."""


IMAGE_AXES = {"low_res": 0, "keys": 1, "values": 1, "summaries": 0}
"""Which axis of a part of a batch counts images; of all others it is the first."""
Memory = Callable[[str, tuple[int, ...], torch.dtype], Tensor]
"""Gives a tensor on the host, of a shape and type, for a part of a batch, by the name that it has there."""


def fresh_memory(_part: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory that nobody has used."""
    return torch.empty(shape, dtype=dtype)


Group = Mapping[str, np.ndarray]
"""Neighbouring rows: ``low_res_0128`` is [rows, 128, 128, 3], ``keys_06`` [rows, H, T, E], and so for each block."""


class Found(NamedTuple):
    """Rows that lie in one group."""

    group: Group
    at: Int[np.ndarray, " found"]
    """Which of the rows that were asked for they are."""
    rows: Int[np.ndarray, " found"]
    """Their numbers in the group."""


def group_parts(cut: Slice) -> list[str]:
    """The names in a group at a slice."""
    features = [f"{kind}_{block:02d}" for kind in ("keys", "values") for block in cut.blocks]
    return [HASH, *map(image_column, cut.low_resolutions), *([SUMMARIES] if cut.summaries else []), *features]


def group_of(table: pa.Table | pa.RecordBatch, spec: StoreSpec, cut: Slice, wanted: np.ndarray | None = None) -> Group:
    """Rows of a table of a shard's columns, at a slice: all, or those wanted. Bands are put together."""
    widths, at = column_widths(spec), slice(None) if wanted is None else wanted
    cells = {name: _cells(table, name, widths[name])[at] for name in columns_of(spec, cut)}
    hashes = _cells(table, HASH, 32)[at]
    names = {size: image_column(size) for size in cut.low_resolutions}
    group = {HASH: hashes, **{name: cells[name].reshape(-1, size, size, 3) for size, name in names.items()}}
    rows = len(hashes)
    if cut.summaries:
        shape = (rows, spec.backbone_depth, 2, spec.width)
        group[SUMMARIES] = cells[SUMMARIES].view(NUMPY[spec.dtype]).reshape(shape)
    for kind in ("keys", "values"):
        for block in cut.blocks:
            shape = (rows, spec.num_heads, cut.num_kept, spec.head_width)
            group[f"{kind}_{block:02d}"] = np.empty(shape, NUMPY[spec.dtype])
    for column in feature_columns(spec, cut):
        stop = min(column.ranks.stop, cut.num_kept)
        band = cells[column.name].view(NUMPY[spec.dtype])
        band = band.reshape(len(band), spec.num_heads, len(column.ranks), spec.head_width)
        whole = group[f"{column.kind}_{column.block:02d}"]
        whole[:, :, column.ranks.start : stop] = band[:, :, : stop - column.ranks.start]
    return group


def _cells(table: pa.Table | pa.RecordBatch, name: str, width: int) -> np.ndarray:
    column = table.column(name)
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    views = [cell_view(chunk, width) for chunk in chunks]
    return views[0] if len(views) == 1 else np.concatenate([np.zeros((0, width), np.uint8), *views])


@runtime_checkable
class Place(Protocol):
    """Where rows are read from, at a slice at least as wide as a trial's."""

    def groups(self, shards: Int[np.ndarray, " wanted"], rows: Int[np.ndarray, " wanted"]) -> Sequence[Found]:
        """These rows of shards, each in one of the groups."""
        ...


@runtime_checkable
class RowReader(Protocol):
    """Reads the rows of a split, or of one worker's share of it; ``Rows`` is one."""

    row_ids: np.ndarray
    labels: np.ndarray
    device_bytes: int
    """What it holds on the GPU."""

    def __len__(self) -> int: ...

    def take(self, row_ids: Any, memory: Memory = fresh_memory) -> Batch:
        """The rows of these numbers, in this order, in this memory or in what it holds on the GPU."""
        ...


class Rows:
    """A split, or a worker's share of it, as one trial reads it."""

    device_bytes = 0
    """On the GPU there is nothing of it."""

    def __init__(self, place: Place, features: Features, split: str, cut: Slice) -> None:
        check_serves(features.spec, cut)
        self.place, self.features, self.spec, self.cut = place, features, features.spec, cut
        self.split = features.splits[split]
        self.row_ids = np.arange(len(self.split))
        self.labels, self.weights = self.split.labels, self.split.weights

    def __len__(self) -> int:
        return len(self.row_ids)

    def within(self, share: range) -> "Rows":
        """Those of these rows that lie in a worker's share, from the same place."""
        inside = (self.row_ids >= share.start) & (self.row_ids < share.stop)
        part = copy.copy(self)
        part.row_ids, part.labels = self.row_ids[inside], self.labels[inside]
        part.weights = None if self.weights is None else self.weights[inside]
        return part

    def take(self, row_ids: Sequence[int] | Int[np.ndarray, "B"], memory: Memory = fresh_memory) -> Batch:
        """A copy of these rows, in this memory.

        Raises:
            StoreError: a shard is damaged, missing, not of this store, or holds other images than the index says.
            OSError, StorageError: it cannot be read.
        """
        ids = np.asarray(row_ids, np.int64)
        labels = torch.from_numpy(self.split.labels[ids])
        weights = None if self.split.weights is None else torch.from_numpy(self.split.weights[ids])
        found = self.place.groups(self.split.shards[ids], self.split.rows[ids])
        self._check_images(ids, found)
        keys, values = (self._layers(kind, found, len(ids), memory) for kind in ("keys", "values"))
        return Batch(
            low_res=self._images(found, len(ids), memory),
            keys=keys,
            values=values,
            labels=labels,
            summaries=self._summaries(found, len(ids), memory),
            weights=weights,
        )

    def _check_images(self, ids: np.ndarray, found: Sequence[Found]) -> None:
        for group, at, rows in found:
            wrong = (group[HASH][rows] != self.split.hashes[ids[at]]).any(axis=1)
            if wrong.any():
                uri = self.features.shard_uri(int(self.split.shards[ids[at[wrong.argmax()]]]))
                raise StoreError(
                    f"{uri} holds other images than the index says; put the right file back, or delete the store and "
                    "preload again"
                )

    def _images(self, found: Sequence[Found], num_rows: int, memory: Memory) -> Tensor | None:
        if not self.cut.low_resolutions:
            return None
        (size,) = self.cut.low_resolutions
        tensor = memory("low_res", (num_rows, size, size, 3), torch.uint8)
        _fill(tensor, found, image_column(size))
        return tensor

    def _summaries(self, found: Sequence[Found], num_rows: int, memory: Memory) -> Tensor | None:
        if not self.cut.summaries:
            return None
        shape = (num_rows, self.spec.backbone_depth, 2, self.spec.width)
        tensor = memory(SUMMARIES, shape, getattr(torch, self.spec.dtype))
        _fill(tensor, found, SUMMARIES)
        return tensor

    def _layers(self, kind: str, found: Sequence[Found], num_rows: int, memory: Memory) -> Tensor | None:
        if not self.cut.blocks:
            return None
        spec, kept = self.spec, self.cut.num_kept
        shape = (len(self.cut.blocks), num_rows, spec.num_heads, kept, spec.head_width)
        tensor = memory(kind, shape, getattr(torch, spec.dtype))
        for layer, block in zip(tensor, self.cut.blocks, strict=True):
            _fill(layer, found, f"{kind}_{block:02d}", np.s_[:, :, :kept])
        return tensor


def _fill(tensor: Tensor, found: Sequence[Found], name: str, part: tuple[slice, ...] = ()) -> None:
    """Copies a part of rows' cells, each once and whole: chosen by an array of numbers, they would be copied twice."""
    whole = _as_numpy(tensor)
    for group, at, rows in found:
        cells = group[name][part]
        for to, row in zip(at.tolist(), rows.tolist(), strict=True):
            whole[to] = cells[row]


def _as_numpy(tensor: Tensor) -> np.ndarray:
    """Its memory; of bfloat16, as whole numbers."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def check_serves(spec: StoreSpec, cut: Slice) -> None:
    """StoreError unless a store holds all of a slice."""
    whole = everything(spec)
    if whole.with_other(cut) != whole:
        raise StoreError(f"{cut} is asked of a store that holds {whole}; preload a wider one")
