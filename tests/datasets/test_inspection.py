"""Images are read once: what is found of one, against numbers by hand, and what is remembered of it."""

import hashlib
import importlib.metadata
import os
import tracemalloc
from contextlib import nullcontext
from pathlib import Path

import imagecodecs
import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image

from fpt_ray.config.preparation import Preparation
from fpt_ray.datasets import findings as remembering
from fpt_ray.datasets import inspection as inspecting
from fpt_ray.datasets.checks.alike import perceptual_hash
from fpt_ray.datasets.findings import SCHEMA, findings_name
from fpt_ray.datasets.inspection import inspect
from fpt_ray.datasets.one_image import inspect_here, inspect_image
from fpt_ray.errors import ConfigError
from fpt_ray.images.picture import eight_bit
from fpt_ray.storage.files import stamps
from tests.images.test_dicom import grey_file
from tests.images.test_picture import swapped_profile

PIXELS = np.random.default_rng(0).integers(0, 200, (40, 60, 3), np.uint8)


def put(path, pixels=PIXELS, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def found(path):
    return inspect_image(str(path.parent), path.name)


# --- one image ------------------------------------------------------------------------------------------------


def test_what_is_found_of_an_image(tmp_path):
    path = put(tmp_path / "a.png")
    finding, picture = found(path)
    assert np.array_equal(eight_bit(picture, Preparation()), PIXELS)
    assert finding.reason == ""
    assert finding.sha256 == hashlib.sha256(path.read_bytes()).digest()
    assert (finding.width, finding.height, finding.mode, finding.bits) == (60, 40, "RGB", 8)
    assert (finding.low, finding.high, finding.one_colour) == (PIXELS.min(), PIXELS.max(), False)
    assert (finding.black, finding.white, finding.window, finding.patient) == (0, 255, True, "")
    assert finding.means == pytest.approx((PIXELS / 255).mean(axis=(0, 1)))
    assert finding.squares == pytest.approx(((PIXELS / 255) ** 2).mean(axis=(0, 1)))
    assert finding.perceptual == perceptual_hash(PIXELS)


def test_equal_pixels_are_equal_in_any_file(tmp_path):
    own = found(put(tmp_path / "a.png"))[0]
    others = [put(tmp_path / "b.bmp"), put(tmp_path / "c.png", compress_level=0), put(tmp_path / "d.tif")]
    assert {found(path)[0].pixels for path in others} == {own.pixels}
    assert len({found(path)[0].sha256 for path in others} | {own.sha256}) == 4
    turned = PIXELS.reshape(60, 40, 3)  # the same bytes
    assert found(put(tmp_path / "e.png", turned))[0].pixels != own.pixels


def test_dark_images_of_16_bits_are_not_the_same_and_do_not_look_alike(tmp_path):
    """By their whole range all of them are black."""
    random = np.random.default_rng(3)
    dark = [random.integers(0, 128, (40, 60), dtype=np.uint16) for _ in range(18)]
    findings = [found(put(tmp_path / f"{n}.png", values))[0] for n, values in enumerate(dark)]
    assert len({finding.pixels for finding in findings}) == len({finding.perceptual for finding in findings}) == 18
    assert found(put(tmp_path / "again.tif", dark[0]))[0].pixels == findings[0].pixels
    assert found(put(tmp_path / "other.tif", dark[0] + np.uint16(1)))[0].pixels != findings[0].pixels
    inverted = tmp_path / "inverted.tif"
    Image.fromarray(np.uint16(65535) - dark[0]).save(inverted, tiffinfo={262: 0})
    assert found(inverted)[0].pixels == findings[0].pixels


def test_grey_that_8_bits_hold_is_the_same_in_files_of_8_and_of_16(tmp_path):
    grey = PIXELS[..., 0]
    own = found(put(tmp_path / "a.png", grey))[0].pixels
    assert (
        own
        == found(put(tmp_path / "b.tif", grey))[0].pixels
        == found(put(tmp_path / "c.png", PIXELS[..., [0] * 3]))[0].pixels
    )
    wide = grey.astype(np.uint16) * 257
    assert found(put(tmp_path / "d.png", wide))[0].pixels == own
    wide[3, 4] += 1
    assert found(put(tmp_path / "e.png", wide))[0].pixels != own


@pytest.mark.parametrize(
    ("mode", "bits"), [("L", 8), ("P", 8), ("RGBA", 8), ("1", 1), ("I;16", 16), ("LA", 8), ("CMYK", 8)]
)
def test_how_a_file_holds_its_pixels(tmp_path, mode, bits):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image = (
        Image.fromarray(PIXELS[..., 0].astype(np.uint16)) if mode == "I;16" else Image.fromarray(PIXELS).convert(mode)
    )
    image.save(path)
    finding, _ = found(path)
    assert (finding.mode, finding.bits) == (mode, bits)


def test_the_range_of_twelve_bits_in_sixteen_and_one_colour_are_seen(tmp_path):
    grey = (np.arange(2400).reshape(40, 60) * 4095 // 2399).astype(np.uint16)
    finding, _ = found(put(tmp_path / "a.png", grey))
    assert (finding.low, finding.high, finding.white, finding.window) == (0, 4095, 65535, False)
    red = np.full((8, 8, 3), (200, 10, 10), np.uint8)
    assert found(put(tmp_path / "b.png", red))[0].one_colour is True
    red[0, 0, 2] = 11
    assert found(put(tmp_path / "c.png", red))[0].one_colour is False


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_colours_of_16_bits_are_told(tmp_path, kind, channels):
    values = np.random.default_rng(1).integers(0, 4096, (40, 60, channels), np.uint16)
    path = tmp_path / f"a.{kind}"
    if kind == "png":
        path.write_bytes(imagecodecs.png_encode(values))
    else:
        alpha = ["unassalpha"] * (channels % 2 == 0)
        tifffile.imwrite(path, values, photometric="rgb" if channels > 2 else "minisblack", extrasamples=alpha)
    if (kind, channels) == ("tif", 2):
        assert "no readable image" in found(path)[0].reason
        return
    finding, _ = found(path)
    assert (finding.bits, finding.white) == (16, 255)
    assert finding.high <= values.max() >> 8


@pytest.mark.parametrize("order", "<>")
def test_colours_of_16_bits_in_planes_are_read_or_refused(tmp_path, order):
    values = np.random.default_rng(1).integers(0, 65536, (40, 60, 3), np.uint16)
    layout = {"photometric": "rgb", "planarconfig": "separate", "byteorder": order}
    tifffile.imwrite(tmp_path / "a.tif", values.transpose(2, 0, 1), **layout)
    assert "in planes that are not compressed" in found(tmp_path / "a.tif")[0].reason
    tifffile.imwrite(tmp_path / "b.tif", values.transpose(2, 0, 1), compression="deflate", **layout)
    assert np.array_equal(eight_bit(found(tmp_path / "b.tif")[1], Preparation()), values >> 8)
    tifffile.imwrite(tmp_path / "c.tif", (values >> 8).astype(np.uint8).transpose(2, 0, 1), **layout)
    assert np.array_equal(eight_bit(found(tmp_path / "c.tif")[1], Preparation()), values >> 8)
    assert "in planes" in found(put(tmp_path / "d.tif", values[..., 0], tiffinfo={284: 2}))[0].reason
    packed = found(put(tmp_path / "e.tif", values[..., 0], tiffinfo={284: 2}, compression="tiff_deflate"))[1]
    assert np.array_equal(packed.grey, values[..., 0])


@pytest.mark.parametrize("kind", ["tif", "gif", "png", "webp"])
def test_pages_are_counted(tmp_path, kind):
    pages = [Image.fromarray(PIXELS // (number + 1)) for number in range(3)]
    pages[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=pages[1:])
    assert found(tmp_path / f"a.{kind}")[0].frames == 3
    assert found(put(tmp_path / f"b.{kind}"))[0].frames == 1


def test_bits_of_channels_that_a_tiff_has_not_are_passed_over(tmp_path):
    path = put(tmp_path / "a.tif")
    told = path.read_bytes().replace(b"\x02\x01\x03\x00\x03\x00", b"\x02\x01\x03\x00\x04\x00")
    assert told != path.read_bytes()
    path.write_bytes(told)
    columns = inspect_here(str(tmp_path), pa.array(["a.tif"]))
    assert (columns["reason"].to_pylist(), columns["bits"].to_pylist()) == ([""], [8])


def test_pages_behind_the_first_that_are_damaged_are_not_counted(tmp_path, monkeypatch):
    def fail(_):
        raise SyntaxError("damaged")

    monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.n_frames", property(fail))
    finding, _ = found(put(tmp_path / "a.tif"))
    assert (finding.reason, finding.frames) == ("", 1)


def test_a_profile_that_does_not_fit_is_told(tmp_path):
    finding, picture = found(put(tmp_path / "a.jpg", PIXELS[..., 0], icc_profile=swapped_profile()))
    assert (finding.reason, picture is None) == ("", False)
    assert "its colour profile cannot be applied" in finding.profile
    assert found(put(tmp_path / "b.jpg", icc_profile=swapped_profile()))[0].profile == ""


def test_what_cannot_be_used_has_a_reason(tmp_path):
    half = put(tmp_path / "half.png")
    half.write_bytes(half.read_bytes()[:-2000])
    finding, pixels = found(half)
    assert pixels is None
    assert "cannot be decoded" in finding.reason
    assert finding.sha256 == hashlib.sha256(half.read_bytes()).digest()
    assert finding.pixels is None
    (tmp_path / "empty.png").touch()
    assert found(tmp_path / "empty.png")[0].reason == "the file is empty (0 bytes)"
    finding, _ = found(tmp_path / "gone.png")
    assert (finding.reason, finding.sha256) == ("there is no such file", None)


def test_each_reason_names_no_file(tmp_path, monkeypatch):
    put(tmp_path / "large.png", compress_level=0)
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    monkeypatch.setattr("fpt_ray.images.file.MAX_BYTES", 5000)
    monkeypatch.setattr("fpt_ray.images.decoding.MAX_BYTES", 5000)
    reasons = {"large": "more than", "folder": "no such file", "pipe": "no such file", "loop": ""}
    for name, reason in reasons.items():
        finding, pixels = found(tmp_path / f"{name}.png")
        assert pixels is None
        assert finding.reason
        assert reason in finding.reason
        assert ".png" not in finding.reason


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fpt_ray.images.file.read_bytes", refuse)
    assert found(tmp_path / "a.png")[0].reason == "the file cannot be read (Permission denied)"


@pytest.mark.parametrize(("name", "means"), [("a.png", "PIL.ImageFile.ImageFile.load"), ("a.dcm", "pydicom.dcmread")])
def test_too_little_memory_says_nothing_of_an_image(tmp_path, monkeypatch, name, means):
    def fail(*_, **__):
        raise MemoryError

    path = tmp_path / name
    path.write_bytes(grey_file(PIXELS[..., 0])) if name.endswith("dcm") else put(path)
    monkeypatch.setattr(means, fail)
    with pytest.raises(MemoryError):
        found(path)


def test_findings_are_columns(tmp_path):
    put(tmp_path / "a.png")
    columns = inspect_here(str(tmp_path), pa.array(["a.png", "gone.png"]))
    assert columns.schema == SCHEMA
    assert columns["width"].to_pylist() == [60, None]
    assert columns["means"][0].as_py() == pytest.approx((PIXELS / 255).mean(axis=(0, 1)))


# --- many images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 20_000])
def test_files_are_looked_at_without_an_object_for_each(tmp_path, monkeypatch, rows):
    """A list of the stamps alone would take 100 bytes a row more."""
    monkeypatch.setattr(inspecting, "_AT_HAND", 500)
    (tmp_path / "19999.png").write_bytes(b"x")
    paths = pa.array([f"{number}.png" for number in range(rows)], pa.string())
    tracemalloc.start()
    try:
        stamped = inspecting._stamped(str(tmp_path), paths)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stamped.to_pylist() == list(stamps(str(tmp_path), paths.to_pylist()))
    if rows > 1:
        assert stamped[19_999].as_py().startswith("19999.png|1|")
        assert peak / rows < 60


# --- what is remembered -----------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    for number in range(30):
        put(tmp_path / "images" / f"{number}.png", PIXELS + np.uint8(number))
    return str(tmp_path / "images")


def names(images):
    return pa.array(sorted(os.listdir(images)), pa.string())


def in_this_process(monkeypatch, dies_after=None):
    """Inspection two images a task; it may be killed after some tasks. Returns the paths that it asks for."""
    asked = []

    def inspect_all(root, paths, _):
        for number, first in enumerate(range(0, len(paths), 2)):
            if number == dies_after:
                raise KeyboardInterrupt
            part = paths.slice(first, 2)
            asked.extend(part.to_pylist())
            yield first, inspect_here(root, part), {}

    monkeypatch.setattr(inspecting, "_inspect_all", inspect_all)
    monkeypatch.setattr(inspecting, "ray_session", lambda **_: nullcontext())
    return asked


def test_what_was_found_before_a_kill_is_not_read_again(tmp_path, images, monkeypatch):
    work, paths = str(tmp_path / "work"), names(images)
    expected = inspect_here(images, paths)
    asked = in_this_process(monkeypatch, dies_after=10)
    monkeypatch.setattr(remembering, "SAVE_EVERY_S", -1)
    with pytest.raises(KeyboardInterrupt):
        inspect(images, paths, work)
    assert len(asked) == 20
    (first, *_) = parts = sorted(Path(work, "inspected").iterdir())
    assert len(parts) == 10
    (first.parent / f".{first.name}.0.tmp").write_bytes(b"half")  # what a killed writer leaves
    again = in_this_process(monkeypatch)
    assert inspect(images, paths, work).findings == expected
    assert sorted(asked + again) == paths.to_pylist()
    last = in_this_process(monkeypatch)
    assert inspect(images, paths, work).findings == expected
    assert last == []
    (merged,) = Path(work, "inspected").glob("*.parquet")
    assert len(pq.read_table(merged)) == len(paths)


def test_few_parts_are_written_where_tasks_are_short(tmp_path, images, monkeypatch):
    in_this_process(monkeypatch)
    inspect(images, names(images), str(tmp_path / "work"))
    assert len(list((tmp_path / "work/inspected").iterdir())) == 1


def test_rows_are_in_the_order_that_is_asked_for(tmp_path, images, monkeypatch):
    work, paths = str(tmp_path / "work"), names(images)
    in_this_process(monkeypatch)
    inspect(images, paths.take(pa.array(range(0, 30, 3))), work)
    turned = paths.take(pa.array(range(29, -1, -1)))
    assert inspect(images, turned, work).findings == inspect_here(images, turned)


def test_a_worker_that_does_not_see_the_images_is_no_fault_of_theirs(cluster, tmp_path, images, monkeypatch):
    """What a task does not find and is not there is missing; what is there, its host does not see."""
    paths, gone = names(images), pa.array(["gone.png"])
    assert inspect(images, gone, str(tmp_path)).findings["reason"].to_pylist() == ["there is no such file"]
    missing = inspect_here(images, pa.concat_arrays([gone, gone]))
    inspecting._refuse_unseen(images, pa.array(["gone.png", "never.png"]), missing)
    with pytest.raises(ConfigError, match=rf"a worker finds no {images}/{paths[1]}, which is there where the command"):
        inspecting._refuse_unseen(images, pa.array(["gone.png", paths[1].as_py()]), missing)
    monkeypatch.setattr(inspecting, "exists", lambda uri: uri.endswith("/gone.png"))  # as on the driver's host alone
    with pytest.raises(ConfigError, match=rf"a worker finds no {images}/gone.png"):
        inspect(images, gone, str(tmp_path / "again"))


def test_what_has_changed_or_could_not_be_read_is_read_again(tmp_path, images, monkeypatch):
    work, paths = str(tmp_path / "work"), pa.concat_arrays([names(images), pa.array(["late.png"])])
    in_this_process(monkeypatch)
    assert inspect(images, paths, work).findings["reason"][-1].as_py() == "there is no such file"
    changed = Path(images, "3.png")
    put(changed, PIXELS[:9])
    os.utime(changed, ns=(1, 1))
    Path(images, "7.png").unlink()
    asked = in_this_process(monkeypatch)
    findings = inspect(images, paths, work).findings
    assert sorted(asked) == ["3.png", "7.png", "late.png"]
    assert findings["height"].to_pylist().count(9) == 1
    assert findings["reason"].to_pylist().count("there is no such file") == 2
    put(Path(images, "late.png"))
    asked = in_this_process(monkeypatch)
    assert inspect(images, paths, work).findings["reason"][-1].as_py() == ""
    assert sorted(asked) == ["7.png", "late.png"]


def test_a_file_with_another_content_of_the_same_size_and_time_is_read_again(tmp_path, images, monkeypatch):
    """As copying tools leave it that keep times."""
    work, paths, changed = str(tmp_path / "work"), names(images), Path(images, "3.png")
    in_this_process(monkeypatch)
    number = paths.to_pylist().index("3.png")
    before = inspect(images, paths, work).findings["sha256"][number]
    content, times = changed.read_bytes(), changed.stat()
    changed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    asked = in_this_process(monkeypatch)
    assert inspect(images, paths, work).findings["sha256"][number] != before
    assert asked == ["3.png"]


@pytest.mark.parametrize(
    ("of", "name", "value"),
    [
        (remembering, "STAMPED", remembering.STAMPED.append(pa.field("more", pa.string()))),
        (remembering, "_VERSION", remembering._VERSION + 1),
        (PIL, "__version__", "0.1"),
        (importlib.metadata, "version", lambda _: "0.1"),
    ],
)
def test_findings_by_other_means_are_not_read(images, monkeypatch, of, name, value):
    """Another schema, other numbers, another Pillow or pydicom: files of another name."""
    before = findings_name(images)
    assert findings_name(images) == before
    monkeypatch.setattr(of, name, value)
    assert findings_name(images) != before


def test_without_pydicom_findings_have_another_name(images, monkeypatch):
    def missing(_):
        raise importlib.metadata.PackageNotFoundError

    name = findings_name(images)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert findings_name(images) != name


def test_images_that_are_not_there_for_the_driver_are_inspected_each_time(tmp_path, images, monkeypatch):
    """Workers see them: what they find has no stamp that would tell when they change."""
    work, paths, seen = str(tmp_path / "work"), names(images), inspect_here
    elsewhere = str(tmp_path / "elsewhere")
    monkeypatch.setattr(f"{__name__}.inspect_here", lambda _, part: seen(images, part))
    asked = in_this_process(monkeypatch)
    found = inspect(elsewhere, paths, work).findings
    assert found["reason"].to_pylist() == [""] * 30
    put(Path(images) / "0.png", PIXELS[::-1])
    again = inspect(elsewhere, paths, work).findings
    assert len(asked) == 60
    assert again["sha256"][0] != found["sha256"][0]
    assert again.slice(1) == found.slice(1)
