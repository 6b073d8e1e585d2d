"""An image as its file holds it, and what becomes of it: 8 bits, and a square. Pure; ``decoding`` reads files."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Num, UInt8
from PIL import Image, ImageCms

from fpt_ray.config.preparation import Preparation
from fpt_ray.errors import ConfigError

Grey = Num[np.ndarray, "Y X"]


class ImageError(ConfigError):
    """An image cannot be used. The message names the file and the reason; ``reason`` is the latter alone."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class Facts(NamedTuple):
    """What a file holds, as far as it may be told: kept with what inspection finds."""

    width: int
    """In pixels, upright."""
    height: int
    low: float
    """The least value of all channels."""
    high: float
    """The largest."""
    black: float
    """The least value that the type can hold: 0."""
    white: float
    """The largest: 255 for 8 bits."""
    one_colour: bool
    """Whether all pixels are the same."""
    window: bool
    """Whether it has a window of its own, or needs none."""
    patient: str
    """Who it is of, where the file says that (DICOM)."""
    profile: str
    """Why its colour profile cannot be applied; empty where it can be, or where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An image as its file holds it, upright: colours (or grey) of 8 bits, or grey of any range."""

    source: str
    colours: Image.Image | None = None
    """Grey, RGB or CMYK as in the file, without transparency, with its colour profile; None where there is ``grey``."""
    grey: Grey | None = None
    span: tuple[float, float] = (0, 255)
    """The values of ``grey`` that its type can hold."""
    white_is_zero: bool = False
    """Whether the least of ``grey`` is white."""
    own_window: Callable[[Grey], Float[np.ndarray, "Y X"]] | None = None
    """The window or table of the file: its values as 0..1, from black to white."""
    patient: str = ""

    def facts(self) -> Facts:
        """What may be told of it."""
        if self.colours is not None:
            size = self.colours.size
            ends = [self.colours.getchannel(name).getextrema() for name in self.colours.getbands()]
        else:
            assert self.grey is not None
            size = self.grey.shape[::-1]
            ends = [(self.grey.min(), self.grey.max())]
        return Facts(
            width=size[0],
            height=size[1],
            low=min(float(low) for low, _ in ends),  # type: ignore[arg-type]
            high=max(float(high) for _, high in ends),  # type: ignore[arg-type]
            black=self.span[0],
            white=self.span[1],
            one_colour=all(low == high for low, high in ends),
            window=self.grey is None or self.own_window is not None,
            patient=self.patient,
            profile=_misfit(self),
        )


# --- 8 bits ---------------------------------------------------------------------------------------------------


def eight_bit(picture: Picture, preparation: Preparation) -> UInt8[np.ndarray, "Y X 3"]:
    """The RGB pixels of a whole image.

    Raises:
        ImageError: a window is asked for that the file does not have, or its colour profile cannot be applied.
    """
    if picture.colours is not None:
        return np.array(_srgb(picture) if preparation.srgb else picture.colours.convert("RGB"))
    grey = (np.clip(_shown(picture, preparation), 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.repeat((255 - grey if picture.white_is_zero else grey)[..., None], 3, axis=2)


def _shown(picture: Picture, preparation: Preparation) -> Float[np.ndarray, "Y X"]:
    """Grey values as shares of the way from black to white, some beyond both."""
    assert picture.grey is not None
    values = picture.grey.astype(np.float32)
    if preparation.intensity == "full":
        return _between(values, *picture.span)
    if preparation.intensity == "percentile":
        return _between(values, *np.percentile(values, preparation.percentiles))
    if preparation.window is not None:
        return windowed(values, *preparation.window)
    if picture.own_window is None:
        raise ImageError(
            picture.source,
            "features.intensity is window, and the file has none; give features.window (centre and width), or take "
            "features.intensity percentile",
        )
    return picture.own_window(picture.grey)


def windowed(values: Float[np.ndarray, "Y X"], centre: float, width: float) -> Float[np.ndarray, "Y X"]:
    """DICOM's linear window (PS3.3, C.11.2.1.2.1): whole values, so that a width of 256 has 256 of them."""
    low = centre - 0.5 - (width - 1) / 2
    return _between(values, low, low + width - 1)


def _between(values: Float[np.ndarray, "Y X"], low: float, high: float) -> Float[np.ndarray, "Y X"]:
    return (values - low) / ((high - low) or 1.0)


def _srgb(picture: Picture) -> Image.Image:
    assert picture.colours is not None
    if reason := _misfit(picture):
        raise ImageError(picture.source, reason)
    if not (profile := picture.colours.info.get("icc_profile")):
        return picture.colours.convert("RGB")
    found = ImageCms.applyTransform(picture.colours, _to_srgb(profile, picture.colours.mode))
    assert found is not None
    return found


def _misfit(picture: Picture) -> str:
    """Why the colour profile of an image cannot be applied; empty where it can be, or where there is none."""
    if picture.colours is None or not (profile := picture.colours.info.get("icc_profile")):
        return ""
    try:
        _to_srgb(profile, picture.colours.mode)
    except (ImageCms.PyCMSError, OSError) as error:
        return f"its colour profile cannot be applied ({error}); features.srgb false takes its numbers as they are"
    return ""


def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), mode, "RGB")


# --- the square -----------------------------------------------------------------------------------------------


class Frame(NamedTuple):
    """A part of an image, in pixels from its upper left corner."""

    left: float
    top: float
    width: float
    height: float

    def cut_from(self, pixels: UInt8[np.ndarray, "Y X 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """Its pixels; it lies within the image, at whole ones."""
        left, top, width, height = map(int, self)
        return pixels[top : top + height, left : left + width]


def square_of(picture: Picture, preparation: Preparation) -> UInt8[np.ndarray, "R R 3"]:
    """An image as extraction takes it.

    Raises:
        ImageError: as ``eight_bit``.
    """
    pixels, side = eight_bit(picture, preparation), preparation.resolution
    content = content_of(pixels, preparation)
    if preparation.aspect != "pad":
        return resize(shown_part(content, preparation).cut_from(pixels), side)
    image, square = Image.fromarray(content.cut_from(pixels)), Image.new("RGB", (side, side))
    across, down = (max(1, round(length * side / max(image.size))) for length in image.size)
    square.paste(image.resize((across, down), Image.Resampling.BICUBIC), ((side - across) // 2, (side - down) // 2))
    return np.array(square)


def resize(image: UInt8[np.ndarray, "Y X 3"], resolution: int) -> UInt8[np.ndarray, "R R 3"]:
    """The image stretched to a square of ``resolution`` pixels, as the authors do it: the aspect is not kept.

    Pillow's bicubic filter, whose support grows with the reduction (antialiased).
    """
    return np.array(Image.fromarray(image).resize((resolution, resolution), Image.Resampling.BICUBIC))


def smaller(high: UInt8[np.ndarray, "R R 3"], sides: Sequence[int]) -> list[np.ndarray]:
    """Each I_l, S S 3, down-sampled from I_h (section 3.3)."""
    return [high if side == len(high) else resize(high, side) for side in sides]


def content_of(pixels: UInt8[np.ndarray, "Y X 3"], preparation: Preparation) -> Frame:
    """All of an image, or what is left of it without its black border; an image of black stays as it is."""
    height, width, _ = pixels.shape
    if preparation.crop_black is None or pixels.max() <= preparation.crop_black:
        return Frame(0, 0, width, height)
    bright = pixels.max(axis=2) > preparation.crop_black
    rows, columns = (np.flatnonzero(bright.any(axis=axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return Frame(left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top)


def shown_part(content: Frame, preparation: Preparation) -> Frame:
    """What a square shows; it reaches beyond the content where bars are added."""
    if preparation.aspect == "squash":
        return content
    left, top, width, height = content
    if preparation.aspect == "pad":
        side = max(width, height)
        return Frame(left + (width - side) / 2, top + (height - side) / 2, side, side)
    side = min(width, height)
    return Frame(left + (width - side) // 2, top + (height - side) // 2, side, side)
