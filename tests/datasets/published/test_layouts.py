"""`datasets prepare` on miniatures of the published layouts (see miniatures.py), read back as image tables.

Counts, classes and places are compared with what the miniatures' makers say, patients with the file names.
"""

import dataclasses
import re
from collections import defaultdict
from pathlib import Path

import pytest

from fpt_ray.datasets.published.preparation import PUBLISHED, Division, prepare
from fpt_ray.datasets.survey import survey
from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.table import read_images
from tests.datasets.published.miniatures import MINIATURES, Miniature, dicom, unpack, workbook

OFFICIAL = {
    "ddr": ("/train/", "/valid/", "/test/"),
    "isic2016": ("Training_Data/", "Training_Data/", "Test_Data/"),
    "isic2018": ("Training_Input/", "Validation_Input/", "Test_Input/"),
    "bccd": ("0000[0-3]", "0000[4-7]", "000(08|09|10|11)"),
}
"""What the paths of training, validation and test images have in them, where splits are published."""
PATIENTS = {"messidor2": "", "isic2018": "", "ddsm": r"/(.)_(\d{4})", "cmmd": r"/(D\d-\d{4})/", "chncxr": r"(\d{4})_"}
"""Data sets whose groups are known, and what in a path names one, where anything does."""


@pytest.fixture(params=MINIATURES)
def name(request):
    if request.param == "cmmd":
        pytest.importorskip("pydicom")
    return request.param


@pytest.fixture
def miniature(name, monkeypatch) -> Miniature:
    """A miniature that counts as whole."""
    made = MINIATURES[name]()
    counts = {"images": made.images, "labelled": PUBLISHED[name].labelled and made.labelled}
    monkeypatch.setitem(PUBLISHED, name, dataclasses.replace(PUBLISHED[name], **counts))
    return made


def prepared(name, folder, split=None, allow_partial=False, seed=0, out=None):
    said = prepare(name, str(folder), out, Division(split=split, seed=seed), allow_partial)
    return read_images(said.splitlines()[0]), said


def test_the_eight_have_the_papers_classes(name):
    made = MINIATURES[name]()
    papers = {"ddr": 5, "messidor2": 5, "isic2016": 2, "isic2018": 7, "ddsm": 3, "cmmd": 2, "covid": 3, "chncxr": 2}
    assert len(made.classes) == papers.get(name, 2)


def test_every_labelled_image_comes_out_with_its_class(name, miniature, tmp_path):
    table, said = prepared(name, unpack(miniature, tmp_path))
    assert table.classes == miniature.classes
    assert len(table) == miniature.labelled
    assert {row.path for row in table.rows()} <= set(miniature.files)
    assert table.note.startswith(f"{PUBLISHED[name].title}: {miniature.labelled} images; ")
    assert table.note in said.splitlines()
    assert all(row.split for row in table.rows())


def test_it_is_found_wherever_it_was_unpacked(name, miniature, tmp_path):
    table, _ = prepared(name, unpack(miniature, tmp_path / "downloads" / "x").parent, out=f"{tmp_path}/table.parquet")
    assert {row.path for row in table.rows()} <= {f"downloads/x/{path}" for path in miniature.files}
    assert len(table) == miniature.labelled


def test_what_is_missing_is_named_with_where_it_is_had(name, miniature, tmp_path):
    kept = {path: content for path, content in miniature.files.items() if miniature.needed not in path}
    folder = unpack(dataclasses.replace(miniature, files=kept), tmp_path)
    said = rf"lacks {re.escape(miniature.needed)} of .*; get it from {re.escape(PUBLISHED[name].home)}"
    with pytest.raises(ConfigError, match=said):
        prepare(name, str(folder), None, Division(), True)


def test_an_image_that_is_missing_is_counted(name, miniature, tmp_path):
    folder = unpack(miniature, tmp_path)
    whole, _ = prepared(name, folder, out=f"{folder}/whole.csv")
    gone = next(row for row in whole.rows() if row.split == "train")
    (folder / gone.path).unlink()
    said = rf"has {miniature.images - 1} images.* of {PUBLISHED[name].title}, where {miniature.images} images"
    with pytest.raises(ConfigError, match=said) as caught:
        prepared(name, folder)
    if name in (*OFFICIAL, "messidor2"):
        assert f"1 that it names are missing, such as {gone.path}" in str(caught.value)
    table, _ = prepared(name, folder, allow_partial=True)
    assert len(table) == miniature.labelled - 1
    assert f"a download with {miniature.images - 1} of {miniature.images}" in table.note


def test_more_than_was_published_is_another_edition(name, miniature, tmp_path, monkeypatch):
    monkeypatch.setitem(PUBLISHED, name, dataclasses.replace(PUBLISHED[name], images=miniature.images - 1))
    with pytest.raises(ConfigError, match=rf"has {miniature.images} images"):
        prepare(name, str(unpack(miniature, tmp_path)), None, Division(), False)


def test_official_splits_are_kept(name, miniature, tmp_path):
    folder = unpack(miniature, tmp_path)
    if name not in OFFICIAL:
        with pytest.raises(ConfigError, match=r"--split official: .* has none; give --split random or patient"):
            prepared(name, folder, "official")
        return
    table, _ = prepared(name, folder)
    assert "official" in table.note
    for row in table.rows():
        assert re.search(OFFICIAL[name][SPLITS.index(row.split)], row.path)


def test_images_of_one_patient_are_never_in_two_splits(name, miniature, tmp_path):
    folder = unpack(miniature, tmp_path)
    if name not in PATIENTS:
        with pytest.raises(ConfigError, match=r"--split patient: .* does not say whose images they are"):
            prepared(name, folder, "patient")
        return
    for seed in range(3):
        table, _ = prepared(name, folder, "patient", seed=seed, out=f"{folder}/{seed}.parquet")
        splits, groups = defaultdict(set), defaultdict(set)
        for row in table.rows():
            patient = re.search(PATIENTS[name], row.path).groups() if PATIENTS[name] else row.group
            splits[patient].add(row.split)
            groups[patient].add(row.group)
        assert all(len(found) == 1 for found in (*splits.values(), *groups.values()))
        assert len({row.group for row in table.rows()}) == len(splits)
        assert f"split 70/10/20 by {PUBLISHED[name].group} (seed {seed})" in table.note


def test_a_random_split_says_that_it_tears_patients(name, miniature, tmp_path):
    folder = unpack(miniature, tmp_path)
    table, _ = prepared(name, folder, "random", seed=1)
    assert "split 70/10/20 at random (seed 1)" in table.note
    assert ("in several splits" in table.note) == (name in PATIENTS)
    assert not any(row.group for row in table.rows())  # a table with torn groups would be refused
    other, _ = prepared(name, folder, "random", seed=2, out=f"{folder}/other.csv")
    test, other_test = ({row.path for row in one.rows() if row.split == "test"} for one in (table, other))
    assert test != other_test


def test_its_images_are_checked_without_a_doubt(name, miniature, tmp_path):
    """A split at random tears patients, whom CMMD's files name: this one is told."""
    folder = unpack(miniature, tmp_path)
    table, _ = prepared(name, folder)
    found = survey(table, str(tmp_path / "work"))
    assert [one.text for one in found.remarks if one.doubt] == []
    assert len(found.table) == miniature.labelled
    torn, _ = prepared(name, folder, "random", out=f"{folder}/random.parquet")
    doubts = [one.doubt for one in survey(torn, str(tmp_path / "work")).remarks if one.doubt]
    assert doubts == (["groups"] if name == "cmmd" else [])


# --- what one data set has alone ------------------------------------------------------------------------------------


def test_both_eyes_and_both_breasts_are_of_one_patient(tmp_path):
    table, _ = prepared("messidor2", unpack(MINIATURES["messidor2"](), tmp_path), allow_partial=True)
    groups = {row.path: row.group for row in table.rows()}
    assert groups["IMAGES/IM000003.JPG"] == groups["IMAGES/20051020_00003_0100_PP.png"]
    assert groups["IMAGES/IM000003.JPG"] != groups["IMAGES/IM000004.JPG"]


def test_validation_is_an_eighth_of_each_class_of_the_training_images(tmp_path):
    folder = unpack(MINIATURES["isic2016"](), tmp_path)
    table, _ = prepared("isic2016", folder, allow_partial=True)
    assert sorted(row.label for row in table.rows() if row.split == "val") == [0, 0, 0, 1]
    assert all(("Test" in row.path) == (row.split == "test") for row in table.rows())
    deeper = unpack(MINIATURES["isic2016"](), tmp_path / "deep/er")
    again, _ = prepared("isic2016", tmp_path / "deep", allow_partial=True)
    chosen = [{Path(row.path).name for row in one.rows() if row.split == "val"} for one in (table, again)]
    assert chosen[0] == chosen[1], f"they depend on how deep below --from {deeper} lies"


def test_with_a_validation_image_go_all_of_the_same_pixels(tmp_path):
    folder = unpack(MINIATURES["isic2016"](), tmp_path / "one")
    table, _ = prepared("isic2016", folder, allow_partial=True)
    held, *_ = (row for row in table.rows() if row.split == "val")
    same, *_ = (row for row in table.rows() if row.split == "train" and row.label != held.label)
    twin = unpack(MINIATURES["isic2016"](), tmp_path / "two")
    (Path(twin) / same.path).write_bytes((Path(folder) / held.path).read_bytes())
    splits = {row.path: row.split for row in prepared("isic2016", twin, allow_partial=True)[0].rows()}
    assert splits[same.path] == splits[held.path] == "val"
    assert sum(one == "val" for one in splits.values()) == 5


def test_a_breast_without_a_biopsy_has_no_label(tmp_path):
    pytest.importorskip("pydicom")
    table, _ = prepared("cmmd", unpack(MINIATURES["cmmd"](), tmp_path), allow_partial=True)
    views = sorted(row.path[-7:] for row in table.rows() if "/D1-0004/" in row.path)
    assert views == ["1-1.dcm", "1-2.dcm"]  # its row is of the left breast: the first two of four


@pytest.mark.parametrize("results", [("Malignant", "Benign"), ("Benign", "Malignant")])
def test_a_breast_with_both_results_is_malignant_and_the_note_says_how_many_images_are_of_one(tmp_path, results):
    pytest.importorskip("pydicom")
    folder = unpack(MINIATURES["cmmd"](), tmp_path)
    rows = [("ID1", "LeftRight", "classification"), ("D1-0004", "R", "Benign"), ("D1-0004", "R", "Benign")]
    rows += [("D1-0004", "L", result) for result in results]
    rows += [("D1-0002", "L", "Benign"), ("D2-0005", "R", "Malignant")]
    (folder / "CMMD_clinicaldata_revision.xlsx").write_bytes(workbook(rows))
    table, said = prepared("cmmd", folder, "random", allow_partial=True)
    assert {row.path[-7:]: table.classes[row.label] for row in table.rows() if "/D1-0004/" in row.path} == {
        "1-1.dcm": "Malignant",
        "1-2.dcm": "Malignant",
        "1-3.dcm": "Benign",
        "1-4.dcm": "Benign",
    }
    assert "; 2 images of breasts with both results as Malignant; " in table.note
    assert table.note in said


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        ("CMMD_clinicaldata_revision.xlsx", b"<html>", r"CMMD_clinicaldata_revision\.xlsx .* is not as published"),
        ("CMMD_clinicaldata_revision.xlsx", workbook([("ID1", "Side")]), "'LeftRight' is not in list"),
        (
            "CMMD_clinicaldata_revision.xlsx",
            workbook([("ID1", "LeftRight", "classification"), ("D1-0001", "L", "?")]),
            r"has a row 'D1-0001', 'L', '\?'",
        ),
        ("manifest-1616439774456/CMMD/D1-0002/a/b/1-1.dcm", b"GIF89a", r"D1-0002/a/b/1-1\.dcm is no DICOM file"),
        ("more/1.3.6.1/1-1.dcm", b"", r"1\.3\.6\.1/1-1\.dcm lies in no patient's folder"),
        ("CMMD/D1-0003/a/b/1-1.dcm", None, r"1-1\.dcm has the ImageLaterality '', neither L nor R"),
    ],
)
def test_what_is_wrong_with_cmmd_is_named(path, content, said, tmp_path):
    pytest.importorskip("pydicom")
    folder = unpack(MINIATURES["cmmd"](), tmp_path)
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(dicom("D1-0003", "") if content is None else content)
    with pytest.raises(ConfigError, match=said):
        prepare("cmmd", str(folder), None, Division(), True)
