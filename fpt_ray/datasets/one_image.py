"""What is found of one image, and of several in this process. No Ray."""

import hashlib
import io
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8
from PIL import Image, ImageMode, UnidentifiedImageError

from fpt_ray.config.preparation import Preparation
from fpt_ray.datasets.checks.alike import perceptual_hash
from fpt_ray.datasets.findings import Finding, as_columns
from fpt_ray.images.decoding import FORMATS, colour_bits, read_picture
from fpt_ray.images.file import bytes_or_reason
from fpt_ray.images.picture import ImageError, Picture, eight_bit

_OF_FRAMES = ("TIFF", "GIF", "PNG", "WEBP")


def inspect_here(root: str, paths: pa.Array) -> pa.Table:
    """The findings of the images below a root, in order."""
    return as_columns([inspect_image(root, path)[0] for path in paths.to_pylist()])


def inspect_image(root: str, path: str) -> tuple[Finding, Picture | None]:
    """What is found of an image, and what its file holds where it decodes fully. The file is read once.

    Raises:
        StorageError: S3 fails, which says nothing of the image.
    """
    data, reason = bytes_or_reason(f"{root}/{path}")
    if reason:
        return Finding(reason=reason), None
    sha256 = hashlib.sha256(data).digest()
    try:
        picture = read_picture(data, path)
    except ImageError as error:
        return Finding(reason=error.reason, sha256=sha256), None
    return _finding(sha256, _header(data), picture), picture


class _Header(NamedTuple):
    """How a file holds its pixels."""

    mode: str = ""
    """As Pillow calls it; empty where the file is of none of its formats."""
    bits: int | None = None
    """Of a channel."""
    frames: int = 1


def _header(data: bytes) -> _Header:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            bits = 1 if image.mode == "1" else 8 * np.dtype(ImageMode.getmode(image.mode).typestr).itemsize
            return _Header(image.mode, max(bits, colour_bits(image, data)), _frames(image))
    except UnidentifiedImageError:
        return _Header()


def _frames(image: Image.Image) -> int:
    """Pages or frames; of a JPEG one, since what cameras add to it are other views of the same."""
    try:
        return getattr(image, "n_frames", 1) if image.format in _OF_FRAMES else 1
    except Exception:  # what follows the first, which was decoded, is damaged
        return 1


def _pixels_hash(picture: Picture, pixels: UInt8[np.ndarray, "Y X 3"]) -> bytes:
    """Of the values that the file holds: its ``pixels`` of 8 bits where these say all of them, or else its grey.

    Black is the least of grey, and its values are of 32-bit floats, as extraction takes them.
    """
    told = pixels.shape, pixels
    if picture.grey is not None:
        black, white = picture.span
        grey = picture.grey.astype("<f4")
        grey = black + white - grey if picture.white_is_zero else grey
        levels = (black + np.arange(256) * ((white - black) / 255)).astype("<f4")
        if not np.array_equal(grey, levels[pixels[..., 0]]):
            told = (grey.shape, picture.span), grey
    found = hashlib.blake2b(repr(told[0]).encode(), digest_size=16)
    found.update(np.ascontiguousarray(told[1]).data)
    return found.digest()


def _as_seen(picture: Picture, pixels: UInt8[np.ndarray, "Y X 3"]) -> UInt8[np.ndarray, "Y X 3"]:
    """The ``pixels``, or by the image's own range where its type can hold more values than these."""
    black, white = picture.span
    return eight_bit(picture, Preparation(intensity="percentile")) if white - black > 255 else pixels


def _finding(sha256: bytes, header: _Header, picture: Picture) -> Finding:
    """Of the whole range of its values, whatever a study makes of them."""
    pixels, facts = eight_bit(picture, Preparation()), picture.facts()
    counts = np.array(Image.fromarray(pixels).histogram(), np.float64).reshape(3, 256)
    values, number = np.arange(256) / 255, pixels.shape[0] * pixels.shape[1]
    return Finding(
        sha256=sha256,
        pixels=_pixels_hash(picture, pixels),
        width=pixels.shape[1],
        height=pixels.shape[0],
        mode=header.mode,
        bits=header.bits,
        frames=header.frames,
        one_colour=facts.one_colour,
        low=facts.low,
        high=facts.high,
        black=facts.black,
        white=facts.white,
        window=facts.window,
        patient=facts.patient,
        profile=facts.profile,
        means=tuple(counts @ values / number),
        squares=tuple(counts @ values**2 / number),
        perceptual=perceptual_hash(_as_seen(picture, pixels)),
    )
