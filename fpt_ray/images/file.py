"""The file of an inspected image, read once more."""

import hashlib

from fpt_ray.errors import ConfigError
from fpt_ray.images.decoding import MAX_BYTES
from fpt_ray.images.table import ImageRow
from fpt_ray.storage.files import read_bytes

MISSING = "there is no such file"
"""Why a file cannot be read that is not there."""


def bytes_or_reason(uri: str) -> tuple[bytes, str]:
    """The bytes of an image's file, which may be too many for an image; or why it cannot be read.

    Raises:
        StorageError: S3 fails, which says nothing of the image.
    """
    try:
        return read_bytes(uri, MAX_BYTES + 1), ""
    except FileNotFoundError:
        return b"", MISSING
    except OSError as error:
        return b"", f"the file cannot be read ({error.strerror})"


def image_bytes(root: str, image: ImageRow) -> bytes:
    """The bytes of an image whose content hash is known.

    Raises:
        ConfigError: the file is gone, or is another than when it was inspected.
    """
    uri = f"{root}/{image.path}"
    try:
        data = read_bytes(uri)
    except FileNotFoundError:
        raise ConfigError(f"{uri} is gone; put it back, or take it out of the image table") from None
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise ConfigError(
            f"{uri} is another image than the table says by its sha256; where the table has that column, remove it or "
            "correct this row; otherwise run the command again, which inspects what has changed"
        )
    return data
