"""Where every image of a store lies, by content hash; so a store is opened without looking at its shards."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, UInt8

from fpt_ray.features.shards import HASH, damage_as_error, hash_array
from fpt_ray.features.spec import StoreError
from fpt_ray.storage.files import read_bytes, write_once

_SCHEMA = pa.schema([pa.field(HASH, pa.binary(32)), pa.field("shard", pa.int32()), pa.field("row", pa.int32())])


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexEntry:
    """One file of the index, as a manifest lists it."""

    path: str
    rows: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Index:
    """Where every image of a store lies; sorted by content hash."""

    hashes: UInt8[np.ndarray, "rows 32"]
    shards: Int[np.ndarray, " rows"]
    rows: Int[np.ndarray, " rows"]

    def in_order(self) -> "Index":
        """Sorted by content hash; of an image that lies in several places, the first counts."""
        known = _sortable(self.hashes)
        if (known[:-1] < known[1:]).all():
            return self
        _, at = np.unique(known, return_index=True)
        return Index(hashes=self.hashes[at], shards=self.shards[at], rows=self.rows[at])

    def find(self, hashes: UInt8[np.ndarray, "wanted 32"]) -> Int[np.ndarray, " wanted"]:
        """The place of each in this index; -1 where it has none."""
        known, wanted = _sortable(self.hashes), _sortable(hashes)
        if not len(known):
            return np.full(len(wanted), -1, np.int64)
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[at] == wanted, at, -1)

    def beside(self, known: "Index") -> "Index":
        """The images that another index does not know."""
        fresh = known.find(self.hashes) < 0
        return Index(hashes=self.hashes[fresh], shards=self.shards[fresh], rows=self.rows[fresh])

    def with_other(self, other: "Index") -> "Index":
        """The images of both, in order; of one that both know, the place in this one."""
        pairs = ((self.hashes, other.hashes), (self.shards, other.shards), (self.rows, other.rows))
        hashes, shards, rows = (np.concatenate(pair) for pair in pairs)
        return Index(hashes=hashes, shards=shards, rows=rows).in_order()


def _sortable(hashes: UInt8[np.ndarray, "rows 32"]) -> np.ndarray:
    """Texts of 32 bytes, which NumPy can sort."""
    return np.ascontiguousarray(hashes).view("S32").reshape(-1)


def read_index_files(uri: str, entries: Sequence[IndexEntry]) -> Index:
    """The index of a store, from its files.

    Raises:
        StoreError: one is damaged.
    """
    tables = [_read_file(f"{uri}/{entry.path}", entry) for entry in entries]
    whole = pa.concat_tables(tables) if tables else _SCHEMA.empty_table()
    hashes, shards, rows = hash_array(whole[HASH]), whole["shard"].to_numpy(), whole["row"].to_numpy()
    return Index(hashes=hashes, shards=shards, rows=rows).in_order()


def _read_file(path: str, entry: IndexEntry) -> pa.Table:
    with damage_as_error(path):
        content = read_bytes(path)
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise StoreError(f"{path} was changed since it was written; delete the store and preload again")
    with damage_as_error(path), pq.ParquetFile(pa.BufferReader(content)) as file:
        if file.schema_arrow.remove_metadata() != _SCHEMA:
            raise StoreError(f"{path} has other columns than an index; delete the store and preload again")
        return file.read()


def write_index_file(uri: str, generation: int, index: Index) -> IndexEntry:
    """Writes what a generation adds to a store's index, once.

    Raises:
        OSError, StorageError: it cannot be written.
    """
    hashes = pa.Array.from_buffers(pa.binary(32), len(index.hashes), [None, pa.py_buffer(index.hashes.tobytes())])
    columns = [hashes, pa.array(index.shards, pa.int32()), pa.array(index.rows, pa.int32())]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA), sink, compression="none", use_dictionary=False)
    digest = hashlib.sha256(sink.getvalue()).hexdigest()
    path = f"index/{generation:05d}-{digest[:16]}.parquet"
    write_once(f"{uri}/{path}", sink.getvalue())
    return IndexEntry(path=path, rows=len(index.hashes), sha256=digest)
