"""Where images stand and what they are labelled: class folders or a table, on a local disk or on S3."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from fpt_ray.errors import ConfigError
from fpt_ray.storage.files import absolute, exists, is_within, read_bytes, walk

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".jp2", ".dcm")
COLUMNS = ("path", "label", "split", "group", "sha256")


class Labelled(NamedTuple):
    """An image as its folder or table names it."""

    path: str
    """Below the root."""
    label: str
    """The name of its class."""
    split: str = ""
    """Empty where none is given."""
    group: str = ""
    """What must stay within one split, such as a patient; empty where none is given."""
    sha256: str = ""
    """Of the file's bytes, in hex; empty where it is not given."""


def find_images(source: str) -> tuple[str, list[Labelled], int]:
    """(root, images, files that were passed over) of a folder or a table; see ``table.read_images``.

    Raises:
        ConfigError: it is neither, a row or folder of it cannot be used, or a path leaves the root.
        StorageError: S3 fails.
    """
    uri = absolute(source)
    if uri.endswith((".csv", ".parquet")) and exists(uri):
        return uri.rpartition("/")[0], _from_table(uri), 0
    try:
        entries = walk(uri)
    except FileNotFoundError:
        raise ConfigError(f"images: {source} is neither a folder nor a .csv or .parquet file") from None
    visible = [entry for entry in entries if not _hidden(entry.path)]
    for entry in visible:
        if entry.fault:
            raise ConfigError(f"images: {f'{uri}/{entry.path}'.rstrip('/')} {entry.fault}")
    found = _from_folder(uri, [entry.path for entry in visible])
    return uri, found, sum(not entry.path.endswith("/") for entry in entries) - len(found)


# --- folders --------------------------------------------------------------------------------------------------


def _from_folder(root: str, paths: Sequence[str]) -> list[Labelled]:
    """The images of class folders, of three splits or of none; ``paths`` of folders end with a slash."""
    names = sorted({path.partition("/")[0] for path in paths if "/" in path})
    divided = bool(set(names) & set(SPLITS))
    absent = [split for split in SPLITS if divided and split not in names]
    if absent:
        raise ConfigError(
            f"images: {root} lacks the folder {' and '.join(absent)} (it has {', '.join(names)}); give train, val and"
            " test, or one folder of class folders to be split"
        )
    folders: dict[str, list[str]] = {}
    for path in paths:
        parts = path.split("/")
        if len(parts) > 1 + divided and (not divided or parts[0] in SPLITS):
            members = folders.setdefault("/".join(parts[: 1 + divided]), [])
            if path.lower().endswith(IMAGE_SUFFIXES):
                members.append(_inside(root, path))
    for folder, members in folders.items():
        if not members:
            raise ConfigError(f"images: the class folder {root}/{folder} holds no images; add some or remove it")
    return [
        Labelled(path, folder.rpartition("/")[2], folder.partition("/")[0] if divided else "")
        for folder, members in folders.items()
        for path in members
    ]


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _inside(root: str, path: str) -> str:
    """A relative path in its plain form; ConfigError where it, or what it links to, leaves the absolute root."""
    plain = PurePosixPath(path)
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in path):
        raise ConfigError(f"images: the name {path!r} is not UTF-8; rename the file")
    if plain.is_absolute() or ".." in plain.parts:
        raise ConfigError(f"images: the path {path!r} leaves {root}; give paths relative to it, without '..'")
    if not is_within(root, plain.as_posix()):
        raise ConfigError(f"images: {path!r} is a link that leaves {root}; copy the file into it")
    return plain.as_posix()


# --- tables ---------------------------------------------------------------------------------------------------


def _from_table(uri: str) -> list[Labelled]:
    root = uri.rpartition("/")[0]
    columns = _read_csv(uri) if uri.endswith(".csv") else _read_parquet(uri)
    nothing = [None] * len(columns["path"])
    whole = zip(columns["path"], columns["label"], *(columns.get(name, nothing) for name in COLUMNS[2:]), strict=True)
    found: list[Labelled] = []
    for number, (name, label, split, group, sha256) in enumerate(whole, start=1):
        if name in (None, "") or label in (None, ""):
            raise ConfigError(f"images: {uri}: row {number} has the path {name!r} and the label {label!r}; fill both")
        if "split" in columns and split not in SPLITS:
            raise ConfigError(f"images: {uri}: row {number} has the split {split!r}; choose {', '.join(SPLITS)}")
        if "group" in columns and group in (None, ""):
            raise ConfigError(f"images: {uri}: row {number} has the group {group!r}; fill it, or leave out the column")
        if "sha256" in columns and not re.fullmatch("[0-9a-f]{64}", sha256 or ""):
            raise ConfigError(f"images: {uri}: row {number} has the sha256 {sha256!r}; give 64 digits or no column")
        group = "" if group is None else str(group)
        found.append(Labelled(_inside(root, str(name)), str(label), split or "", group, sha256 or ""))
    twice = [name for name, count in Counter(name for name, *_ in found).items() if count > 1]
    if twice:
        raise ConfigError(f"images: {uri}: {len(twice)} paths stand in it twice, such as {twice[0]!r}; keep one")
    return found


def _check_columns(uri: str, names: Sequence[str]) -> None:
    for name in COLUMNS[:2]:
        if name not in names:
            raise ConfigError(f"images: {uri} lacks the column {name!r}; it has {', '.join(names) or 'none'}")


def _read_csv(uri: str) -> dict[str, list[Any]]:
    try:
        reader = csv.DictReader(io.StringIO(read_bytes(uri).decode("utf-8-sig"), newline=""))
        names = list(reader.fieldnames or ())
        _check_columns(uri, names)
        rows = list(reader)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"images: {uri} cannot be read as CSV in UTF-8: {error}") from None
    return {name: [row[name] for row in rows] for name in COLUMNS if name in names}


def _read_parquet(uri: str) -> dict[str, list[Any]]:
    """The columns as lists; types are checked before a value is touched, for some run code when they are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(read_bytes(uri))) as file:
            types = {field.name: field.type for field in file.schema_arrow if field.name in COLUMNS}
            _check_columns(uri, file.schema_arrow.names)
            for name, kind in types.items():
                kind = kind.value_type if pa.types.is_dictionary(kind) else kind
                text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
                if not text and not (name in ("label", "group") and pa.types.is_integer(kind)):
                    raise ConfigError(f"images: {uri}: column {name} is {kind}; give text (a label, a group: or int)")
            table = file.read(columns=list(types))
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"images: {uri} cannot be read as Parquet: {error}") from None
    return {name: table.column(name).to_pylist() for name in types}
