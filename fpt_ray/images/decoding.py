"""Images as files hold them: bytes to RGB arrays, and those to squares. It needs no PyTorch, slow to import."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from fpt_ray.errors import ConfigError

# Pillow warns above this many pixels. Keeping to it means that none of Pillow's global switches has to be touched.
MAX_PIXELS = 89_478_485
MAX_BYTES = 512 * 2**20
# Only these decoders run on foreign bytes; Pillow has others that start programs (EPS) or are hardly maintained.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")

_TIFF_PHOTOMETRIC = 262
_ORIENTATION = 274
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations in which height and width change places."""


class ImageError(ConfigError):
    """An image cannot be used. The message names the file and the reason; ``reason`` is the latter alone."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


def decode(data: bytes, source: str) -> UInt8[np.ndarray, "Y X 3"]:
    """The RGB pixels of an encoded image, upright (EXIF orientation applied).

    Grey becomes three equal channels; 16-bit grey is scaled by its full range (65535 to 255); palettes and CMYK are
    converted (colour profiles are not applied); transparent pixels are blended onto black. Of several frames or pages
    the first is taken.

    Raises:
        ImageError: the bytes are empty, too many, no image of a known format, cut off or damaged; the image has no
            pixels or more than MAX_PIXELS (said by its header, before anything is decoded); its range is unknown.
    """
    if not data:
        raise ImageError(source, "the file is empty (0 bytes)")
    if len(data) > MAX_BYTES:
        raise ImageError(source, f"the file has more than {MAX_BYTES:,} bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, source)
            white_is_zero = image.format == "TIFF" and image.getexif().get(_TIFF_PHOTOMETRIC) == 0
            image.load()
            return _rgb(ImageOps.exif_transpose(image), white_is_zero, source)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(source, f"no readable image of a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(source, f"it has more than {MAX_PIXELS:,} pixels; make it smaller first") from None
    except Exception as error:  # Decoders of foreign bytes raise whatever they like; each means: not readable.
        raise ImageError(source, f"it cannot be decoded ({type(error).__name__}: {error})") from error


def image_size(data: bytes, source: str) -> tuple[int, int]:
    """(width, height) in pixels of an encoded image, upright, by its header alone.

    Raises:
        ImageError: it is no image of a known format.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
    except Exception as error:  # Decoders of foreign bytes raise whatever they like; each means: not readable.
        raise ImageError(source, f"its header cannot be read ({type(error).__name__}: {error})") from error
    return (height, width) if turned else (width, height)


def resize(image: UInt8[np.ndarray, "Y X 3"], resolution: int) -> UInt8[np.ndarray, "R R 3"]:
    """The image stretched to a square of ``resolution`` pixels, as the authors do it: the aspect is not kept.

    Pillow's bicubic filter, whose support grows with the reduction (antialiased).
    """
    return np.array(Image.fromarray(image).resize((resolution, resolution), Image.Resampling.BICUBIC))


def _check_size(size: tuple[int, int], source: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(source, f"it is {width}x{height}; it has no pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(source, f"it is {width}x{height}, more than {MAX_PIXELS:,} pixels; make it smaller first")


def _rgb(image: Image.Image, white_is_zero: bool, source: str) -> UInt8[np.ndarray, "Y X 3"]:
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = _eight_bit(np.asarray(image), source)
        # Pillow turns WhiteIsZero round for 8 bits, not for 16.
        return np.repeat((255 - grey if white_is_zero else grey)[..., None], 3, axis=2)
    if image.mode == "F":
        raise ImageError(source, "it holds floating-point values of unknown range; save it as 8-bit or 16-bit grey")
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _eight_bit(values: np.ndarray, source: str) -> UInt8[np.ndarray, "Y X"]:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(source, f"its values are {low}..{high}, neither 8 nor 16 bits; save it as 16-bit grey")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257, rounded to nearest
