"""The rows of a split as training reads them: views of Arrow tables in memory, or row groups read from files.

Both give the same batches bit for bit. Cells are raw bytes; ``take`` copies only what is asked for, layer first.
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from fpt_ray.features.shards import check_rows, check_schema, damage_as_error, open_shard
from fpt_ray.features.spec import Slice, StoreError, StoreSpec, column_widths, feature_columns
from fpt_ray.features.store import Store
from fpt_ray.images.pixels import resize

_NUMPY = {"float16": np.float16, "bfloat16": np.int16, "float32": np.float32}
_KEPT_GROUPS = 4
"""Row groups a streaming reader holds; also the window in which their rows are shuffled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Some images; keys and values are L B H T E in the stored type, or None for a side network alone."""

    low_res: Tensor
    keys: Tensor | None
    values: Tensor | None
    labels: Tensor


class RowGroup:
    """Neighbouring rows in memory: each column of raw bytes as a zero-copy view [rows, bytes]."""

    def __init__(self, table: pa.Table | pa.RecordBatch, widths: dict[str, int]) -> None:
        self.row_ids = table.column("row").to_numpy()
        self.labels = table.column("label").to_numpy()
        self.cells = {name: _view(table.column(name), widths[name]) for name in table.schema.names if name in widths}


def _view(column: pa.Array | pa.ChunkedArray, width: int) -> UInt8[np.ndarray, "rows bytes"]:
    if isinstance(column, pa.ChunkedArray):
        (column,) = column.chunks  # row groups are made of single record batches
    if column.type != pa.binary(width) or column.null_count:
        raise StoreError(f"a column is {column.type} with {column.null_count} gaps, not {width} bytes; preload again")
    raw = np.frombuffer(column.buffers()[1], np.uint8)
    return raw[column.offset * width : (column.offset + len(column)) * width].reshape(len(column), width)


class Rows:
    """A split, or a worker's share of it, at the depth, ratio and side resolution of one trial."""

    def __init__(self, source: "MemorySource | FileSource", spec: StoreSpec, cut: Slice, resolution: int) -> None:
        if cut.depth > spec.depth or cut.num_kept > spec.num_kept:
            raise StoreError(f"{cut} is wider than the store's {spec.depth} layers and {spec.num_kept} tokens")
        self.source, self.spec, self.cut, self.resolution = source, spec, cut, resolution
        self.columns = feature_columns(spec, cut)
        self.row_ids = np.array(sorted(source.labels), np.int64)
        self.labels = np.array([source.labels[int(row)] for row in self.row_ids], np.int64)
        self.window = source.window
        """Rows that are best shuffled together, for a reader that streams; None where all are at hand."""

    def __len__(self) -> int:
        return len(self.row_ids)

    def within(self, share: range) -> "Rows":
        """Those of these rows that lie in a worker's share, from the same source."""
        inside = (self.row_ids >= share.start) & (self.row_ids < share.stop)
        part = copy.copy(self)
        part.row_ids, part.labels = self.row_ids[inside], self.labels[inside]
        return part

    def take(self, row_ids: Sequence[int] | Int[np.ndarray, "B"]) -> Batch:
        """A copy of these rows."""
        found = [self.source.find(int(row_id)) for row_id in row_ids]
        labels = torch.tensor([int(group.labels[at]) for group, at in found])
        low_res = torch.from_numpy(np.stack([self._low_res(group, at) for group, at in found]))
        if not self.cut.depth:
            return Batch(low_res=low_res, keys=None, values=None, labels=labels)
        spec, kept = self.spec, self.cut.num_kept
        shape = (self.cut.depth, len(found), spec.num_heads, kept, spec.head_width)
        arrays = {kind: np.empty(shape, _NUMPY[spec.dtype]) for kind in ("keys", "values")}
        first = spec.layers.stop - self.cut.depth
        for column in self.columns:
            ranks = slice(column.ranks.start, min(column.ranks.stop, kept))
            name, out = column.name, arrays[column.kind][column.layer - first]
            for at, (group, row) in enumerate(found):
                cell = group.cells[name][row].view(_NUMPY[spec.dtype])
                cell = cell.reshape(spec.num_heads, len(column.ranks), -1)
                out[at, :, ranks] = cell[:, : ranks.stop - ranks.start]
        keys, values = (_tensor(arrays[kind], spec) for kind in ("keys", "values"))
        return Batch(low_res=low_res, keys=keys, values=values, labels=labels)

    def _low_res(self, group: RowGroup, at: int) -> UInt8[np.ndarray, "R R 3"]:
        size = self.spec.low_resolution
        image = group.cells["low_res"][at].reshape(size, size, 3)
        return image if size == self.resolution else resize(image, self.resolution)


def _tensor(array: np.ndarray, spec: StoreSpec) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if spec.dtype == "bfloat16" else tensor


class MemorySource:
    """Rows in memory."""

    window = None

    def __init__(self, tables: Sequence[pa.Table], widths: dict[str, int]) -> None:
        groups = [RowGroup(batch, widths) for table in tables for batch in table.to_batches()]
        self.places = {int(row): (group, at) for group in groups for at, row in enumerate(group.row_ids)}
        self.labels = {row: int(group.labels[at]) for row, (group, at) in self.places.items()}

    def find(self, row_id: int) -> tuple[RowGroup, int]:
        """A row's group and its place there."""
        return self.places[row_id]


class FileSource:
    """Rows read from files, a few row groups held at a time."""

    def __init__(self, store: Store, split: str, columns: list[str]) -> None:
        self.columns, self.widths = columns, column_widths(store.spec)
        self.uris = store.shard_uris(split)
        self.files = [open_shard(uri) for uri in self.uris]
        self.held: OrderedDict[tuple[int, int], RowGroup] = OrderedDict()
        self.places: dict[int, tuple[int, int, int]] = {}
        self.labels: dict[int, int] = {}
        for number, (file, uri, rows) in enumerate(zip(self.files, self.uris, store.row_ranges(split), strict=True)):
            check_schema(file.schema_arrow, store.spec, uri)
            with damage_as_error(uri):
                names = file.read(columns=["row", "label"])
            check_rows(names["row"].to_pylist(), rows, uri)
            self.labels |= dict(zip(rows, names["label"].to_pylist(), strict=True))
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            places = [(number, group, at) for group, size in enumerate(sizes) for at in range(size)]
            self.places |= dict(zip(rows, places, strict=True))
        self.window = _KEPT_GROUPS * max((file.metadata.row_group(0).num_rows for file in self.files), default=1)

    def find(self, row_id: int) -> tuple[RowGroup, int]:
        """A row's group and its place there."""
        number, group, at = self.places[row_id]
        return self._group(number, group), at

    def _group(self, number: int, group: int) -> RowGroup:
        key = (number, group)
        if key in self.held:
            self.held.move_to_end(key)
            return self.held[key]
        with damage_as_error(self.uris[number]):
            table = self.files[number].read_row_group(group, columns=self.columns)
        (batch,) = table.combine_chunks().to_batches()
        self.held[key] = RowGroup(batch, self.widths)
        # One more than the window spans, since it need not begin with a row group.
        while len(self.held) > _KEPT_GROUPS + 2:
            self.held.popitem(last=False)
        return self.held[key]


def rows_from_tables(tables: Sequence[pa.Table], spec: StoreSpec, cut: Slice, resolution: int) -> Rows:
    """Rows in memory, as views of Arrow's buffers: nothing is copied until ``take``. Any part of a split will do."""
    return Rows(MemorySource(tables, column_widths(spec)), spec, cut, resolution)


def rows_from_files(store: Store, split: str, cut: Slice, resolution: int) -> Rows:
    """Rows read from the store's files on demand, a few row groups held at a time.

    Raises:
        StoreError: a shard is damaged or not of this store.
    """
    return Rows(FileSource(store, split, store.columns(cut)), store.spec, cut, resolution)
