"""Images as callers have them: files, bytes, arrays, Pillow's."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from fpt_ray.images.decoding import MAX_BYTES, ImageError, decode
from fpt_ray.storage.files import read_bytes

Picture = str | Path | bytes | np.ndarray | Image.Image


def pixels_of(picture: Picture, name: str) -> UInt8[np.ndarray, "Y X 3"]:
    """The RGB pixels of an image; whatever it is, it is decoded as the files of a study are.

    ``name`` is what it is called in errors, where it has no path.

    Raises:
        ImageError: it cannot be read or decoded.
    """
    match picture:
        case str() | Path():
            return decode(_read(str(picture)), str(picture))
        case bytes():
            return decode(picture, name)
        case np.ndarray():
            return decode(_encoded(_image_of(picture, name)), name)
        case _:
            return decode(_encoded(picture), name)


def _read(path: str) -> bytes:
    try:
        return read_bytes(path, MAX_BYTES + 1)
    except FileNotFoundError:
        raise ImageError(path, "there is no such file") from None


def _image_of(array: np.ndarray, name: str) -> Image.Image:
    colour = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if not (colour or grey) or not array.size:
        raise ImageError(
            name, f"an array of {array.dtype} and shape {array.shape}; give uint8 (Y, X, 3), or uint8 or uint16 (Y, X)"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _encoded(image: Image.Image) -> bytes:
    """TIFF, which has all of Pillow's modes and loses nothing."""
    sink = io.BytesIO()
    ImageOps.exif_transpose(image).save(sink, "TIFF")
    return sink.getvalue()
