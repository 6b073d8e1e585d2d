"""A folder or a table of images becomes one image table: rows of path, label and split, checked at the door."""

import dataclasses
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from fpt_ray.errors import ConfigError
from fpt_ray.images.decoding import MAX_BYTES, read_picture
from fpt_ray.images.picture import Facts, ImageError, Picture
from fpt_ray.images.sources import IMAGE_SUFFIXES, SPLITS, find_images
from fpt_ray.storage.files import absolute, exists, read_bytes, write

NOTE_FILE = "DATA_NOTE.txt"
NOTE_KEY = "fpt_ray.data_note"
"""Beside the images: its first line is said wherever results on them are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRow:
    """One image."""

    path: str
    """Relative to the table's root, with forward slashes."""
    label: int
    """Index into the table's classes."""
    split: str
    """Empty until the image was inspected, where the source gives none."""
    group: str = ""
    """What must stay within one split, such as a patient; empty where the source gives none."""
    sha256: str = ""
    """Of the file's bytes, in hex; empty until the image was inspected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTable:
    """The images of a study. Rows stand by split (train, val, test, none yet), then by path."""

    root: str
    classes: tuple[str, ...]
    """Sorted; by value where all are whole numbers, so that grades stand in their order."""
    rows: tuple[ImageRow, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    """(path, reason) of the images that cannot be read."""
    ignored: int = 0
    """Files that were passed over: hidden ones, those without an image's suffix, those outside a class folder."""
    note: str = ""
    """What must be said wherever results on these images are shown: the first line of their DATA_NOTE.txt."""

    def of(self, split: str) -> tuple[ImageRow, ...]:
        """The rows of one split, in order."""
        return tuple(row for row in self.rows if row.split == split)

    def digest(self) -> str:
        """SHA-256 (hex) of what determines numbers: the classes; content, label and split of every image.

        Names and groups do not count: a group has done its work when the splits are made.
        """
        rows = sorted((row.sha256, row.label, row.split) for row in self.rows)
        return hashlib.sha256(json.dumps([self.classes, rows]).encode()).hexdigest()

    def hashes(self) -> UInt8[np.ndarray, "rows 32"]:
        """The content hashes of all rows."""
        return content_hashes(self.rows)


def content_hashes(rows: Sequence[ImageRow]) -> UInt8[np.ndarray, "rows 32"]:
    """The content hashes of inspected rows, as bytes."""
    return np.frombuffer(bytes.fromhex("".join(row.sha256 for row in rows)), np.uint8).reshape(-1, 32)


def read_images(source: str) -> ImageTable:
    """The images of a folder or table; no image is opened yet (see ``inspect_image`` and ``accept``).

    Args:
        source: a folder with ``train/``, ``val/`` and ``test/``, each of class folders; or one folder of class folders,
            split once they are inspected (see ``splits``); or a .csv or .parquet file with the columns path, label
            [, split][, group], whose paths are relative to the file's folder. Local, or s3://bucket/prefix. Labels
            and groups are text or whole numbers.

    Raises:
        ConfigError: there are no images, a split or a class in a split is missing, a group stands in several splits,
            or a path leaves the root.
    """
    root, found, ignored = find_images(source)
    if not found:
        raise ConfigError(f"images: {source} holds none; give class folders of {', '.join(IMAGE_SUFFIXES)} files")
    classes = _class_order({image.label for image in found})
    if len(classes) < 2:
        raise ConfigError(f"images: {source} has the classes {classes}; at least two are needed")
    index = {name: number for number, name in enumerate(classes)}
    rows = [
        ImageRow(path=image.path, label=index[image.label], split=image.split, group=image.group, sha256=image.sha256)
        for image in found
    ]
    rows.sort(key=lambda row: ((*SPLITS, "").index(row.split), row.path))
    if rows[0].split:
        check_splits(rows, classes, source)
    return ImageTable(root=root, classes=classes, rows=tuple(rows), ignored=ignored, note=_data_note(root, source))


def _data_note(root: str, source: str) -> str:
    uri = f"{root}/{NOTE_FILE}"
    if exists(uri):
        return read_bytes(uri).decode().splitlines()[0].strip()
    if not source.endswith(".parquet"):
        return ""
    notes = pq.read_schema(pa.BufferReader(read_bytes(absolute(source)))).metadata or {}
    return notes.get(NOTE_KEY.encode(), b"").decode()


def _class_order(names: Iterable[str]) -> tuple[str, ...]:
    names = sorted(names)
    numbers = all(name.isascii() and name.removeprefix("-").isdigit() for name in names)
    return tuple(sorted(names, key=int) if numbers else names)


def check_splits(rows: Sequence[ImageRow], classes: Sequence[str], source: str) -> None:
    """ConfigError unless every class is in every split, and every group in one alone."""
    counts = Counter((row.split, row.label) for row in rows)
    missing = [f"{name!r} in {split}" for split in SPLITS for c, name in enumerate(classes) if not counts[split, c]]
    if missing:
        raise ConfigError(
            f"images: {source} has no image of class {', '.join(missing)}; every split needs every class. Where splits "
            "are not given, `datasets split` divides class by class"
        )
    groups: dict[str, set[str]] = {}
    for row in rows:
        groups.setdefault(row.group, set()).add(row.split)
    torn = sorted(group for group, splits in groups.items() if group and len(splits) > 1)
    if torn:
        raise ConfigError(
            f"images: {source} has {len(torn)} groups in several splits, such as {', '.join(map(repr, torn[:3]))}; put "
            "each into one"
        )


def write_table(table: ImageTable, uri: str) -> None:
    """Writes an inspected table as Parquet, with content hashes and splits: what a study was made of.

    It is an image table itself; since it has the hashes, no image need be there where the features are.

    Raises:
        OSError, StorageError: it cannot be written.
    """
    names = ("path", "split", "group", "sha256")
    columns = {name: pa.array([getattr(row, name) for row in table.rows], pa.string()) for name in names}
    if not any(row.group for row in table.rows):
        del columns["group"]
    columns["label"] = pa.array([table.classes[row.label] for row in table.rows], pa.string())
    sink = io.BytesIO()
    notes = {NOTE_KEY: table.note} if table.note else {}
    pq.write_table(pa.table(columns).replace_schema_metadata(notes), sink, compression="zstd")
    write(uri, sink.getvalue())


# --- inspection -----------------------------------------------------------------------------------------------


class Finding(NamedTuple):
    """What inspection says of an image."""

    sha256: str
    """Of the file's bytes, in hex; empty where it cannot be used."""
    reason: str
    """Why it cannot be used; empty where it can."""
    facts: Facts | None = None
    """What else may be told of it; None where it cannot be used."""


def inspect_image(root: str, row: ImageRow) -> tuple[Finding, Picture | None]:
    """What is found of an image, and what its file holds where it decodes fully. The file is read once.

    Raises:
        StorageError: S3 fails, which says nothing of the image.
    """
    uri = f"{root}/{row.path}"
    try:
        data = read_bytes(uri, MAX_BYTES + 1)
        picture = read_picture(data, row.path)
    except FileNotFoundError:
        return Finding("", "there is no such file"), None
    except OSError as error:
        return Finding("", f"the file cannot be read ({error.strerror})"), None
    except ImageError as error:
        return Finding("", error.reason), None
    return Finding(hashlib.sha256(data).hexdigest(), "", picture.facts()), picture


def accept(table: ImageTable, findings: Sequence[tuple[Any, ...]], max_skipped: float = 0.01) -> ImageTable:
    """The table with content hashes and without unreadable images; splits that are given still hold every class.

    Args:
        table: its rows are those that were inspected.
        findings: of ``inspect_image``, one for each row, in order.
        max_skipped: largest share of the rows that may be unreadable.

    Raises:
        ConfigError: more are unreadable (they are listed), or a class is gone from a split.
    """
    pairs = list(zip(table.rows, findings, strict=True))
    skipped = [(row.path, reason) for row, (_, reason, *_) in pairs if reason]
    if len(skipped) > max_skipped * len(pairs):
        listed = "".join(f"\n  {path}: {reason}" for path, reason in skipped[:10])
        more = f"\n  and {len(skipped) - 10} more" if len(skipped) > 10 else ""
        raise ConfigError(
            f"images: {len(skipped)} of {len(pairs)} in {table.root} cannot be read, more than {max_skipped:.0%}; mend"
            f" or remove them:{listed}{more}"
        )
    rows = tuple(dataclasses.replace(row, sha256=sha256) for row, (sha256, reason, *_) in pairs if not reason)
    if rows[0].split:
        check_splits(rows, table.classes, table.root)
    return dataclasses.replace(table, rows=rows, skipped=(*table.skipped, *skipped))


def leaks(table: ImageTable) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(SHA-256, paths) of every image whose content stands in more than one split; of inspected rows only."""
    same: dict[str, list[ImageRow]] = {}
    for row in table.rows:
        if row.sha256:
            same.setdefault(row.sha256, []).append(row)
    return tuple(
        (sha256, tuple(row.path for row in rows))
        for sha256, rows in sorted(same.items())
        if len({row.split for row in rows}) > 1
    )
