"""Where images stand and what they are labelled: class folders or a table, on a local disk or on S3."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fpt_ray.config.tasks import ImagesOptions
from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import SPLITS, Columns, read_columns
from fpt_ray.images.labels import task_of_classes
from fpt_ray.images.notes import NOTE_FILE
from fpt_ray.storage.files import absolute, exists, leaving, walk

_NEARLY = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What people call the folder of a split, in small letters, and what it is called here."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".jp2", ".dcm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The images of a folder or a table."""

    root: str
    columns: Columns
    ignored: int
    """Files that were passed over."""


def find_images(source: str, options: ImagesOptions, *, labelled: bool = True) -> Found:
    """The images of a folder or a table; see ``table.read_images``.

    If they need not be ``labelled``, they are all those below a folder, or of a table that may have no labels.

    Raises:
        ConfigError: it is neither, a row or folder of it cannot be used, or a path leaves the root.
        StorageError: S3 fails.
    """
    uri = absolute(source)
    if uri.endswith((".csv", ".parquet")) and exists(uri):
        root, columns = uri.rpartition("/")[0], read_columns(uri, options, labelled=labelled)
        paths = _inside(root, columns.paths)
        _refuse_twice(uri, paths)
        return Found(root=root, columns=replace(columns, paths=paths), ignored=0)
    try:
        entries = walk(uri)
    except FileNotFoundError:
        raise ConfigError(f"images: {source} is neither a folder nor a .csv or .parquet file") from None
    if options.columns:
        raise ConfigError(f"columns: {source} is a folder, which has none; leave them out", fields=("columns",))
    visible = [entry for entry in entries if not _hidden(entry.path)]
    for entry in visible:
        if entry.fault:
            raise ConfigError(f"images: {f'{uri}/{entry.path}'.rstrip('/')} {entry.fault}")
    files = [entry.path for entry in visible]
    columns = _from_folder(uri, files) if labelled else _all_of_folder(uri, files)
    ignored = sum(not entry.path.endswith("/") and entry.path != NOTE_FILE for entry in entries) - len(columns.paths)
    return Found(root=uri, columns=columns, ignored=ignored)


# --- folders --------------------------------------------------------------------------------------------------


def _from_folder(root: str, paths: Sequence[str]) -> Columns:
    """The images of class folders, of three splits or of none; ``paths`` of folders end with a slash."""
    names = sorted({path.partition("/")[0] for path in paths if "/" in path})
    divided = bool(set(names) & set(SPLITS))
    _refuse_nearly_divided(root, names, divided)
    folders: dict[str, list[str]] = {}
    for path in paths:
        parts = path.split("/")
        if len(parts) > 1 + divided and (not divided or parts[0] in SPLITS):
            members = folders.setdefault("/".join(parts[: 1 + divided]), [])
            if path.lower().endswith(IMAGE_SUFFIXES):
                members.append(_readable(path))
    for folder, members in folders.items():
        if not members:
            raise ConfigError(
                f"images: the class folder {root}/{folder} holds no images; add some or remove it;"
                " what a working directory holds is no class: give --workdir another folder than the images"
            )
    sizes = [len(members) for members in folders.values()]
    labels = np.repeat(np.array([folder.rpartition("/")[2] for folder in folders], object), sizes)
    splits = [SPLITS.index(folder.partition("/")[0]) if divided else -1 for folder in folders]
    found = pa.array([path for members in folders.values() for path in members], pa.string())
    column = pa.array(labels, pa.string())
    return Columns(
        paths=_inside(root, found),
        labels={"label": column},
        task=task_of_classes(column),
        splits=np.repeat(np.array(splits, np.int8), sizes) if divided else None,
    )


def _refuse_nearly_divided(root: str, names: Sequence[str], divided: bool) -> None:
    """ConfigError where a split is missing, or where folders are called nearly as splits and so are hardly classes.

    The latter are folders of two splits, or all that there are.
    """
    meant = {name: _NEARLY[name.casefold()] for name in names if name.casefold() in _NEARLY}
    nearly = len(set(meant.values())) > 1 or 0 < len(meant) == len(names)
    absent = [split for split in SPLITS if split not in names]
    if absent and (divided or nearly):
        others = [f"{name} to {split}" for name, split in meant.items() if split in absent]
        renamed = f"rename {' and '.join(others)}, and " if others else ""
        raise ConfigError(
            f"images: {root} lacks the folder {' and '.join(absent)} (it has {', '.join(names)}); {renamed}give train,"
            " val and test, or one folder of class folders to be split"
        )


def _all_of_folder(root: str, paths: Sequence[str]) -> Columns:
    found = sorted(_readable(path) for path in paths if path.lower().endswith(IMAGE_SUFFIXES))
    return Columns(paths=_inside(root, pa.array(found, pa.string())), labels={})


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _readable(path: str) -> str:
    if re.search("[\ud800-\udfff]", path):
        raise ConfigError(f"images: the name {path!r} is not UTF-8; rename the file")
    return path


# --- paths --------------------------------------------------------------------------------------------------------


def _inside(root: str, paths: pa.StringArray) -> pa.StringArray:
    """Relative paths in their plain form; ConfigError where one, or what it links to, leaves the absolute root."""
    if (path := _first(paths, "\0")) is not None:
        raise ConfigError(f"images: the name {path!r} is not UTF-8; rename the file")
    if (path := _first(paths, r"^/|(^|/)\.\.(/|$)")) is not None:
        raise ConfigError(f"images: the path {path!r} leaves {root}; give paths relative to it, without '..'")
    odd = pc.match_substring_regex(paths, r"//|(^|/)\.(/|$)|/$")
    plain = [PurePosixPath(path).as_posix() for path in paths.filter(odd).to_pylist()]
    paths = pc.replace_with_mask(paths, odd, pa.array(plain, pa.string()))
    if (path := leaving(root, paths)) is not None:
        raise ConfigError(f"images: {path!r} is a link that leaves {root}; copy the file into it")
    return paths


def _first(paths: pa.StringArray, pattern: str) -> str | None:
    at = pc.index(pc.match_substring_regex(paths, pattern), True).as_py()
    return None if at < 0 else paths[at].as_py()


def _refuse_twice(uri: str, paths: pa.StringArray) -> None:
    counts = pc.value_counts(paths)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise ConfigError(
            f"images: {uri}: {len(twice)} paths stand in it twice, such as {twice[0].as_py()!r}; keep one"
        )
