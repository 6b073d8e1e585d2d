"""A study's images in a store: where the row of every image lies, joined by content hash.

The image table belongs to the study, with labels and splits; the store knows neither. Rows of a split stand in the
order of their content hashes, so that their order, and every number, depends on the table alone.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int, UInt8

from fpt_ray.config.tasks import Target, Task
from fpt_ray.features.shards import ShardEntry
from fpt_ray.features.spec import Slice, StoreError, StoreSpec, column_widths, columns_of
from fpt_ray.features.store import Store, empty_store, read_index
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.folds import fold_note
from fpt_ray.images.labels import Values
from fpt_ray.images.table import ImageTable


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SplitRows:
    """The rows of a split, by number: which image each is, what it is labelled, and where it lies in the store."""

    hashes: UInt8[np.ndarray, "rows 32"]
    labels: Values
    """Class numbers; rows of 0, 1 and NaN; or numbers."""
    shards: Int[np.ndarray, " rows"]
    """Numbers of the shards."""
    rows: Int[np.ndarray, " rows"]
    """Rows within the shards."""
    weights: Float32[np.ndarray, " rows"] | None = None
    """How much each image counts in training; None: all alike."""
    num_groups: int | None = None
    """How many groups, such as patients, the images are of; None: the table has none."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Features:
    """The stored features of a table's images."""

    uri: str
    """Of the store."""
    spec: StoreSpec
    shards: tuple[ShardEntry, ...]
    classes: tuple[str, ...]
    splits: Mapping[str, SplitRows]
    table_digest: str
    data_note: str
    skipped: tuple[tuple[str, str], ...]
    fold: str = ""
    """Which fold of training and validation images validates; empty where there are none."""
    task: Task = "multiclass"

    @property
    def target(self) -> Target:
        """What is to be learnt of the images."""
        return Target(task=self.task, classes=self.classes)

    @property
    def is_made(self) -> bool:
        """Whether they are stored; those that are ``planned`` can be costed and identified, and not be read."""
        return bool(self.shards)

    def __len__(self) -> int:
        return sum(map(len, self.splits.values()))

    def num_rows(self, split: str) -> int:
        """Images of a split."""
        return len(self.splits[split])

    def shard_uri(self, shard: int) -> str:
        """The file of a shard, by its number."""
        return f"{self.uri}/{self.shards[shard].path}"

    @property
    def preload_seconds(self) -> float:
        """Seconds that the LPM and the writing took for the table's images, over all actors."""
        return sum(self.shards[shard].seconds / self.shards[shard].rows * rows for shard, rows in self._shares())

    def rows_by_shard(self, splits: Sequence[str]) -> dict[int, Int[np.ndarray, " rows"]]:
        """{shard: which of its rows these splits have, rising}."""
        shards, rows = (
            np.concatenate([getattr(self.splits[split], name) for split in splits]) for name in ("shards", "rows")
        )
        order = np.lexsort((rows, shards))
        numbers, starts = np.unique(shards[order], return_index=True)
        parts = np.split(rows[order], starts[1:])
        return {shard: np.unique(part) for shard, part in zip(numbers.tolist(), parts, strict=True)}

    def _shares(self) -> list[tuple[int, int]]:
        """(shard, images of the table in it)."""
        found = np.concatenate([rows.shards for rows in self.splits.values()])
        return [(int(shard), int(rows)) for shard, rows in zip(*np.unique(found, return_counts=True), strict=True)]

    def slice_bytes(self, cut: Slice, splits: Sequence[str]) -> int:
        """Bytes of what a slice reads of these splits."""
        return row_bytes(self.spec, cut) * sum(self.num_rows(split) for split in splits)


def features_text(features: Features) -> str:
    """What features they are, and of which images, as JSON."""
    return json.dumps(
        {
            "uri": features.uri,
            "spec": dataclasses.asdict(features.spec),
            "images": features.table_digest,
            "task": features.task,
            "classes": features.classes,
            "rows": {split: len(rows) for split, rows in features.splits.items()},
            "skipped": features.skipped,
        },
        indent=1,
    )


def row_bytes(spec: StoreSpec, cut: Slice) -> int:
    """Bytes that a slice reads of one image."""
    widths = column_widths(spec)
    return sum(widths[column] for column in columns_of(spec, cut))


def missing(table: ImageTable, store: Store) -> Int[np.ndarray, " rows"]:
    """The numbers of the table's rows whose images are not in the store."""
    return np.flatnonzero(read_index(store).find(table.hashes()) < 0)


def join(store: Store, table: ImageTable) -> Features:
    """The features of a table's images in a store that holds all of them.

    Raises:
        StoreError: some are not there.
    """
    index = read_index(store)
    at = index.find(table.hashes())
    if (absent := np.flatnonzero(at < 0)).size:
        raise StoreError(
            f"{store.uri} lacks {len(absent)} of {len(table)} images, such as {table.row(absent[0]).path}; preload them"
        )
    return _joined(store, table, index.shards[at], index.rows[at])


def planned(uri: str, spec: StoreSpec, table: ImageTable) -> Features:
    """The features of a table's images in a store that is not made yet: nothing of them can be read."""
    nowhere = np.full(len(table), -1)
    return _joined(empty_store(uri, spec), table, nowhere, nowhere)


def _joined(store: Store, table: ImageTable, shards: np.ndarray, rows: np.ndarray) -> Features:
    """``shards`` and ``rows`` say where each image of the table lies."""
    order = table.by_hash()
    return Features(
        uri=store.uri,
        spec=store.spec,
        shards=store.shards,
        classes=table.classes,
        splits={
            split: _split_rows(table, order[table.splits[order] == number], shards, rows)
            for number, split in enumerate(SPLITS)
        },
        table_digest=table.digest(),
        data_note=_note(table),
        skipped=table.skipped,
        fold=table.fold,
        task=table.task,
    )


def _note(table: ImageTable) -> str:
    """What must be said wherever numbers stand: the images' own note, and by which fold they were validated."""
    if not table.fold:
        return table.note
    own = table.note.strip().rstrip(".")
    return f"{own}; {fold_note(table.fold)}" if own else fold_note(table.fold)


def _split_rows(table: ImageTable, inside: Int[np.ndarray, " _"], shards: np.ndarray, rows: np.ndarray) -> SplitRows:
    return SplitRows(
        hashes=table.hashes()[inside],
        labels=table.labels[inside],
        shards=shards[inside].astype(np.int64),
        rows=rows[inside].astype(np.int64),
        weights=None if table.weights is None else table.weights[inside],
        num_groups=None if table.groups is None else len(np.unique(table.groups.indices.to_numpy()[inside])),
    )
