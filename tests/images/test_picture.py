"""From what a file holds to a square: compared with pixels written by hand, and with Pillow's resize of a part."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from fpt_ray.config.preparation import Preparation
from fpt_ray.errors import ConfigError
from fpt_ray.images.decoding import decode, read_square, size_and_frame
from fpt_ray.images.picture import Frame, ImageError, Picture, eight_bit, resize, square_of

PLAIN = Preparation(resolution=8)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey16(values):
    return encode(Image.fromarray(np.array(values, np.uint16)))


def photo(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)


def prepared(**changes):
    return dataclasses.replace(PLAIN, **changes)


# --- range ----------------------------------------------------------------------------------------------------


def test_the_whole_range_of_16_bits_is_rounded_as_ever():
    """65535 = 255 * 257."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = decode(grey16(values), "a")
    assert np.array_equal(found[..., 0], (values.astype(np.uint32) + 128) // 257)
    whole = decode(grey16(values), "a", prepared(intensity="window", window=(32768, 65536)))
    assert np.array_equal(found, whole)


def test_a_window_has_as_many_values_as_it_is_wide():
    """DICOM's own example: of centre 2048 and width 4096, 0 is black and 4095 white (PS3.3, C.11.2.1.2.1)."""
    twelve = [[0, 1, 2048, 4094, 4095, 60000]]
    found = decode(grey16(twelve), "a", prepared(intensity="window", window=(2048, 4096)))
    assert found[0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]
    narrow = decode(grey16([[99, 100, 101, 102, 103, 104]]), "a", prepared(intensity="window", window=(102, 4)))
    assert narrow[0, :, 0].tolist() == [0, 0, 85, 170, 255, 255]


def test_percentiles_are_the_images_own():
    values = np.arange(1001, dtype=np.uint16)[None] + 500
    found = decode(grey16(values), "a", prepared(intensity="percentile", percentiles=(10, 90)))[0, :, 0]
    assert found[:101].tolist() == [0] * 101
    assert found[900:].tolist() == [255] * 101
    assert found[500] == 128
    assert found[300] == round(255 * 200 / 800)
    assert decode(grey16([[7, 7], [7, 7]]), "a", prepared(intensity="percentile")).tolist() == [[[0] * 3] * 2] * 2


def test_white_stays_white_where_zero_is_white():
    picture = Picture(source="a", grey=np.array([[0, 10]], np.uint16), span=(0, 65535), white_is_zero=True)
    assert eight_bit(picture, prepared(intensity="percentile"))[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("intensity", ["window", "percentile"])
def test_images_of_8_bits_are_taken_as_they_are(intensity):
    grey = photo()[..., 0]
    assert np.array_equal(decode(encode(Image.fromarray(grey)), "a", prepared(intensity=intensity))[..., 0], grey)


def test_a_window_that_the_file_does_not_have_is_an_error_with_the_remedy():
    with pytest.raises(ImageError, match=r"x\.png: features\.intensity is window, .* give features\.window"):
        decode(grey16([[1, 2]]), "x.png", prepared(intensity="window"))


# --- shape ----------------------------------------------------------------------------------------------------


def test_the_default_is_the_authors_stretching():
    pixels = photo()
    assert np.array_equal(read_square(encode(Image.fromarray(pixels)), "a", PLAIN), resize(pixels, 8))


@pytest.mark.parametrize("turned", [False, True])
def test_crop_is_the_middle(turned):
    pixels = photo(40, 60)
    middle = pixels[:, 10:50]
    if turned:
        pixels, middle = pixels.transpose(1, 0, 2), middle.transpose(1, 0, 2)
    found = square_of(Picture(source="a", colours=Image.fromarray(pixels)), prepared(aspect="crop"))
    assert np.array_equal(found, resize(np.ascontiguousarray(middle), 8))


@pytest.mark.parametrize("turned", [False, True])
def test_pad_has_black_bars_on_both_sides(turned):
    pixels = photo(40, 60)
    if turned:
        pixels = np.ascontiguousarray(pixels.transpose(1, 0, 2))
    found = square_of(Picture(source="a", colours=Image.fromarray(pixels)), prepared(aspect="pad", resolution=12))
    inner = np.array(Image.fromarray(pixels).resize((8, 12) if turned else (12, 8), Image.Resampling.BICUBIC))
    expected = np.zeros((12, 12, 3), np.uint8)
    expected[(slice(None), slice(2, 10)) if turned else slice(2, 10)] = inner
    assert np.array_equal(found, expected)


def test_a_line_of_pixels_is_padded_too():
    line = Picture(source="a", colours=Image.fromarray(photo(1, 400)))
    assert square_of(line, prepared(aspect="pad")).any(axis=(1, 2)).sum() == 1


@pytest.mark.parametrize("aspect", ["squash", "pad", "crop"])
def test_a_square_is_the_same_in_every_aspect(aspect):
    pixels = photo(40, 40)
    found = square_of(Picture(source="a", colours=Image.fromarray(pixels)), prepared(aspect=aspect))
    assert np.array_equal(found, resize(pixels, 8))


def test_a_black_border_is_cut_off_and_an_image_of_black_stays():
    inner = photo(20, 30)
    inner[5] = 0  # black within stays
    pixels = np.full((40, 60, 3), (9, 10, 0), np.uint8)
    pixels[4:24, 17:47] = np.maximum(inner, 11)
    picture = Picture(source="a", colours=Image.fromarray(pixels))
    assert np.array_equal(square_of(picture, prepared(crop_black=10)), resize(np.maximum(inner, 11), 8))
    assert np.array_equal(square_of(picture, prepared(crop_black=9)), resize(pixels, 8))
    assert np.array_equal(square_of(picture, PLAIN), resize(pixels, 8))
    black = np.full((40, 60, 3), 10, np.uint8)
    assert np.array_equal(
        square_of(Picture(source="a", colours=Image.fromarray(black)), prepared(crop_black=10)), resize(black, 8)
    )


def test_the_frame_is_what_the_square_shows():
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:20, 5:45] = 200
    data = encode(Image.fromarray(pixels))

    def framed(**changes):
        return size_and_frame(data, "a", prepared(**changes))

    assert framed() == ((60, 40), Frame(0, 0, 60, 40))
    assert framed(aspect="pad") == ((60, 40), Frame(0, -10, 60, 60))
    assert framed(aspect="crop") == ((60, 40), Frame(10, 0, 40, 40))
    assert framed(crop_black=10) == ((60, 40), Frame(5, 10, 40, 10))
    assert framed(crop_black=10, aspect="pad") == ((60, 40), Frame(5, -5, 40, 40))


# --- colours --------------------------------------------------------------------------------------------------


def swapped_profile():
    """A profile whose first channel is what sRGB calls the third: whether it is applied is seen at once."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    entries = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}
    red, blue = entries[b"rXYZ"], entries[b"bXYZ"]
    profile[red + 4 : red + 12], profile[blue + 4 : blue + 12] = (
        profile[blue + 4 : blue + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_colour_profile_is_applied_when_asked(mode):
    pixels = np.full((4, 4, 3), (200, 100, 50), np.uint8)
    data = encode(Image.fromarray(pixels).convert(mode), icc_profile=swapped_profile())
    assert decode(data, "a")[0, 0].tolist() == [200, 100, 50]
    assert np.abs(decode(data, "a", prepared(srgb=True))[0, 0].astype(int) - [50, 100, 200]).max() <= 2
    plain = encode(Image.fromarray(pixels).convert(mode))
    assert decode(plain, "a", prepared(srgb=True))[0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize(("mode", "profile"), [("RGB", b"none"), ("L", None), ("LA", None)])
def test_a_profile_that_does_not_fit_is_an_error_with_the_remedy(mode, profile):
    data = encode(Image.new(mode, (4, 4)), icc_profile=profile or swapped_profile())
    with pytest.raises(ImageError, match=r"x\.png: its colour profile cannot be applied .* features\.srgb false"):
        decode(data, "x.png", prepared(srgb=True))
    assert decode(data, "x.png").shape == (4, 4, 3)


# --- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"resolution": 0}, r"features\.resolution is 0"),
        ({"window": (40.0, 1.0)}, r"features\.window is \(40\.0, 1\.0\); give a centre and a width"),
        ({"percentiles": (99.0, 1.0)}, r"features\.percentiles is \(99\.0, 1\.0\)"),
        ({"percentiles": (0.0, 101.0)}, r"features\.percentiles"),
        ({"crop_black": 255}, r"features\.crop_black is 255; give a value of 0 to 254"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        Preparation(**changes)
