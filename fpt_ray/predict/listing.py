"""The images that are to be predicted: a file, a folder or a table; labels where there are any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from fpt_ray.config.tasks import ImagesOptions, Target
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import SPLITS, is_empty
from fpt_ray.images.labels import CLASS_TASKS, read_labels
from fpt_ray.images.sources import IMAGE_SUFFIXES, find_images
from fpt_ray.storage.files import absolute, exists


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Listing:
    """Images by their paths below a root."""

    root: str
    paths: Sequence[str]
    labels: np.ndarray | None = None
    """As a network learns them, where they are known; of an image without one -1 or NaN."""
    learnt: int = 0
    """How many are of the splits train and val, by the table's column or by the folders' names."""


NO_LABELS = "label="
"""Among the columns: labels are of no account."""


def known_labels(labels: np.ndarray, target: Target) -> Bool[np.ndarray, " N"]:
    """Which images have a label, or one of several."""
    if target.task in CLASS_TASKS:
        return labels >= 0
    return np.logical_or.reduce(~np.isnan(labels).reshape(len(labels), -1), axis=1)


def listed(images: str, columns: Sequence[str], target: Target) -> Listing:
    """The image of a file; all below a folder, in the order of their names; or those of a table, in its order.

    They are labelled where a table has labels, or where the folder of every image is called as one of the classes. A
    row may be without, and with ``NO_LABELS`` among the columns all are.

    Raises:
        ConfigError: there are none, a path or link leaves the folder, or the labels are not those of the target.
        StorageError: S3 fails.
    """
    uri = absolute(images)
    if uri.lower().endswith(IMAGE_SUFFIXES) and exists(uri):
        root, _, name = uri.rpartition("/")
        return Listing(root=root, paths=(name,))
    asked = tuple(one for one in columns if one != NO_LABELS)
    found = find_images(images, ImagesOptions(columns=asked), labelled=False)
    paths = found.columns.paths.to_pylist()
    if not paths:
        raise ConfigError(f"images: {images} holds none; give a folder with {', '.join(IMAGE_SUFFIXES)} files")
    if found.ignored:
        say(f"images: files passed over, hidden or without an image's suffix: {found.ignored:,}")
    if len(asked) < len(columns):
        return Listing(root=found.root, paths=paths)
    if found.columns.labels:
        labels = _labels(images, found.columns.labels, target)
        splits = found.columns.splits
        learnt = 0 if splits is None else int(np.isin(splits, [SPLITS.index("train"), SPLITS.index("val")]).sum())
        return Listing(root=found.root, paths=paths, labels=labels, learnt=learnt)
    folders = pa.array([path.rpartition("/")[0].rpartition("/")[2] for path in paths], pa.string())
    known = target.task in CLASS_TASKS and set(folders.to_pylist()) <= set(target.classes)
    labels = _labels(images, {"label": folders}, target) if known else None
    learnt = sum(path.partition("/")[0] in SPLITS[:2] for path in paths)
    return Listing(root=found.root, paths=paths, labels=labels, learnt=learnt)


def _labels(images: str, columns: Mapping[str, pa.Array], target: Target) -> np.ndarray | None:
    """The labels of all rows by the target's names, which may stand in another order or lack some; None: no row has."""
    if target.task == "multilabel":
        return _of_several(images, columns, target)
    (column,) = list(columns.values())[:1]
    there = ~is_empty(column)
    if not there.any():
        return None
    # Of two classes a table may have one alone.
    task = "multiclass" if target.task == "binary" else target.task
    labelled = {name: one.filter(pa.array(there)) for name, one in columns.items()}
    try:
        _, names, values = read_labels(images, labelled, task)
    except ConfigError as error:
        if there.all():
            raise
        raise ConfigError(f"{error} (rows without a label are not counted)", fields=error.fields) from None
    if target.task == "regression":
        whole = np.full(len(there), np.nan)
        whole[there] = values
    else:
        whole = np.full(len(there), -1)
        whole[there] = _places(images, names, target)[values]
    return whole


def _of_several(images: str, columns: Mapping[str, pa.Array], target: Target) -> np.ndarray:
    _, names, values = read_labels(images, columns, target.task)
    whole = np.full((len(values), len(target.classes)), np.nan, np.float32)
    whole[:, _places(images, names, target)] = values
    return whole


def _places(images: str, names: Sequence[str], target: Target) -> Int[np.ndarray, " names"]:
    """Where the target has these names."""
    unknown = sorted(set(names) - set(target.classes))
    if unknown:
        raise ConfigError(
            f"images: {images} has the label {unknown[0]!r}, which is none of the bundle's "
            f"({', '.join(target.classes)}); rename it, or have labels left out by --columns {NO_LABELS}"
        )
    return np.array([target.classes.index(name) for name in names], np.int64)
