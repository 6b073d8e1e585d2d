"""The images that are to be predicted: a file, a folder or a table; labels where there are any."""

from collections.abc import Sequence
from dataclasses import dataclass

from fpt_ray.errors import ConfigError
from fpt_ray.images.sources import IMAGE_SUFFIXES
from fpt_ray.storage.files import absolute, exists, is_within, walk


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Images by their paths below a root."""

    root: str
    paths: Sequence[str]


def listed(images: str) -> Listing:
    """The image of a file, or all below a folder, in the order of their names.

    Raises:
        ConfigError: there are none, or a link leaves the folder.
        StorageError: S3 fails.
    """
    uri = absolute(images)
    if uri.lower().endswith(IMAGE_SUFFIXES) and exists(uri):
        root, _, name = uri.rpartition("/")
        return Listing(root=root, paths=(name,))
    try:
        entries = walk(uri)
    except FileNotFoundError:
        raise ConfigError(f"images: there is no folder or image {images}; give one") from None
    for entry in entries:
        if entry.fault:
            raise ConfigError(f"images: {f'{uri}/{entry.path}'.rstrip('/')} {entry.fault}")
    paths = sorted(entry.path for entry in entries if entry.path.lower().endswith(IMAGE_SUFFIXES))
    if not paths:
        raise ConfigError(f"images: {images} holds none; give a folder with {', '.join(IMAGE_SUFFIXES)} files")
    outside = next((path for path in paths if not is_within(uri, path)), None)
    if outside is not None:
        raise ConfigError(f"images: {outside!r} is a link that leaves {images}; copy the file into it")
    return Listing(root=uri, paths=paths)
