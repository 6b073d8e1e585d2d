"""A folder or a table of images becomes one image table: rows of path, label and split, checked at the door."""

import csv
import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from fpt_ray.config import ConfigError
from fpt_ray.images import MAX_BYTES, ImageError, decode

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".jp2")
COLUMNS = ("path", "label", "split")
NOTE_FILE = "DATA_NOTE.txt"
"""Beside the images: its first line is said wherever results on them are shown."""
VAL_SHARE, TEST_SHARE = 0.1, 0.2  # section 4.1


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRow:
    """One image."""

    path: str
    """Relative to the table's root, with forward slashes."""
    label: int
    """Index into the table's classes."""
    split: str
    sha256: str = ""
    """Of the file's bytes, in hex; empty until the image was inspected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTable:
    """The images of a study. Rows stand by split (train, val, test), then by path."""

    root: str
    classes: tuple[str, ...]
    """Sorted; by value where all are whole numbers, so that grades stand in their order."""
    rows: tuple[ImageRow, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    """(path, reason) of the images that cannot be read."""
    ignored: int = 0
    """Files that were passed over: hidden ones, those without an image's suffix, those outside a class folder."""

    def of(self, split: str) -> tuple[ImageRow, ...]:
        """The rows of one split, in order."""
        return tuple(row for row in self.rows if row.split == split)

    def digest(self) -> str:
        """SHA-256 (hex) of the classes and of every row's path, label, split and content; the root does not count."""
        rows = [(row.path, row.label, row.split, row.sha256) for row in self.rows]
        return hashlib.sha256(json.dumps([self.classes, rows]).encode()).hexdigest()


def read_images(source: str, *, seed: int = 0) -> ImageTable:
    """The images of a folder or table; no image is opened yet (see ``inspect_image`` and ``accept``).

    Args:
        source: a folder with ``train/``, ``val/`` and ``test/``, each of class folders; or one folder of class folders,
            split 70/10/20 class by class; or a .csv or .parquet file with the columns path, label[, split], whose
            paths are relative to the file's folder. Labels are text or whole numbers.
        seed: decides the 70/10/20 split, which depends on it and on a class's name and paths alone.

    Raises:
        ConfigError: there are no images, a split or a class in a split is missing, a class is too small to be split,
            or a path leaves the root.
    """
    path = Path(os.path.realpath(source))
    if path.is_dir():
        root, found = path, _from_folder(path)
        ignored = sum(len(files) for _, _, files in os.walk(path)) - len(found)
    elif path.suffix in (".csv", ".parquet") and path.is_file():
        root, found, ignored = path.parent, _from_table(path), 0
    else:
        raise ConfigError(f"images: {source} is neither a folder nor a .csv or .parquet file")
    if not found:
        raise ConfigError(f"images: {source} holds none; give class folders of {', '.join(IMAGE_SUFFIXES)} files")
    classes = _class_order({name for _, name, _ in found})
    if found[0][2] is None:
        found = _split(found, seed, source)
    rows = [ImageRow(path=name, label=classes.index(label), split=str(split)) for name, label, split in found]
    rows.sort(key=lambda row: (SPLITS.index(row.split), row.path))
    _check_classes(rows, classes, source)
    return ImageTable(root=str(root), classes=classes, rows=tuple(rows), ignored=ignored)


_Found = tuple[str, str, str | None]  # path, class name, split or nothing


def _class_order(names: Iterable[str]) -> tuple[str, ...]:
    names = sorted(names)
    numbers = all(name.isascii() and name.removeprefix("-").isdigit() for name in names)
    return tuple(sorted(names, key=int) if numbers else names)


def _check_classes(rows: Sequence[ImageRow], classes: Sequence[str], source: str) -> None:
    if len(classes) < 2:
        raise ConfigError(f"images: {source} has the classes {tuple(classes)}; at least two are needed")
    counts = Counter((row.split, row.label) for row in rows)
    missing = [f"{name!r} in {split}" for split in SPLITS for c, name in enumerate(classes) if not counts[split, c]]
    if missing:
        raise ConfigError(f"images: {source} has no image of class {', '.join(missing)}; every split needs every class")


def _split(found: Sequence[_Found], seed: int, source: str) -> list[_Found]:
    """The same images, each class divided 70/10/20 (section 4.1), at least one image a split."""
    paths: dict[str, list[str]] = {}
    for path, name, _ in sorted(found):
        paths.setdefault(name, []).append(path)
    rows: list[_Found] = []
    for name, members in paths.items():
        if len(members) < len(SPLITS):
            raise ConfigError(f"images: {source}: class {name!r} has {len(members)} images; a split needs at least 3")
        num_val, num_test = (max(1, round(share * len(members))) for share in (VAL_SHARE, TEST_SHARE))
        splits = ["val"] * num_val + ["test"] * num_test + ["train"] * (len(members) - num_val - num_test)
        order = np.random.default_rng((seed, *name.encode())).permutation(len(members))
        rows.extend((members[index], name, split) for index, split in zip(order, splits, strict=True))
    return rows


# --- folders --------------------------------------------------------------------------------------------------


def _from_folder(root: Path) -> list[_Found]:
    names = [folder.name for folder in _folders(root)]
    if not set(names) & set(SPLITS):
        return list(_class_folders(root, root, None))
    absent = [split for split in SPLITS if split not in names]
    if absent:
        raise ConfigError(
            f"images: {root} lacks the folder {' and '.join(absent)} (it has {', '.join(names)}); give train, val and"
            " test, or one folder of class folders to be split"
        )
    return [row for split in SPLITS for row in _class_folders(root, root / split, split)]


def _class_folders(root: Path, parent: Path, split: str | None) -> Iterator[_Found]:
    for folder in _folders(parent):
        images = list(_images(root, folder))
        if not images:
            raise ConfigError(f"images: the class folder {folder} holds no images; add some or remove it")
        for path in images:
            yield path, folder.name, split


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, but for hidden names, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise ConfigError(f"images: the folder {folder} cannot be read ({error.strerror})") from None


def _folders(folder: Path) -> list[Path]:
    entries = [entry for entry in _entries(folder) if entry.is_dir()]
    for entry in entries:
        if entry.is_symlink():
            raise ConfigError(f"images: {entry.path} is a link to a folder; put the folder itself in its place")
    return [Path(entry.path) for entry in entries]


def _images(root: Path, folder: Path) -> Iterator[str]:
    """Paths of the images below a folder, relative to the root."""
    for inner in _folders(folder):
        yield from _images(root, inner)
    for entry in _entries(folder):
        if entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.is_dir():
            yield _inside(root, Path(entry.path).relative_to(root).as_posix())


def _inside(root: Path, path: str) -> str:
    """A relative path in its plain form; ConfigError where it, or what it links to, leaves the (resolved) root."""
    plain = PurePosixPath(path)
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in path):
        raise ConfigError(f"images: the name {path!r} is not UTF-8; rename the file")
    if plain.is_absolute() or ".." in plain.parts:
        raise ConfigError(f"images: the path {path!r} leaves {root}; give paths relative to it, without '..'")
    if not Path(os.path.realpath(root / plain)).is_relative_to(root):
        raise ConfigError(f"images: {path!r} is a link that leaves {root}; copy the file into it")
    return plain.as_posix()


# --- tables ---------------------------------------------------------------------------------------------------


def _from_table(path: Path) -> list[_Found]:
    columns = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
    splits = columns.get("split", [None] * len(columns["path"]))
    found: list[_Found] = []
    for number, (name, label, split) in enumerate(zip(columns["path"], columns["label"], splits, strict=True), start=1):
        if name in (None, "") or label in (None, ""):
            raise ConfigError(f"images: {path}: row {number} has the path {name!r} and the label {label!r}; fill both")
        if "split" in columns and split not in SPLITS:
            raise ConfigError(f"images: {path}: row {number} has the split {split!r}; choose {', '.join(SPLITS)}")
        found.append((_inside(path.parent, str(name)), str(label), split))
    twice = [name for name, count in Counter(name for name, _, _ in found).items() if count > 1]
    if twice:
        raise ConfigError(f"images: {path}: {len(twice)} paths stand in it twice, such as {twice[0]!r}; keep one")
    return found


def _check_columns(path: Path, names: Sequence[str]) -> None:
    for name in COLUMNS[:2]:
        if name not in names:
            raise ConfigError(f"images: {path} lacks the column {name!r}; it has {', '.join(names) or 'none'}")


def _read_csv(path: Path) -> dict[str, list[Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or ())
            _check_columns(path, names)
            rows = list(reader)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"images: {path} cannot be read as CSV in UTF-8: {error}") from error
    return {name: [row[name] for row in rows] for name in COLUMNS if name in names}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    """The columns as lists; types are checked before a value is touched, for some run code when they are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            types = {field.name: field.type for field in file.schema_arrow if field.name in COLUMNS}
            _check_columns(path, file.schema_arrow.names)
            for name, kind in types.items():
                kind = kind.value_type if pa.types.is_dictionary(kind) else kind
                text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
                if not text and not (name == "label" and pa.types.is_integer(kind)):
                    raise ConfigError(f"images: {path}: column {name} is {kind}; give text (a label: or int)")
            table = file.read(columns=list(types))
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"images: {path} cannot be read as Parquet: {error}") from error
    return {name: table.column(name).to_pylist() for name in types}


# --- inspection -----------------------------------------------------------------------------------------------


def inspect_image(root: str, row: ImageRow) -> tuple[str, str]:
    """(SHA-256 in hex, "") of an image that decodes fully, or ("", reason). Its file is read once."""
    path = Path(root) / row.path
    try:
        if not path.is_file():
            return "", "there is no such file"
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        decode(data, row.path)
    except OSError as error:
        return "", f"the file cannot be read ({error.strerror})"
    except ImageError as error:
        return "", error.reason
    return hashlib.sha256(data).hexdigest(), ""


def accept(table: ImageTable, findings: Sequence[tuple[str, str]], max_skipped: float = 0.01) -> ImageTable:
    """The table with content hashes and without unreadable images.

    Args:
        findings: of ``inspect_image``, one for each row, in order.
        max_skipped: largest share of the rows that may be unreadable.

    Raises:
        ConfigError: more are unreadable (they are listed), or a class is gone from a split.
    """
    pairs = list(zip(table.rows, findings, strict=True))
    skipped = [(row.path, reason) for row, (_, reason) in pairs if reason]
    if len(skipped) > max_skipped * len(pairs):
        listed = "".join(f"\n  {path}: {reason}" for path, reason in skipped[:10])
        more = f"\n  and {len(skipped) - 10} more" if len(skipped) > 10 else ""
        raise ConfigError(
            f"images: {len(skipped)} of {len(pairs)} in {table.root} cannot be read, more than {max_skipped:.0%}; mend"
            f" or remove them:{listed}{more}"
        )
    rows = tuple(dataclasses.replace(row, sha256=sha256) for row, (sha256, reason) in pairs if not reason)
    _check_classes(rows, table.classes, table.root)
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
