"""The images that are to be predicted: a file, a folder or a table; labels where there are any."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from fpt_ray.config.tasks import ImagesOptions
from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import Columns
from fpt_ray.images.sources import IMAGE_SUFFIXES, find_images
from fpt_ray.storage.files import absolute, exists


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Images by their paths below a root."""

    root: str
    paths: Sequence[str]
    labels: Sequence[str] | None = None
    """The names of their classes, where they are known."""


def listed(images: str, columns: Sequence[str], classes: Sequence[str]) -> Listing:
    """The image of a file; all below a folder, in the order of their names; or those of a table, in its order.

    They are labelled where a table has labels, or where the folder of every image is called as one of the classes.

    Raises:
        ConfigError: there are none, a path or link leaves the folder, or a label is none of the classes.
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
        labels = _labels(images, found.columns, classes)
    else:
        folders = [path.rpartition("/")[0].rpartition("/")[2] for path in paths]
        labels = folders if set(folders) <= set(classes) else None
    return Listing(root=found.root, paths=paths, labels=labels)


def _labels(images: str, columns: Columns, classes: Sequence[str]) -> list[str]:
    if len(columns.labels) > 1:
        raise ConfigError(f"images: {images} has labels in {len(columns.labels)} columns; give one, or none")
    (column,) = columns.labels.values()
    labels = column.cast(pa.string()).to_pylist()
    unknown = sorted({str(label) for label in labels} - set(classes))
    if unknown:
        raise ConfigError(
            f"images: {images} has the label {unknown[0]!r}, which is none of the bundle's classes "
            f"({', '.join(classes)}); rename it, or leave the column out"
        )
    return labels
