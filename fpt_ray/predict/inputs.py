"""Images as callers have them: files, bytes, arrays, Pillow's."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fpt_ray.config.preparation import Preparation
from fpt_ray.images.decoding import picture_of, read_square
from fpt_ray.images.file import bytes_or_reason
from fpt_ray.images.picture import ImageError, square_of

ImageLike = str | Path | bytes | np.ndarray | Image.Image


def square_of_input(image: ImageLike, name: str, preparation: Preparation) -> UInt8[np.ndarray, "R R 3"]:
    """An image as extraction takes it; whatever it is, it is decoded as the files of a study are.

    ``name`` is what it is called in errors, where it has no path.

    Raises:
        ImageError: it cannot be read or decoded.
    """
    match image:
        case str() | Path():
            return read_square(_read(str(image)), str(image), preparation)
        case bytes():
            return read_square(image, name, preparation)
        case np.ndarray():
            return square_of(picture_of(_image_of(image, name), name), preparation)
        case _:
            return square_of(picture_of(image, name), preparation)


def _read(path: str) -> bytes:
    data, reason = bytes_or_reason(path)
    if reason:
        raise ImageError(path, reason)
    return data


def _image_of(array: np.ndarray, name: str) -> Image.Image:
    colour = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16)
    if not (colour or grey) or not array.size:
        raise ImageError(
            name, f"an array of {array.dtype} and shape {array.shape}; give uint8 (Y, X, 3), or uint8 or uint16 (Y, X)"
        )
    return Image.fromarray(np.ascontiguousarray(array))
