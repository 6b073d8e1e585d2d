"""A folder or a table of images becomes one image table: columns of paths, labels and splits, checked at the door."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float32, Int, Int8, UInt8

from fpt_ray.config.tasks import ImagesOptions, Target, Task
from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import FOLD_KEY, LABEL_PREFIX, NOTE_KEY, SPLITS, TASK_KEY, as_hex
from fpt_ray.images.digest import digest_of, order_by_hash
from fpt_ray.images.folds import fold_of, undivided
from fpt_ray.images.labels import CLASS_TASKS, Values, read_labels
from fpt_ray.images.notes import NOTE_FILE, both, first_line
from fpt_ray.images.sources import IMAGE_SUFFIXES, find_images
from fpt_ray.storage.files import absolute, write


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRow:
    """One image, of the few that are at hand."""

    path: str
    """Relative to the table's root, with forward slashes."""
    label: Any
    """Index into the table's classes; of several labels a tuple of 0, 1 and NaN; of regression the number."""
    split: str
    """Empty until the image was inspected, where the source gives none."""
    group: str = ""
    """What must stay within one split, such as a patient; empty where the source gives none."""
    sha256: str = ""
    """Of the file's bytes, in hex; empty until the image was inspected."""
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageTable:
    """The images of a study, column by column. Rows stand by split (train, val, test, none yet), then by path."""

    root: str
    task: Task
    classes: tuple[str, ...]
    """Sorted; by value where all are whole numbers, so that grades stand in their order. Of several labels, those; of
    regression, what the number is called."""
    paths: pa.StringArray
    """Relative to the root, with forward slashes."""
    labels: Values
    splits: Int8[np.ndarray, " rows"]
    """Index into ``SPLITS``; -1 until the images were inspected, where the source gives none."""
    groups: pa.DictionaryArray | None = None
    """What must stay within one split, such as a patient."""
    hashes_: UInt8[np.ndarray, "rows 32"] | None = None
    """SHA-256 of the files' bytes; None until they were inspected."""
    weights: Float32[np.ndarray, " rows"] | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    """(path, reason) of the images that cannot be read."""
    ignored: int = 0
    """Files that were passed over: hidden ones, those without an image's suffix, those outside a class folder."""
    note: str = ""
    """What must be said wherever results on these images are shown: of the table, and of the folder in which it lies
    (see ``notes``)."""
    fold: str = ""
    """Which fold of training and validation images validates, such as ``2 of 5``; empty where there are none."""
    split_seed: int = 0
    """Of the hash that will divide those without a split."""

    def __len__(self) -> int:
        return len(self.paths)

    def __eq__(self, other: object) -> bool:
        names = [field.name for field in dataclasses.fields(self)]
        return isinstance(other, ImageTable) and all(_same(getattr(self, name), getattr(other, name)) for name in names)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @property
    def target(self) -> Target:
        """What is to be learnt of the images."""
        return Target(task=self.task, classes=self.classes)

    @property
    def is_divided(self) -> bool:
        """Whether every image has a split."""
        return bool((self.splits >= 0).all())

    def of(self, split: str) -> Int[np.ndarray, " _"]:
        """The numbers of the rows of one split, in order."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def take(self, indices: Int[np.ndarray, " _"]) -> "ImageTable":
        """The table of these rows."""
        columns: dict[str, Any] = {}
        for name in ("paths", "labels", "splits", "groups", "hashes_", "weights"):
            column = getattr(self, name)
            columns[name] = None if column is None else column.take(indices) if _is_arrow(column) else column[indices]
        return dataclasses.replace(self, **columns)

    def ordered(self) -> "ImageTable":
        """The same rows by split, then by path."""
        last = np.where(self.splits < 0, len(SPLITS), self.splits)
        keys = pa.table({"split": last, "path": self.paths})
        order = pc.sort_indices(keys, [("split", "ascending"), ("path", "ascending")])
        return self.take(order.to_numpy().astype(np.int64))

    def row(self, index: int | np.integer) -> ImageRow:
        """One row as a record."""
        return self.rows_at([index])[0]

    def rows_at(self, indices: Sequence[int | np.integer] | Int[np.ndarray, " _"] | range) -> tuple[ImageRow, ...]:
        """Rows as records, for the few that are at hand."""
        few = self.take(np.asarray(indices, np.int64))
        blank = [""] * len(few)
        return tuple(
            ImageRow(
                path=path,
                label=tuple(label) if isinstance(label, list) else label,
                split=SPLITS[split] if split >= 0 else "",
                group=group,
                sha256=sha256,
                weight=weight,
            )
            for path, label, split, group, sha256, weight in zip(
                few.paths.to_pylist(),
                few.labels.tolist(),
                few.splits.tolist(),
                blank if few.groups is None else few.groups.to_pylist(),
                blank if few.hashes_ is None else as_hex(few.hashes_).to_pylist(),
                [1.0] * len(few) if few.weights is None else few.weights.tolist(),
                strict=True,
            )
        )

    def rows(self) -> tuple[ImageRow, ...]:
        """All rows as records, of a table of few."""
        return self.rows_at(range(len(self)))

    def hashes(self) -> UInt8[np.ndarray, "rows 32"]:
        """The content hashes of all rows, which were inspected."""
        assert self.hashes_ is not None
        return self.hashes_

    def by_hash(self) -> Int[np.ndarray, " rows"]:
        """The numbers of the rows in the order of content hash, label, name of the split and weight."""
        return order_by_hash(self.hashes_, self.labels, self.splits, self.weights)

    def digest(self) -> str:
        """SHA-256 (hex) of what determines numbers: the classes; content, label and split of every image, its weight.

        Names and groups do not count: a group has done its work when the splits are made. The task counts where the
        classes do not say it.
        """
        head = [self.classes] if self.task in ("binary", "multiclass") else [self.classes, self.task]
        at = self.by_hash()
        hashes, weights = (None if one is None else one[at] for one in (self.hashes_, self.weights))
        return digest_of(head, hashes, self.labels[at], self.splits[at], weights)


def content_hashes(rows: Sequence[ImageRow]) -> UInt8[np.ndarray, "rows 32"]:
    """The content hashes of inspected rows, as bytes."""
    return np.frombuffer(bytes.fromhex("".join(row.sha256 for row in rows)), np.uint8).reshape(-1, 32)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    if _is_arrow(one) and _is_arrow(other):
        return one.cast(pa.string()).equals(other.cast(pa.string()))
    return type(one) is type(other) and one == other


def _is_arrow(column: object) -> bool:
    return isinstance(column, pa.Array)


# --- reading and writing ----------------------------------------------------------------------------------------


def read_images(source: str, options: ImagesOptions | None = None) -> ImageTable:
    """The images of a folder or table; no image is opened yet (see ``datasets.checking``).

    Args:
        source: a folder with ``train/``, ``val/`` and ``test/``, each of class folders; or one folder of class folders,
            split once they are inspected (see ``splits``); or a .csv or .parquet file with the columns path, label
            [, split][, group][, weight], whose paths are relative to the file's folder. Local, or s3://bucket/prefix.
            Labels and groups are text or whole numbers; labels of regression are numbers.
        options: what the columns are called, the task, and which fold validates: then training and validation images
            have no split until they are inspected. Default: these names, the task that the labels say, and no folds.

    Raises:
        ConfigError: there are no images, a split or a class in a split is missing, a group stands in several splits,
            a path leaves the root, the labels do not fit the task, a note is not UTF-8, there is no such fold, or a
            seed for given splits.
    """
    options = options or ImagesOptions()
    fold, found = fold_of(options), find_images(source, options)
    columns = found.columns
    if not len(columns.paths):
        raise ConfigError(f"images: {source} holds none; give class folders of {', '.join(IMAGE_SUFFIXES)} files")
    task, classes, values = read_labels(absolute(source), columns.labels, options.task or columns.task)
    if task in CLASS_TASKS and len(classes) < 2:
        problem = f"images: {source} has the classes {classes}; at least two are needed: add images of another"
        raise ConfigError(f"{problem}, or name another column (label=COLUMN)", fields=("columns",))
    nowhere = np.full(len(columns.paths), -1, np.int8)
    table = ImageTable(
        root=found.root,
        task=task,
        classes=classes,
        paths=columns.paths,
        labels=values,
        splits=nowhere if columns.splits is None else columns.splits,
        groups=columns.groups,
        hashes_=columns.hashes,
        weights=columns.weights,
        ignored=found.ignored,
        note=both(columns.note, first_line(f"{found.root}/{NOTE_FILE}")),
        fold=columns.fold,
        split_seed=options.split_seed,
    ).ordered()
    if fold:
        return dataclasses.replace(table, splits=undivided(table.splits, source), fold=fold).ordered()
    if columns.splits is not None and options.split_seed:
        problem = f"split_seed is {options.split_seed}, and {source} has splits already; leave it out, or the splits"
        raise ConfigError(problem, fields=("split_seed",))
    if columns.splits is not None:
        check_splits(table, source)
    return table


def counts_by_split(table: ImageTable) -> Int[np.ndarray, "3 classes"]:
    """How many images of each class stand in each split; of a task without classes, how many images."""
    labels = table.labels if table.task in CLASS_TASKS else np.zeros(len(table), np.int64)
    number = len(table.classes) if table.task in CLASS_TASKS else 1
    inside = table.splits >= 0
    cells = table.splits[inside].astype(np.int64) * number + labels[inside]
    return np.bincount(cells, minlength=len(SPLITS) * number).reshape(len(SPLITS), number)


def check_splits(table: ImageTable, source: str) -> None:
    """ConfigError where a split has no image; what else may be wrong with splits, ``datasets.checks`` says."""
    if empty := [split for split in SPLITS if not len(table.of(split))]:
        raise ConfigError(
            f"images: {source} has no image in {' and '.join(empty)}; every split needs some. Where splits are not "
            "given, `datasets split` divides class by class"
        )


def write_table(table: ImageTable, uri: str) -> None:
    """Writes an inspected table as Parquet, with content hashes and splits: what a study was made of.

    It is an image table itself; since it has the hashes, no image need be there where the features are.

    Raises:
        OSError, StorageError: it cannot be written.
    """
    assert table.is_divided
    columns: dict[str, Any] = {"path": table.paths, "split": pa.array(SPLITS).take(pa.array(table.splits))}
    if table.groups is not None:
        columns["group"] = table.groups.cast(pa.string())
    columns["sha256"] = as_hex(table.hashes())
    if table.weights is not None:
        columns["weight"] = table.weights
    if table.task in CLASS_TASKS:
        columns["label"] = pa.array(table.classes).take(pa.array(table.labels))
    else:
        values = table.labels.reshape(len(table), -1)
        columns |= {f"{LABEL_PREFIX}{name}": values[:, at] for at, name in enumerate(table.classes)}
    sink = io.BytesIO()
    notes = {name: text for name, text in ((NOTE_KEY, table.note), (FOLD_KEY, table.fold)) if text}
    written = pa.table(columns).replace_schema_metadata({**notes, TASK_KEY: table.task})
    pq.write_table(written, sink, compression="zstd")
    write(uri, sink.getvalue())
