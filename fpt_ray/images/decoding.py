"""From a file's bytes to pixels, as one value says how (``Preparation``). It needs no PyTorch, slow to import."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile

from fpt_ray.config.preparation import Preparation
from fpt_ray.images.codestream import segment
from fpt_ray.images.dicom import dicom_size, is_dicom, read_dicom
from fpt_ray.images.picture import Frame, ImageError, Picture, content_of, eight_bit, shown_part, square_of

# Pillow warns above this many pixels. Keeping to it means that none of Pillow's global switches has to be touched.
MAX_PIXELS = 89_478_485
MAX_BYTES = 512 * 2**20
# Only these decoders run on foreign bytes; Pillow has others that start programs (EPS) or are hardly maintained.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")

_TIFF_BITS, _TIFF_COMPRESSION, _TIFF_PHOTOMETRIC, _TIFF_PLANES = 258, 259, 262, 284
_PNG_BITS_AT = 24
"""In the header, which comes first."""
_J2K_START, _J2K_COD = b"\xff\x4f\xff\x51", b"\xff\x52"
_ORIENTATION = 274
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations in which height and width change places."""


def read_square(
    data: bytes, source: str, preparation: Preparation, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "R R 3"]:
    """An encoded image as extraction takes it.

    Raises:
        ImageError: as ``read_picture`` and ``square_of``.
    """
    least = 2 * preparation.resolution if preparation.reduced_scale else None
    return square_of(read_picture(data, source, max_pixels, least), preparation)


def decode(data: bytes, source: str, preparation: Preparation | None = None) -> UInt8[np.ndarray, "Y X 3"]:
    """The RGB pixels of an encoded image, upright, whole, by these settings or the defaults.

    Grey becomes three equal channels; 16-bit grey is scaled by its full range (65535 to 255) if nothing else is asked;
    palettes and CMYK are converted.

    Raises:
        ImageError: as ``read_picture`` and ``eight_bit``.
    """
    return eight_bit(read_picture(data, source), preparation or Preparation())


def read_picture(data: bytes, source: str, max_pixels: int = MAX_PIXELS, least: int | None = None) -> Picture:
    """An encoded image as its file holds it, upright (EXIF orientation applied).

    Transparent pixels are blended onto black. Of several frames or pages the first is taken. With ``least``, it is
    decoded at a reduced scale where its format can be, of which no side has fewer pixels.

    Raises:
        ImageError: the bytes are empty, too many, no image of a known format, cut off or damaged; the image has no
            pixels or more than ``max_pixels`` (said by its header, before anything is decoded); its range is unknown.
    """
    if not data:
        raise ImageError(source, "the file is empty (0 bytes)")
    if len(data) > MAX_BYTES:
        raise ImageError(source, f"the file has more than {MAX_BYTES:,} bytes")
    if is_dicom(data):
        return read_dicom(data, source, max_pixels)
    with _faults_told(source, max_pixels), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(image.size, source, max_pixels)
        _refuse_planes(image, data, source)
        if least is not None:
            _reduce(image, data, least)
        return _picture(image, source)


def picture_of(image: Image.Image, source: str) -> Picture:
    """An image of Pillow's as ``read_picture`` gives that of the file that it was opened from.

    Raises:
        ImageError: it is of an opened file that is damaged, or as ``read_picture``.
    """
    with _faults_told(source, MAX_PIXELS):
        _check_size(image.size, source, MAX_PIXELS)
        return _picture(image, source)


@contextmanager
def _faults_told(source: str, max_pixels: int) -> Iterator[None]:
    """Decoders of foreign bytes raise whatever they like; each means: not readable."""
    try:
        yield
    except (ImageError, MemoryError):  # too little memory says nothing of the image
        raise
    except UnidentifiedImageError:
        raise ImageError(source, f"no readable image of a known format ({', '.join(FORMATS)}, DICOM)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(source, f"it has more than {max_pixels:,} pixels; make it smaller first") from None
    except Exception as error:
        raise ImageError(source, f"it cannot be decoded ({type(error).__name__}: {error})") from error


def image_size(data: bytes, source: str) -> tuple[int, int]:
    """(width, height) in pixels of an encoded image, upright, by its header alone.

    Raises:
        ImageError: it is no image of a known format.
    """
    if is_dicom(data):
        return dicom_size(data, source)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS
    except MemoryError:
        raise
    except Exception as error:  # Decoders of foreign bytes raise whatever they like; each means: not readable.
        raise ImageError(source, f"its header cannot be read ({type(error).__name__}: {error})") from error
    return (height, width) if turned else (width, height)


def size_and_frame(data: bytes, source: str, preparation: Preparation) -> tuple[tuple[int, int], Frame]:
    """(width, height) of an encoded image in pixels, upright, and the part of it that its square shows.

    Raises:
        ImageError: it is no image of a known format.
    """
    width, height = image_size(data, source)
    content = Frame(0, 0, width, height)
    if preparation.crop_black is not None:
        content = content_of(decode(data, source, preparation), preparation)
    return (width, height), shown_part(content, preparation)


def _check_size(size: tuple[int, int], source: str, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(source, f"it is {width}x{height}; it has no pixels")
    if width * height > max_pixels:
        raise ImageError(source, f"it is {width}x{height}, more than {max_pixels:,} pixels; make it smaller first")


def _reduce(image: Image.Image, data: bytes, least: int) -> None:
    """Has an opened JPEG or JPEG 2000 decoded at 1/2, 1/4 or 1/8 of its size: of its cosines, or of its wavelets.

    A JPEG 2000 can be halved as often as it was when it was encoded, and as Pillow and its decoder agree on its size.
    """
    shorter = min(image.size)
    halvings = next((times for times in (3, 2, 1) if shorter >> times >= least), 0)
    if isinstance(image, JpegImageFile) and halvings:
        image.draft(None, (image.width >> halvings, image.height >> halvings))
    elif isinstance(image, Jpeg2KImageFile) and halvings:
        most = min(halvings, _decompositions(data))
        agreed = (times for times in range(most, 0, -1) if all(_is_agreed(side, times) for side in image.size))
        image.reduce = next(agreed, 0)  # type: ignore[method-assign]


def _is_agreed(side: int, halvings: int) -> bool:
    """Whether Pillow, which rounds a reduced side to the nearest, finds it as long as its decoder, which rounds up."""
    return side + 2**halvings // 2 >> halvings == -(-side >> halvings)


def _decompositions(data: bytes) -> int:
    """How often a JPEG 2000 was halved, by the marker COD of its main header (ISO/IEC 15444-1, A.6.1)."""
    return data[segment(data, data.index(_J2K_START) + 2, _J2K_COD) + 5]


def colour_bits(image: Image.Image, data: bytes) -> int:
    """Bits of a channel of an opened PNG or TIFF, by its header, of which Pillow gives colours 8; 0: another format."""
    if image.format == "PNG":
        return data[_PNG_BITS_AT]
    if image.format == "TIFF":
        told = np.atleast_1d(image.getexif().get(_TIFF_BITS, 0))[: len(image.getbands())]  # Pillow, too, drops the rest
        return min(255, max(told.tolist()))
    return 0


def _refuse_planes(image: Image.Image, data: bytes, source: str) -> None:
    """Pillow takes the bytes of such a file for pixels."""
    tags = image.getexif() if image.format == "TIFF" else {}
    plain = tags.get(_TIFF_COMPRESSION, 1) == 1
    if plain and tags.get(_TIFF_PLANES) == 2 and colour_bits(image, data) > 8:
        raise ImageError(
            source, "its values of 16 bits lie in planes that are not compressed, which is not read; save it as PNG"
        )


def _picture(image: Image.Image, source: str) -> Picture:
    """All that an opened file or an image of Pillow's holds, upright."""
    white_is_zero = image.format == "TIFF" and image.getexif().get(_TIFF_PHOTOMETRIC) == 0
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = np.array(image)
        if not 0 <= grey.min() <= grey.max() <= 65535:
            raise ImageError(
                source,
                f"its values are {grey.min()}..{grey.max()}, neither 8 nor 16 bits; save it as 16-bit grey",
            )
        # Pillow turns WhiteIsZero round for 8 bits, not for 16.
        return Picture(source=source, grey=grey, span=(0, 65535), white_is_zero=white_is_zero)
    if image.mode == "F":
        raise ImageError(source, "it holds floating-point values of unknown range; save it as 8-bit or 16-bit grey")
    profile, mode = image.info.get("icc_profile"), image.mode
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    if image.mode not in ("L", "RGB", "CMYK"):  # as profiles are of grey, of red, green and blue, or of inks
        image = image.convert("L" if mode in ("1", "L", "LA", "La") else "RGB")
    image.info["icc_profile"] = profile
    return Picture(source=source, colours=image)
