"""Decoding is compared with pixels written by hand."""

import io
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from fpt_ray.images import decoding as images
from fpt_ray.images.decoding import ImageError, decode
from fpt_ray.images.picture import resize
from fpt_ray.images.pixels import normalise

PHOTOMETRIC, ORIENTATION = 0x0106, 0x0112


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(seed: int = 0, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png_header(width: int, height: int) -> bytes:
    """A PNG of which only the header is true."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


# --- decoding -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_formats_come_back_pixel_by_pixel(kind: str) -> None:
    pixels = photo()
    decoded = decode(encode(Image.fromarray(pixels), kind), "a")
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "JPEG2000"])
def test_lossy_formats_come_back_nearly(kind: str) -> None:
    pixels = np.full((32, 48, 3), (200, 80, 30), dtype=np.uint8)
    decoded = decode(encode(Image.fromarray(pixels), kind), "a")
    assert decoded.shape == pixels.shape
    assert np.abs(decoded.astype(int) - pixels).max() <= 4


def test_the_result_may_be_written_to() -> None:
    decoded = decode(encode(Image.fromarray(photo())), "a")
    decoded[0, 0] = 7


def test_grey_becomes_three_equal_channels() -> None:
    grey = photo()[..., 0]
    assert np.array_equal(decode(encode(Image.fromarray(grey)), "a"), np.repeat(grey[..., None], 3, axis=2))


def test_one_bit_becomes_black_and_white() -> None:
    bits = photo()[..., 0] > 127
    decoded = decode(encode(Image.fromarray(bits)), "a")
    assert np.array_equal(decoded, np.repeat((bits * 255)[..., None], 3, axis=2))


def test_palette_is_looked_up() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert decode(encode(image, "GIF"), "a").tolist() == [[[10, 20, 30], [200, 100, 50]]]


def test_cmyk_is_converted() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    assert decode(encode(image, "TIFF"), "a")[8, 8].tolist() == [255, 0, 0]
    assert np.abs(decode(encode(image, "JPEG"), "a")[8, 8].astype(int) - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize(
    ("mode", "colour", "seen"), [("RGBA", (200, 100, 50), [100, 50, 25]), ("LA", (200,), [100] * 3)]
)
def test_transparency_is_blended_onto_black(mode: str, colour: tuple[int, ...], seen: list[int]) -> None:
    image = Image.new(mode, (3, 1))
    image.putdata([(*colour, 255), (*colour, 128), (*colour, 0)])
    decoded = decode(encode(image), "a")
    assert decoded[0, 0].tolist() == list(colour) * (3 // len(colour))
    assert np.abs(decoded[0, 1].astype(int) - seen).max() <= 1
    assert decoded[0, 2].tolist() == [0, 0, 0]


def test_a_transparent_palette_entry_is_black() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert decode(encode(image, "PNG", transparency=0), "a").tolist() == [[[0, 0, 0], [200, 100, 50]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_by_their_full_range(kind: str) -> None:
    values = np.array([[0, 128, 129, 257, 300, 32768, 65278, 65535]], dtype=np.uint16)
    expected = np.rint(values / 257).astype(int)
    decoded = decode(encode(Image.fromarray(values), kind), "a")
    assert decoded.shape == (1, 8, 3)
    assert np.array_equal(decoded, np.repeat(expected[..., None], 3, axis=2))


def test_sixteen_bits_in_a_32_bit_tiff() -> None:
    values = np.array([[0, 257, 65535]], dtype=np.int32)
    assert decode(encode(Image.fromarray(values), "TIFF"), "a")[0, :, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize("values", [[[0, 65536]], [[-1, 5]]])
def test_other_32_bit_ranges_are_refused(values: list[list[int]]) -> None:
    with pytest.raises(ImageError, match=r"a\.tif: its values are .* save it as 16-bit grey"):
        decode(encode(Image.fromarray(np.array(values, dtype=np.int32)), "TIFF"), "a.tif")


def test_floats_are_refused() -> None:
    with pytest.raises(ImageError, match="floating-point"):
        decode(encode(Image.fromarray(np.ones((2, 2), dtype=np.float32)), "TIFF"), "a.tif")


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_tiff_that_calls_zero_white_is_turned_round(dtype: type, top: int) -> None:
    data = encode(Image.fromarray(np.array([[0, top, 0]], dtype=dtype)), "TIFF")
    entry = struct.pack("<HHI", PHOTOMETRIC, 3, 1)
    assert data.count(entry + b"\1") == 1
    assert decode(data.replace(entry + b"\1", entry + b"\0"), "a")[0, :, 0].tolist() == [255, 0, 255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize(("orientation", "turn"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270)])
def test_orientation_is_applied(kind: str, orientation: int, turn: Image.Transpose) -> None:
    image = Image.new("RGB", (32, 16), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    decoded = decode(encode(image, kind, exif=exif), "a")
    expected = np.array(image.transpose(turn))
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).max() <= 8


def test_orientation_is_applied_to_sixteen_bits() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    data = encode(Image.fromarray(np.array([[0, 65535, 65535]], dtype=np.uint16)), exif=exif)
    assert decode(data, "a")[0, :, 0].tolist() == [255, 255, 0]


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP", "GIF"])
def test_cut_off_files_are_refused(kind: str) -> None:
    data = encode(Image.fromarray(photo()), kind)
    decode(data, "whole")
    with pytest.raises(ImageError, match=r"folder/cut\.img: "):
        decode(data[: len(data) // 2], "folder/cut.img")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"not an image", "known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
        (b"P6 0 0 255\n", "a.img"),
        (png_header(0, 0), "a.img"),
        (b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0), "a.img"),
    ],
    ids=["empty", "text", "postscript", "0x0 ppm", "0x0 png", "0x0 bmp"],
)
def test_what_is_no_image_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        decode(data, "a.img")
    assert str(caught.value).startswith("a.img: ")
    assert " at 0x" not in str(caught.value)


@pytest.mark.parametrize("side", [9_500, 20_000, 60_000])
def test_bombs_are_refused_by_their_header(side: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(ImageError, match="more than 89,478,485 pixels"):
            decode(png_header(side, side), "bomb.png")


def test_bombs_are_refused_where_warnings_are_errors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="more than 89,478,485 pixels"):
            decode(png_header(9_500, 9_500), "bomb.png")


def test_the_bomb_limit_is_ours_even_where_pillow_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(ImageError, match="it is 20000x20000, more than"):
        decode(png_header(20_000, 20_000), "bomb.png")


def test_large_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.fromarray(photo()))
    monkeypatch.setattr(images, "MAX_BYTES", len(data))
    decode(data, "a")
    with pytest.raises(ImageError, match="bytes"):
        decode(data + b"\0", "a")


def test_the_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.png", "it is bad")))
    assert (str(error), error.source, error.reason) == ("a.png: it is bad", "a.png", "it is bad")


# --- resize and normalise -------------------------------------------------------------------------------------


def test_resize_stretches_to_a_square() -> None:
    image = np.zeros((20, 80, 3), dtype=np.uint8)
    image[:, 40:] = 255
    small = resize(image, 16)
    assert small.shape == (16, 16, 3)
    assert small.dtype == np.uint8
    assert small[8, 0].tolist() == [0, 0, 0]
    assert small[8, 15].tolist() == [255, 255, 255]


def test_resize_is_antialiased() -> None:
    stripes = np.zeros((128, 128, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize(stripes, 16)[4:-4, 4:-4].astype(int) - 128).max() <= 8


def test_normalise_takes_bytes_and_floats_alike() -> None:
    batch = torch.from_numpy(np.stack([photo(seed, 8, 8) for seed in range(2)]))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = torch.stack(
        [torch.stack([(image[..., c] / 255.0 - mean[c]) / std[c] for c in range(3)]) for image in batch]
    )
    assert torch.allclose(normalise(batch, mean, std), expected, atol=1e-6)
    assert torch.allclose(normalise(batch.permute(0, 3, 1, 2) / 255.0, mean, std), expected, atol=1e-6)
