"""Large images decoded at a reduced scale: against means of whole blocks of pixels, and against whole decoding."""

import io

import numpy as np
import pytest
from PIL import Image

from fpt_ray.config.preparation import Preparation
from fpt_ray.datasets import inspection
from fpt_ray.images import decoding
from fpt_ray.images.decoding import read_picture, read_square
from fpt_ray.images.picture import ImageError


def smooth(width=1000, height=800):
    """Colours without fine detail, as photographs have them after a lens."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (31 + 9 * channel)) * np.cos(y / (47 - 7 * channel)) for channel in range(3)]
    return (127 + 100 * np.stack(waves, axis=2)).astype(np.uint8)


def encoded(kind, pixels, **options):
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, kind, **options)
    return sink.getvalue()


FILES = {"JPEG": {"quality": 95, "subsampling": 0}, "JPEG2000": {"irreversible": True}}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(("least", "times"), [(500, 1), (400, 2), (201, 2), (200, 4), (100, 8), (10, 8)])
def test_its_pixels_are_means_around_their_places(kind, least, times):
    """Of a JPEG of blocks; of a JPEG 2000, whose wavelets are centred there, around each block's first pixel.

    No side has fewer pixels than are asked for, and at least an eighth of them is left.
    """
    pixels = smooth()
    found = np.array(read_picture(encoded(kind, pixels, **FILES[kind]), "x", least=least).colours)
    assert found.shape[:2] == (800 // times, 1000 // times)
    whole = np.roll(pixels, times // 2, axis=(0, 1)) if kind == "JPEG2000" else pixels
    blocks = whole.reshape(800 // times, times, 1000 // times, times, 3).mean(axis=(1, 3))
    assert np.abs(found - blocks)[1:-1, 1:-1].mean() < 1.5


def test_a_jpeg_2000_is_halved_no_more_often_than_when_it_was_encoded():
    data = encoded("JPEG2000", smooth(), num_resolutions=2)
    assert read_picture(data, "x", least=10).colours.size == (500, 400)


@pytest.mark.parametrize("rest", range(1, 8))
def test_a_jpeg_2000_of_any_size_is_decoded(rest):
    """Pillow rounds a reduced side to the nearest, its decoder up; where they differ, data were called broken."""
    data = encoded("JPEG2000", smooth(800 + rest, 800))
    width, height = read_picture(data, "x", least=100).colours.size
    times = next(times for times in (8, 4, 2) if rest % times == 0 or rest % times >= times / 2)
    assert (width, height) == (-(-(800 + rest) // times), 800 // times)


def test_a_jpeg_2000_that_ends_in_its_header_is_refused():
    data = encoded("JPEG2000", smooth())
    cut = data[: data.index(b"\xff\x52")]
    with pytest.raises(ImageError, match="its header ends before the marker ff52"):
        read_picture(cut, "x", least=100)


@pytest.mark.parametrize("kind", FILES)
def test_a_square_of_it_is_nearly_that_of_the_whole_and_takes_a_sixteenth_of_the_pixels(kind, monkeypatch):
    seen, square_of = [], decoding.square_of
    monkeypatch.setattr(decoding, "square_of", lambda one, how: (seen.append(one.colours.size), square_of(one, how))[1])
    data = encoded(kind, smooth(), **FILES[kind])
    whole, reduced = (read_square(data, "x", Preparation(resolution=96, reduced_scale=on)) for on in (False, True))
    assert seen == [(1000, 800), (250, 200)]
    away = np.abs(whole.astype(int) - reduced)
    assert 0 < away.mean() < {"JPEG": 1, "JPEG2000": 3}[kind]
    if kind == "JPEG2000":  # it is 1.5 pixels of the file nearer to the lower right
        moved = read_square(encoded(kind, np.roll(smooth(), (1, 1), axis=(0, 1))), "x", Preparation(resolution=96))
        away = np.abs(moved.astype(int) - reduced)[2:-2, 2:-2]
    assert away.mean() < 1.5


def test_what_is_upright_by_exif_is_upright():
    turned = Image.Exif()
    turned[0x0112] = 6
    data = encoded("JPEG", smooth(), exif=turned)
    assert read_picture(data, "x", least=100).colours.size == (100, 125)


@pytest.mark.parametrize(("kind", "size"), [("PNG", (1000, 800)), ("TIFF", (1000, 800)), ("JPEG", (300, 191))])
def test_other_formats_and_small_images_are_decoded_whole(kind, size):
    data = encoded(kind, smooth(*size))
    whole, reduced = (read_square(data, "x", Preparation(resolution=96, reduced_scale=on)) for on in (False, True))
    assert np.array_equal(whole, reduced)


def test_inspection_keeps_none_of_it_for_extraction(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG", smooth(256, 256)))
    asked = [Preparation(resolution=8, reduced_scale=on) for on in (False, True)]
    _, whole, reduced = inspection._inspect_chunk(str(tmp_path), ["a.jpg"], asked)
    assert whole is not None
    assert reduced is None
