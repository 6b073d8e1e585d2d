"""The images that are to be predicted: a file, a folder or a table; labels where there are any."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fpt_ray.config.tasks import ImagesOptions, Target
from fpt_ray.errors import ConfigError
from fpt_ray.images.labels import CLASS_TASKS, read_labels
from fpt_ray.images.sources import IMAGE_SUFFIXES, find_images
from fpt_ray.storage.files import absolute, exists


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Listing:
    """Images by their paths below a root."""

    root: str
    paths: Sequence[str]
    labels: np.ndarray | None = None
    """As a network learns them, where they are known."""


def listed(images: str, columns: Sequence[str], target: Target) -> Listing:
    """The image of a file; all below a folder, in the order of their names; or those of a table, in its order.

    They are labelled where a table has labels, or where the folder of every image is called as one of the classes.

    Raises:
        ConfigError: there are none, a path or link leaves the folder, or the labels are not those of the target.
        StorageError: S3 fails.
    """
    uri = absolute(images)
    if uri.lower().endswith(IMAGE_SUFFIXES) and exists(uri):
        root, _, name = uri.rpartition("/")
        return Listing(root=root, paths=(name,))
    found = find_images(images, ImagesOptions(columns=tuple(columns)), labelled=False)
    paths = found.columns.paths.to_pylist()
    if not paths:
        raise ConfigError(f"images: {images} holds none; give a folder with {', '.join(IMAGE_SUFFIXES)} files")
    if found.columns.labels:
        return Listing(root=found.root, paths=paths, labels=_labels(images, found.columns.labels, target))
    folders = pa.array([path.rpartition("/")[0].rpartition("/")[2] for path in paths], pa.string())
    known = target.task in CLASS_TASKS and set(folders.to_pylist()) <= set(target.classes)
    labels = _labels(images, {"label": folders}, target) if known else None
    return Listing(root=found.root, paths=paths, labels=labels)


def _labels(images: str, columns: Mapping[str, pa.Array], target: Target) -> np.ndarray:
    """The labels of all rows by the target's names, which may stand in another order or lack some."""
    # Of two classes a table may have one alone.
    task = "multiclass" if target.task == "binary" else target.task
    _, names, values = read_labels(images, columns, task)
    if target.task == "regression":
        return values
    unknown = sorted(set(names) - set(target.classes))
    if unknown:
        raise ConfigError(
            f"images: {images} has the label {unknown[0]!r}, which is none of the bundle's "
            f"({', '.join(target.classes)}); rename it, or leave the column out"
        )
    places = np.array([target.classes.index(name) for name in names])
    if target.task in CLASS_TASKS:
        return places[values]
    whole = np.full((len(values), len(target.classes)), np.nan, np.float32)
    whole[:, places] = values
    return whole
