"""What stops preload, train and tune, and what they say: on images that are written by each test."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fpt_ray.config.preparation import Preparation
from fpt_ray.config.tasks import ImagesOptions
from fpt_ray.datasets import checking, command
from fpt_ray.datasets import survey as surveying
from fpt_ray.datasets.checking import inspected
from fpt_ray.datasets.inspection import Found
from fpt_ray.datasets.one_image import inspect_here
from fpt_ray.datasets.survey import survey, survey_json, survey_text
from fpt_ray.datasets.usable import usable
from fpt_ray.display.door import open_door
from fpt_ray.errors import ConfigError
from fpt_ray.images.table import read_images, write_table
from tests.images.test_dicom import grey_file
from tests.images.test_picture import swapped_profile


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """Inspection in this process."""
    for module in (checking, surveying):
        monkeypatch.setattr(module, "inspect", lambda root, paths, *_, **__: Found(findings=inspect_here(root, paths)))


def picture(path, seed, side=24):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8))
    coarse.resize((side, side), Image.Resampling.BICUBIC).save(path)
    return path


def folder(root, number=3):
    """Three splits of two classes."""
    for place, split in enumerate(("train", "val", "test")):
        for label in ("no", "yes"):
            for n in range(number):
                picture(root / split / label / f"{n}.png", seed=(place, label == "yes", n))
    return root


def copy(one, other):
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_bytes(one.read_bytes())


def table_of(root, header, rows):
    (root / "table.csv").write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return str(root / "table.csv")


def refused(source, tmp_path, **options):
    with pytest.raises(ConfigError) as caught:
        inspected(read_images(str(source)), str(tmp_path), **options)
    return caught.value


# --- what stops -------------------------------------------------------------------------------------------------


def test_sound_images_pass_and_nothing_is_said(tmp_path, capfd):
    found = inspected(read_images(str(folder(tmp_path / "images"))), str(tmp_path))
    assert len(found.table) == 18
    assert found.table.hashes_ is not None
    assert found.table.note == ""
    assert capfd.readouterr().err == ""


def test_a_duplicate_across_splits_stops_unless_it_is_allowed_and_is_then_noted(tmp_path, capfd):
    root = folder(tmp_path / "images")
    copy(root / "train/no/0.png", root / "test/no/again.png")
    (root / "DATA_NOTE.txt").write_text("made by a test.\n")
    error = refused(root, tmp_path)
    assert "1 image in several splits" in str(error)
    assert "train/no/0.png (train) = test/no/again.png (test)" in str(error)
    assert error.fields == ("allow",)
    assert "duplicates" in str(refused(root, tmp_path, allow=("groups", "labels")))
    found = inspected(read_images(str(root)), str(tmp_path), allow=("duplicates",))
    note = "made by a test; 1 image in several splits (2 files of the same pixels) (allowed: duplicates)"
    assert found.table.note == note
    assert "WARNING: 1 image in several splits" in capfd.readouterr().err
    write_table(found.table, str(tmp_path / "images.parquet"))
    again = read_images(str(tmp_path / "images.parquet"))
    assert "duplicates" in str(refused(tmp_path / "images.parquet", tmp_path))
    assert inspected(again, str(tmp_path), allow=("duplicates",)).table.note == note


def test_several_doubts_are_listed_together(tmp_path):
    root = folder(tmp_path / "images")
    rows = [(str(path.relative_to(root)), path.parent.name, path.parts[-3]) for path in sorted(root.rglob("*.png"))]
    for n in range(15):
        copy(root / "train/no/0.png", root / f"more/{n}.png")
    rows += [(f"more/{n}.png", ("no", "yes")[n % 2], "train") for n in range(15)]
    grouped = [(*row, "Ann" if number % 2 else f"g{number}") for number, row in enumerate(rows)]
    error = refused(table_of(root, "path,label,split,group", grouped), tmp_path)
    assert "1 group in several splits" in str(error)
    assert "1 image with labels that contradict each other" in str(error)
    assert "by the names labels groups" in str(error)
    assert "groups" not in str(refused(table_of(root, "path,label,split,group", grouped), tmp_path, allow=("groups",)))


def test_a_label_of_the_test_split_alone_stops(tmp_path):
    root = folder(tmp_path / "images")
    picture(root / "test/perhaps/0.png", seed=99)
    error = refused(root, tmp_path)
    assert "1 class in val or test that train lacks" in str(error)
    assert "\n  perhaps\n" in str(error)


def test_what_could_not_be_scored_cannot_be_allowed(tmp_path):
    root = folder(tmp_path / "images")
    rows = [(str(path.relative_to(root)), path.parent.name, path.parts[-3]) for path in sorted(root.rglob("*.png"))]
    for name, change in (("no", "yes"), ("no", "perhaps")):
        relabelled = [
            (path, change if (label, split) == (name, "val") else label, split) for path, label, split in rows
        ]
        error = refused(table_of(root, "path,label,split", relabelled), tmp_path, allow=())
        assert ("it cannot be allowed" in str(error)) == (change == "yes")
    alone = [(path, "yes" if split == "val" else label, split) for path, label, split in rows]
    error = refused(table_of(root, "path,label,split", alone), tmp_path, allow=("classes",))
    assert "val has images of one class alone" in str(error)
    assert "divide anew, or put others into it" in str(error)
    assert "so that it cannot be allowed" in str(error)


def test_half_written_files_stop_where_they_are_many(tmp_path):
    root = folder(tmp_path / "images")
    half = root / "train/no/1.png"
    half.write_bytes(half.read_bytes()[:-100])
    error = refused(root, tmp_path)
    assert "1 of 18 images cannot be read, more than 1%; mend or remove them" in str(error)
    assert "train/no/1.png: it cannot be decoded" in str(error)
    found = inspected(read_images(str(root)), str(tmp_path), allow=("unreadable",))
    assert [path for path, _ in found.table.skipped] == ["train/no/1.png"]
    assert len(found.table) == 17


def test_profiles_that_cannot_be_applied_stop_before_extraction_where_they_shall_be(tmp_path):
    root = folder(tmp_path / "images")
    for name in ("a", "b"):
        grey = Image.fromarray(np.random.default_rng(ord(name)).integers(0, 256, (24, 24), np.uint8))
        grey.save(root / f"train/no/{name}.jpg", icc_profile=swapped_profile())
    asked = [Preparation(resolution=24), Preparation(resolution=24, srgb=True)]
    error = refused(root, tmp_path, preparations=asked)
    assert "2 of 20 images cannot be read, more than 1%" in str(error)
    assert "train/no/b.jpg: its colour profile cannot be applied" in str(error)
    assert "features.srgb false" in str(error)
    found = inspected(read_images(str(root)), str(tmp_path), asked, allow=("unreadable",))
    assert [path for path, _ in found.table.skipped] == ["train/no/a.jpg", "train/no/b.jpg"]
    assert len(inspected(read_images(str(root)), str(tmp_path), asked[:1]).table) == 20


def test_files_that_are_passed_over_are_told(tmp_path, capfd):
    root = folder(tmp_path / "images")
    (root / "DATA_NOTE.txt").write_text("made by a test\n")
    copy(root / "train/no/0.png", root / "train/no/IM0001")
    inspected(read_images(str(root)), str(tmp_path))
    assert "images: 1 file passed over: hidden, without an image's suffix" in capfd.readouterr().err


def test_a_file_that_vanishes_before_it_is_inspected_is_named(tmp_path):
    table = read_images(str(folder(tmp_path / "images")))
    (tmp_path / "images/val/no/2.png").unlink()
    with pytest.raises(ConfigError, match=r"val/no/2\.png: there is no such file"):
        inspected(table, str(tmp_path))


def test_where_nothing_can_be_read_nothing_is_allowed(tmp_path):
    root = tmp_path / "images"
    for n in range(6):
        path = root / f"{n % 2}" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image")
    error = refused(root, tmp_path, allow=("unreadable",))
    assert "none in" in str(error)
    assert "0/0.png: no readable image" in str(error)


def test_images_are_divided_before_they_are_checked(tmp_path):
    """Equal files without groups have one split; of two groups they may have two."""
    root = tmp_path / "images"
    for n in range(60):
        picture(root / f"{n}.png", seed=n)
        copy(root / f"{n}.png", root / f"again{n}.png")
    rows = [(f"{name}{n}.png", str(n % 2)) for n in range(60) for name in ("", "again")]
    found = inspected(read_images(table_of(root, "path,label", rows)), str(tmp_path))
    assert found.table.is_divided
    grouped = [(*row, f"{number}") for number, row in enumerate(rows)]
    assert "in several splits" in str(refused(table_of(root, "path,label,group", grouped), tmp_path))


def test_those_that_can_be_used_have_hashes_and_findings_in_their_order(tmp_path):
    root = folder(tmp_path / "images", number=20)
    table = read_images(str(root))
    bad = [5, 60, 119]
    for path in table.paths.take(bad).to_pylist():
        (root / path).write_bytes(b"no image")
    findings = inspect_here(table.root, table.paths)
    whole, own = usable(table, findings)
    rows = np.delete(np.arange(120), bad)
    assert whole.paths.equals(table.paths.take(rows))
    assert [path for path, _ in whole.skipped] == table.paths.take(bad).to_pylist()
    assert own["sha256"].to_pylist() == [bytes(one) for one in whole.hashes()]
    undivided = dataclasses.replace(table, splits=np.full(120, -1, np.int8))
    whole, own = usable(undivided, findings)
    assert whole.is_divided
    assert not whole.paths.equals(undivided.paths.take(rows))
    assert own["sha256"].to_pylist() == [bytes(one) for one in whole.hashes()]
    (path, hashed), *_ = zip(whole.paths.to_pylist(), whole.hashes(), strict=True)
    assert hashlib.sha256((root / path).read_bytes()).digest() == bytes(hashed)


# --- surveys ------------------------------------------------------------------------------------------------------


def test_a_survey_says_what_there_is(tmp_path):
    root = folder(tmp_path / "images")
    picture(root / "train/no/large.png", seed=77, side=60)
    found = survey(read_images(str(root)), str(tmp_path), resolution=32)
    text = survey_text(found)
    assert not found.is_doubtful
    assert "19 images, binary" in text
    assert "no          4    3     3   10" in text
    assert "18 images with a side of fewer than the 32 pixels" in text
    assert "and 8 more" in text
    data = json.loads(survey_json(found))
    assert data["counts"][0] == {"of": "no", "train": 4, "val": 3, "test": 3, "all": 10}
    assert data["sizes"][0] == {"pixels": "width", "smallest": 24, "median": 24, "largest": 60}
    assert data["kinds"] == [{"mode": "RGB", "bits": 8, "images": 19}]
    assert len(data["remarks"][0]["examples"]) == 18
    pixels = np.stack([np.array(Image.open(path)) / 255 for path in sorted(root.rglob("[0-9].png"))])
    small = survey(read_images(str(folder(tmp_path / "small"))), str(tmp_path))
    channels = json.loads(survey_json(small))["channels"]
    assert [one["mean"] for one in channels] == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=1e-4)
    assert [one["std"] for one in channels] == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=1e-4)


def test_a_survey_lists_what_is_wrong_first(tmp_path):
    root = folder(tmp_path / "images")
    copy(root / "train/no/0.png", root / "test/no/again.png")
    found = survey(read_images(str(root)), str(tmp_path), resolution=32)
    text = survey_text(found)
    assert found.is_doubtful
    assert text.index("Results would be untrue:") < text.index("1 image in several") < text.index("To be known:")
    assert json.loads(survey_json(found))["remarks"][0]["doubt"] == "duplicates"


def test_a_survey_sees_whether_files_are_those_of_a_table_with_hashes(tmp_path):
    root = folder(tmp_path / "images")
    write_table(inspected(read_images(str(root)), str(tmp_path)).table, str(root / "table.parquet"))
    picture(root / "val/no/1.png", seed=1234)
    found = survey(read_images(str(root / "table.parquet")), str(tmp_path))
    assert found.table.skipped == (("val/no/1.png", "it is another image than the table says by its sha256"),)
    assert found.is_doubtful


def test_of_many_classes_some_are_shown_and_all_are_in_json(tmp_path):
    root = tmp_path / "images"
    rows = []
    for n in range(120):
        picture(root / f"{n}.png", seed=n)
        rows.append((f"{n}.png", f"class{n % 40:02}", ("train", "val", "test")[n // 40]))
    found = survey(read_images(table_of(root, "path,label,split", rows)), str(tmp_path))
    assert "\n10 others     10   10    10   30\n" in survey_text(found)
    assert len(json.loads(survey_json(found))["counts"]) == 41


def test_a_contact_sheet_of_each_class(tmp_path):
    root = folder(tmp_path / "images", number=15)
    found = survey(read_images(str(root)), str(tmp_path), sheets=str(tmp_path / "sheets"))
    assert [Path(sheet).name for sheet in found.sheets] == ["000_no.png", "001_yes.png"]
    first = Path(found.sheets[0]).read_bytes()
    with Image.open(found.sheets[0]) as sheet:
        assert sheet.width < sheet.height < 1000  # six rows of six, though there are 45
    again = survey(read_images(str(root)), str(tmp_path), sheets=str(tmp_path / "again"))
    assert Path(again.sheets[0]).read_bytes() == first
    assert found.sheets[1] in survey_text(found)


def test_a_contact_sheet_shows_grey_of_16_bits_over_its_own_range_and_says_so(tmp_path, monkeypatch):
    root, rows, drawn = tmp_path / "images", [], []
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.text", lambda _self, _at, text, *_: drawn.append(text))
    for n in range(12):
        label, kind, factor = ("faint", np.uint16, 10) if n % 2 else ("dark", np.uint8, 0.1)
        pixels = np.random.default_rng(n).integers(0, 256, (24, 24)) * factor
        picture(root / f"{n}.png", seed=n)
        Image.fromarray(pixels.astype(kind)).save(root / f"{n}.png")
        rows.append((f"{n}.png", label, ("train", "val", "test")[n // 4]))
    table = read_images(table_of(root, "path,label,split", rows))
    found = survey(table, str(tmp_path), sheets=str(tmp_path / "sheets"))
    lit = {}
    for sheet in found.sheets:
        with Image.open(sheet) as opened:
            lit[Path(sheet).stem[4:]] = np.array(opened)[40:60, 6:26].max()
    assert lit["dark"] < 30
    assert lit["faint"] == 255
    assert {text for text in drawn if "images" in text} == {
        "dark: 6 of 6 images",
        "faint: 6 of 6 images; each of over 8 bits from its own 0.5 % to its 99.5 % percentile",
    }


def test_classes_without_a_contact_sheet_are_counted(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("fpt_ray.datasets.checks.contact_sheets.MAX_SHEETS", 1)
    table = read_images(str(folder(tmp_path / "images", number=1)))
    assert len(survey(table, str(tmp_path), sheets=str(tmp_path / "sheets")).sheets) == 1
    assert "contact sheets: the first 1 of 2 classes have one, the others none" in capfd.readouterr().err


# --- the command --------------------------------------------------------------------------------------------------


def test_the_command_prints_a_survey_and_says_by_its_status_what_is_wrong(tmp_path, capsys):
    root = folder(tmp_path / "images")
    words = ["check", str(root), "--workdir", str(tmp_path), "--json", "--contact_sheets", str(tmp_path / "sheets")]
    open_door(command, "datasets", words)
    assert json.loads(capsys.readouterr().out)["images"] == 18
    assert len(list((tmp_path / "sheets").iterdir())) == 2
    copy(root / "train/no/0.png", root / "test/no/again.png")
    with pytest.raises(SystemExit) as ended:
        open_door(command, "datasets", words[:4])
    assert ended.value.code == 1
    assert "train/no/0.png (train) = test/no/again.png (test)" in capsys.readouterr().out


@pytest.mark.parametrize(("patient", "groups"), [("P{}", 6), ("ANONYMOUS", None)])
def test_patients_of_dicom_files_are_groups_unless_all_have_one_name(tmp_path, capsys, patient, groups):
    for number in range(18):
        label, split = "ab"[number % 2], ("train", "val", "test")[number % 3]
        path = tmp_path / f"images/{split}/{label}/{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
        path.write_bytes(grey_file(pixels, PatientID=patient.format(number % 6)))
    found = inspected(read_images(str(tmp_path / "images")), str(tmp_path)).table
    assert (None if found.groups is None else len(set(found.groups.to_pylist()))) == groups
    said = capsys.readouterr().err
    assert ("all DICOM files name one patient, ANONYMOUS, which is taken for nobody" in said) == (groups is None)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_given_split_of_which_nothing_can_be_read_is_told(tmp_path, split):
    root = folder(tmp_path / "images")
    for image in (root / split).rglob("*.png"):
        image.write_bytes(b"half")
    table = read_images(str(root), ImagesOptions(folds=3, fold=1) if split == "test" else ImagesOptions())
    with pytest.raises(
        ConfigError, match=rf"none of the \d+ images of {split} in .* such as {split}/no/0\.png: .*; mend"
    ):
        usable(table, inspect_here(table.root, table.paths))
