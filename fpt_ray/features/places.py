"""Where rows can be read from: groups that are at hand (in memory, or mapped from a file), or a store's own shards."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Int

from fpt_ray.features.joining import Features
from fpt_ray.features.rows import Found, Group, group_of
from fpt_ray.features.shards import HASH, damage_as_error, open_shard
from fpt_ray.features.spec import Slice, columns_of

_THREADS = 8
"""Row groups that are read at once: on S3, requests."""
_OPEN_SHARDS = 32
_KEPT_BYTES = 256 * 2**20
"""Of row groups that a stream holds, for rows that lie beside each other."""


@dataclass(slots=True)
class _Shard:
    """A shard's file, which one thread at a time opens or reads; on S3 opening takes requests of its own."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    file: pq.ParquetFile | None = None


class GroupsAtHand:
    """Groups of some rows of each shard: in Ray's shared memory, or mapped from the host's disk."""

    def __init__(self, groups: Mapping[int, tuple[Int[np.ndarray, " rows"], Group]]) -> None:
        self.held = groups
        """{shard: (which of its rows, rising; these rows)}."""

    def groups(self, shards: np.ndarray, rows: np.ndarray) -> list[Found]:
        """The groups of these rows, which are their shards'."""
        found = []
        for shard in np.unique(shards).tolist():
            at = np.flatnonzero(shards == shard)
            held, group = self.held[shard]
            found.append(Found(group, at, np.searchsorted(held, rows[at])))
        return found


class ShardFiles:
    """A store's shards, read a row group at a time, several at once; files that are not being read are closed."""

    def __init__(self, features: Features, cut: Slice) -> None:
        self.features, self.cut = features, cut
        self.columns = [HASH, *columns_of(features.spec, cut)]
        self.open: OrderedDict[int, _Shard] = OrderedDict()
        self.kept: OrderedDict[tuple[int, int], Group] = OrderedDict()
        self.kept_bytes = 0
        self.lock = threading.Lock()

    def groups(self, shards: np.ndarray, rows: np.ndarray) -> list[Found]:
        """The row groups of these rows.

        Raises:
            StoreError: a shard is damaged, missing or not of this store.
            StorageError: S3 fails.
        """
        sizes = np.array([self.features.shards[shard].group_rows for shard in shards.tolist()], np.int64)
        keys, which = np.unique(np.stack([shards, rows // sizes], axis=1), axis=0, return_inverse=True)
        read = self._read({(shard, number) for shard, number in keys.tolist()})
        found = []
        for number, key in enumerate(keys.tolist()):
            at = np.flatnonzero(which == number)
            found.append(Found(read[tuple(key)], at, rows[at] % sizes[at]))
        return found

    def _read(self, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], Group]:
        found = {key: self.kept[key] for key in wanted if key in self.kept}
        todo: Sequence[tuple[int, int]] = sorted(wanted - set(found))
        if len(todo) > 1:
            with ThreadPoolExecutor(_THREADS) as pool:
                found |= zip(todo, pool.map(self._read_group, todo), strict=True)
        else:
            found |= {key: self._read_group(key) for key in todo}
        for key in todo:
            self.kept[key] = found[key]
            self.kept_bytes += _group_bytes(found[key])
        while self.kept_bytes > _KEPT_BYTES:
            self.kept_bytes -= _group_bytes(self.kept.popitem(last=False)[1])
        return found

    def _read_group(self, key: tuple[int, int]) -> Group:
        shard, number = key
        uri = self.features.shard_uri(shard)
        one = self._shard(shard)
        with one.lock, damage_as_error(uri):
            one.file = one.file or open_shard(uri, self.features.spec)
            table = one.file.read_row_group(number, columns=self.columns, use_threads=False)
        return group_of(table, self.features.spec, self.cut)

    def _shard(self, number: int) -> "_Shard":
        with self.lock:
            one = self.open.setdefault(number, _Shard())
            self.open.move_to_end(number)
            while len(self.open) > _OPEN_SHARDS:
                self.open.popitem(last=False)
            return one


def _group_bytes(group: Group) -> int:
    return sum(cells.nbytes for cells in group.values())


def read_shard_rows(
    uri: str, features: Features, cut: Slice, wanted: Int[np.ndarray, " rows"]
) -> tuple[Int[np.ndarray, " rows"], Group]:
    """Some rows of a shard, rising, at a slice; only the row groups in which they lie are read.

    Raises:
        StoreError: the shard is damaged, missing or not of this store.
        StorageError: S3 fails.
    """
    with damage_as_error(uri):
        file = open_shard(uri, features.spec)
        size = file.metadata.row_group(0).num_rows
        numbers = np.unique(wanted // size)
        table = file.read_row_groups(numbers.tolist(), columns=[HASH, *columns_of(features.spec, cut)])
    first = np.searchsorted(numbers, wanted // size)
    return wanted, group_of(table, features.spec, cut, first * size + wanted % size)
