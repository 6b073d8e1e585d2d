"""DICOM files of one frame: their values, and the window, the colours and the patient that they name.

pydicom and the decoders of compressed pixels are the extra ``dicom``. A transfer syntax has one decoder, whatever else
is installed, so that a file gives the same pixels everywhere; see docs/decisions.md.
"""

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from fpt_ray.errors import ConfigError
from fpt_ray.images.codestream import segment
from fpt_ray.images.picture import Grey, ImageError, Picture, windowed

_MAGIC_AT, _MAGIC = 128, b"DICM"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_DECODERS: Mapping[str, tuple[str, str]] = {
    "1.2.840.10008.1.2.4.50": ("JPEG baseline", "pillow"),
    "1.2.840.10008.1.2.4.51": ("JPEG extended", "pillow"),
    "1.2.840.10008.1.2.4.57": ("JPEG lossless", "gdcm"),
    "1.2.840.10008.1.2.4.70": ("JPEG lossless SV1", "gdcm"),
    "1.2.840.10008.1.2.4.80": ("JPEG-LS lossless", "pyjpegls"),
    "1.2.840.10008.1.2.4.81": ("JPEG-LS near-lossless", "pyjpegls"),
    "1.2.840.10008.1.2.4.90": ("JPEG 2000 lossless", "pylibjpeg"),
    "1.2.840.10008.1.2.4.91": ("JPEG 2000", "pylibjpeg"),
    "1.2.840.10008.1.2.4.201": ("HTJ2K lossless", "pylibjpeg"),
    "1.2.840.10008.1.2.4.202": ("HTJ2K lossless RPCL", "pylibjpeg"),
    "1.2.840.10008.1.2.4.203": ("HTJ2K", "pylibjpeg"),
    "1.2.840.10008.1.2.5": ("RLE", "pydicom"),
}
"""{transfer syntax: its name, and pydicom's name of what decodes it}; the others here are not compressed."""
_PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_READ_BY_PILLOW = ("pillow", "pylibjpeg")
"""What Pillow can say the size of, before it is decoded."""
_FRAMES = {"pyjpegls": b"\xff\xf7", "gdcm": b"\xff\xc3"}
"""What else decodes, and the marker of the frames that it reads (ISO/IEC 14495-1 and 10918-1, B.2.2)."""
_FRAME_SIZE = ((1, 3), (3, 5), (5, 6))
"""Where height, width and channels stand in it."""


def is_dicom(data: bytes) -> bool:
    """Whether a file is DICOM by its content (PS3.10, 7.1)."""
    return data[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC


def dicom_size(data: bytes, source: str) -> tuple[int, int]:
    """(width, height) in pixels, by the header.

    Raises:
        ImageError: it has none.
    """
    with _faults_told(source):
        header = _read(data, source, ["Rows", "Columns"])
        return int(header.Columns), int(header.Rows)


def read_dicom(data: bytes, source: str, max_pixels: int) -> Picture:
    """A DICOM file of one frame, as it holds its values: rescaled, without its window.

    Raises:
        ImageError: it has no pixels or too many, several frames, an encoding or colours that are not read, or damage.
        ConfigError: the extra ``dicom`` is not installed.
    """
    with _faults_told(source):
        file = _read(data, source)
        _require_one_frame(file, source, max_pixels)
        pixels, colours = _decoded(file, source)
        patient = str(file.get("PatientID") or "").strip()
        if colours in ("MONOCHROME1", "MONOCHROME2"):
            values, span = _rescaled(pixels, file)
            return Picture(
                source=source,
                grey=values,
                span=span,
                white_is_zero=colours == "MONOCHROME1",
                own_window=_own_window(file, source),
                patient=patient,
            )
        image = Image.fromarray(_colours(pixels, colours, file, source))
        image.info["icc_profile"] = file.get("ICCProfile")
        return Picture(source=source, colours=image, patient=patient)


@contextmanager
def _faults_told(source: str) -> Iterator[None]:
    """Pydicom warns of much that it mends, and raises whatever it likes of what it cannot."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ConfigError, MemoryError):  # too little memory says nothing of the image
        raise
    except Exception as error:
        raise ImageError(source, f"its DICOM cannot be read ({type(error).__name__}: {error})") from error


def _read(data: bytes, source: str, tags: Any = None) -> Any:
    try:
        from pydicom import dcmread
    except ImportError:
        raise ConfigError(
            f"images: {source} is a DICOM file, which needs pydicom; pip install 'fpt_ray[dicom]'"
        ) from None
    if _DEFLATED in data:  # as the meta header says it, of whatever length, which is never compressed
        raise ImageError(
            source, "all of the file is deflated, to an unknown size; save it with another transfer syntax"
        )
    return dcmread(io.BytesIO(data), stop_before_pixels=tags is not None, specific_tags=tags)


def _require_one_frame(file: Any, source: str, max_pixels: int) -> None:
    if "PixelData" not in file:
        if "Rows" in file and "BitsStored" in file:
            raise ImageError(source, "it says how large its pixels are and has none; it may be cut off, copy it again")
        kind = "floating-point pixels" if "FloatPixelData" in file or "DoubleFloatPixelData" in file else "no pixels"
        raise ImageError(source, f"it has {kind} (modality {file.get('Modality') or 'unknown'}); leave it out")
    if (frames := int(file.get("NumberOfFrames") or 1)) != 1:
        raise ImageError(
            source, f"it has {frames} frames; save each that counts as a file of its own (such as a PNG) and list those"
        )
    width, height = int(file.Columns), int(file.Rows)
    if not 0 < width * height <= max_pixels:
        raise ImageError(source, f"it is {width}x{height}; it must have 1 to {max_pixels:,} pixels")


# --- pixels ---------------------------------------------------------------------------------------------------


def _decoded(file: Any, source: str) -> tuple[np.ndarray, str]:
    """The values of the frame, and what they are (photometric interpretation)."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = str(file.file_meta.TransferSyntaxUID)
    if syntax in _PLAIN:
        plugin = ""
    elif syntax in _DECODERS:
        name, plugin = _DECODERS[syntax]
        _require_decodable(file, source, name, plugin)
    else:
        name = file.file_meta.TransferSyntaxUID.name
        raise ImageError(source, f"its pixels are encoded as {name} ({syntax}), which is not read; decompress it first")
    pixels, found = get_decoder(syntax).as_array(file, decoding_plugin=plugin)
    return pixels, str(found["photometric_interpretation"])


def _require_decodable(file: Any, source: str, name: str, plugin: str) -> None:
    from pydicom.encaps import get_frame
    from pydicom.pixels.decoders.base import get_decoder

    syntax = file.file_meta.TransferSyntaxUID
    if plugin not in get_decoder(syntax).available_plugins:
        raise ConfigError(
            f"images: {source} is encoded as {name} ({syntax}), for which {plugin} is missing; "
            "pip install 'fpt_ray[dicom]'"
        )
    if plugin == "pillow" and file.BitsStored > 8:
        raise ImageError(
            source,
            f"its pixels are encoded as {name} of {file.BitsStored} bits, which is not read; decompress it first",
        )
    if plugin in _READ_BY_PILLOW:
        frame = get_frame(file.PixelData, 0, number_of_frames=1)
        with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as image:
            if image.size != (file.Columns, file.Rows):
                width, height = image.size
                raise ImageError(source, f"its header says {file.Columns}x{file.Rows}, its pixels are {width}x{height}")
    if plugin in _FRAMES:
        frame = get_frame(file.PixelData, 0, number_of_frames=1)
        at = segment(frame, 2, _FRAMES[plugin])
        height, width, channels = (int.from_bytes(frame[at + first : at + last]) for first, last in _FRAME_SIZE)
        if (width, height, channels) != (file.Columns, file.Rows, file.SamplesPerPixel):
            raise ImageError(
                source,
                f"its header says {file.Columns}x{file.Rows} of {file.SamplesPerPixel}, its pixels are {width}x{height}"
                f" of {channels}",
            )


def _colours(pixels: np.ndarray, colours: str, file: Any, source: str) -> np.ndarray:
    """RGB of 8 bits."""
    from pydicom.pixels.processing import apply_color_lut

    bits = int(file.BitsStored)
    if colours == "PALETTE COLOR":
        pixels, bits = apply_color_lut(pixels, file)[..., :3], int(file.RedPaletteColorLookupTableDescriptor[2])
    elif colours != "RGB":
        raise ImageError(source, f"its photometric interpretation is {colours}, which is not read; save it as RGB")
    if bits == 8 and pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    return (pixels / (2.0**bits - 1) * 255 + 0.5).clip(0, 255).astype(np.uint8)


# --- grey -----------------------------------------------------------------------------------------------------


def _rescaled(values: Grey, file: Any) -> tuple[Grey, tuple[float, float]]:
    """The values by the modality's table or slope and intercept (PS3.3, C.11.1), and what they can be."""
    if tables := file.get("ModalityLUTSequence"):
        return _looked_up(values, tables[0], file), (0, 2 ** int(tables[0].LUTDescriptor[2]) - 1)
    bits = int(file.BitsStored)
    ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if file.PixelRepresentation else (0, 2**bits - 1)
    holder = _holder(file, "PixelValueTransformationSequence")
    slope, intercept = float(holder.get("RescaleSlope") or 1), float(holder.get("RescaleIntercept") or 0)
    if (slope, intercept) == (1, 0):
        return values, ends
    low, high = sorted(end * slope + intercept for end in ends)
    return (values * slope + intercept).astype(np.float32), (low, high)


def _own_window(file: Any, source: str) -> Any:
    """What takes rescaled values to 0..1 by the file's own table, or else its first window (PS3.3, C.11.2)."""
    if tables := file.get("VOILUTSequence"):
        white = 2.0 ** int(tables[0].LUTDescriptor[2]) - 1

        def looked_up(values: Grey) -> Float[np.ndarray, "Y X"]:
            with _faults_told(source):
                return _looked_up(np.rint(values).astype(np.int64), tables[0], file) / white

        return looked_up
    holder = _holder(file, "FrameVOILUTSequence")
    if holder.get("WindowCenter") is None or holder.get("WindowWidth") is None:
        return None
    centre, width = (float(np.atleast_1d(holder.get(name))[0]) for name in ("WindowCenter", "WindowWidth"))
    if width <= 0:
        return None
    kind = str(holder.get("VOILUTFunction") or "LINEAR").upper()

    def shown(values: Grey) -> Float[np.ndarray, "Y X"]:
        values = values.astype(np.float32)
        if kind == "SIGMOID":
            return 1 / (1 + np.exp(-4 * (values - centre) / width))
        if kind == "LINEAR_EXACT":
            return (values - centre) / width + 0.5
        return windowed(values, centre, width)

    return shown


def _holder(file: Any, macro: str) -> Any:
    """Where a file has what a macro describes: within its functional groups (enhanced images), or itself."""
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        if (items := file.get(groups)) and (found := items[0].get(macro)):
            return found[0]
    return file


def _looked_up(values: Grey, table: Any, file: Any) -> Grey:
    """Whole values by a table (PS3.3, C.11.1.1): those before its first and after its last entry have that one's."""
    entries, first, _ = (int(one) for one in table.LUTDescriptor)
    if file.PixelRepresentation and first > 2**15 - 1:
        first -= 2**16
    found = table.LUTData
    if isinstance(found, bytes):
        width = 2 if len(found) >= 2 * (entries or 2**16) else 1
        found = np.frombuffer(found, np.dtype(f"{'<' if file.original_encoding[1] else '>'}u{width}"))
    numbers = np.asarray(found)[: entries or 2**16]
    return numbers[np.clip(values.astype(np.int64) - first, 0, len(numbers) - 1)]
