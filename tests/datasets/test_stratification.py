"""Tables with a stratified split: written once, and taken without a doubt, whatever images have in common."""

import csv
import hashlib
import shutil

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from fpt_ray.config.tasks import ImagesOptions
from fpt_ray.datasets import checking, stratification
from fpt_ray.datasets.checking import inspected
from fpt_ray.datasets.inspection import Found
from fpt_ray.datasets.one_image import inspect_here
from fpt_ray.datasets.stratification import write_stratified
from fpt_ray.datasets.units import joined
from fpt_ray.errors import ConfigError
from fpt_ray.images.table import read_images
from tests.images.test_dicom import grey_file


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """Inspection in this process."""
    for module in (checking, stratification):
        monkeypatch.setattr(module, "inspect", lambda root, paths, *_, **__: Found(findings=inspect_here(root, paths)))


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)).save(path)


def folder(root, number=20):
    """Two classes of so many images."""
    for label in "ab":
        for n in range(number):
            picture(root / label / f"{n:03}.png", seed=(n, label == "b"))
    return root


def splits_of(uri):
    return {row.path: row.split for row in read_images(uri).rows()}


def written(root, seed=0):
    return write_stratified(str(root), None, seed).splitlines()[0]


def test_the_table_is_written_once_and_lies_where_it_can_name_the_images(tmp_path):
    root = folder(tmp_path / "set")
    assert write_stratified(str(root), None, 0).endswith("/set/stratified.csv\n28 train, 4 val, 8 test")
    with pytest.raises(ConfigError, match="is there already; give it as images"):
        write_stratified(str(root), None, 1)
    with pytest.raises(ConfigError, match="has splits already"):
        write_stratified(f"{root}/stratified.csv", None, 1)
    write_stratified(str(root), f"{tmp_path}/all.csv", 0)
    with open(f"{tmp_path}/all.csv", newline="") as file:
        assert next(csv.DictReader(file))["path"].startswith("set/a/")
    with pytest.raises(ConfigError, match=r"give a \.csv in .*set or above it"):
        write_stratified(str(root), f"{tmp_path}/other/x.csv", 0)


def test_weights_are_kept_and_columns_may_be_called_otherwise(tmp_path):
    lines = ["path,diagnosis,weight"]
    for number in range(18):
        picture(tmp_path / f"{number:02}.png", number)
        lines.append(f"{number:02}.png,{'ab'[number % 2]},{0.5 + number}")
    (tmp_path / "set.csv").write_text("\n".join(lines) + "\n")
    write_stratified(f"{tmp_path}/set.csv", None, 0, ImagesOptions(columns=("label=diagnosis",)))
    table = read_images(f"{tmp_path}/stratified.csv")
    wanted = {f"{number:02}.png": (number % 2, 0.5 + number) for number in range(18)}
    assert {row.path: (row.label, row.weight) for row in table.rows()} == wanted


def test_what_must_be_said_of_the_images_is_said_of_a_table_above_them(tmp_path):
    root, above = folder(tmp_path / "set"), f"{tmp_path}/all.csv"
    (root / "DATA_NOTE.txt").write_text("Not of people.\n")
    assert write_stratified(str(root), above, 0).splitlines()[:2] == [above, f"{tmp_path}/all.note.txt"]
    assert read_images(above).note == "Not of people."
    write_stratified(str(root), above, 0)
    (root / "DATA_NOTE.txt").write_text("Of people.\n")
    with pytest.raises(ConfigError, match=r"all\.note\.txt is there already and is another; remove it, or"):
        write_stratified(str(root), above, 0)


@pytest.mark.parametrize(
    ("labels", "task"), [(["1", "2", "3"], "ordinal"), (["a|b", "a"], "binary"), (["0.5", "1"], "binary")]
)
def test_a_task_that_the_table_cannot_keep_is_said(tmp_path, labels, task):
    lines = ["path,label"]
    for number in range(18):
        picture(tmp_path / f"{number:02}.png", number)
        lines.append(f"{number:02}.png,{labels[number % len(labels)]}")
    (tmp_path / "set.csv").write_text("\n".join(lines) + "\n")
    options = ImagesOptions(task=task)
    *_, said = write_stratified(f"{tmp_path}/set.csv", None, 0, options).splitlines()
    assert said == f"give --task {task} with it from now on, since a CSV table does not keep that"
    again = read_images(f"{tmp_path}/stratified.csv", options)
    assert (again.task, again.classes) == (task, read_images(f"{tmp_path}/set.csv", options).classes)


def test_what_is_the_same_has_one_split_and_the_table_is_taken_without_a_doubt(tmp_path, capsys):
    """Copies, the same pixels in another format, and two groups that share an image."""
    root, lines = folder(tmp_path / "set"), ["path,label,group"]
    for label in "ab":
        for n in range(20):
            name = f"{label}/{n:03}"
            shutil.copy(root / f"{name}.png", root / f"{name}-again.png")
            Image.open(root / f"{name}.png").save(root / f"{name}.bmp")
            ends = zip((".png", "-again.png", ".bmp"), ("one", "two", "three"), strict=True)
            lines += [f"{name}{end},{label},{label}{n} {group}" for end, group in ends]
    plain = splits_of(written(root))
    for label in "ab":
        for n in range(20):
            assert len({plain[f"{label}/{n:03}{end}"] for end in (".png", "-again.png", ".bmp")}) == 1
    assert inspected(read_images(f"{root}/stratified.csv"), str(tmp_path)).table.note == ""
    (root / "groups.csv").write_text("\n".join(lines) + "\n")
    write_stratified(f"{root}/groups.csv", f"{root}/again.csv", 0)
    assert inspected(read_images(f"{root}/again.csv"), str(tmp_path)).table.note == ""
    assert "40 images several times in one split" in capsys.readouterr().err


def test_images_of_a_patient_that_dicom_files_name_have_one_split(tmp_path):
    root = tmp_path / "set"
    for number in range(60):
        path = root / "ab"[number % 2] / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
        path.write_bytes(grey_file(pixels, PatientID=f"P{number % 20}"))
    found = splits_of(written(root))
    for patient in range(20):
        assert len({split for path, split in found.items() if int(path[2:-4]) % 20 == patient}) == 1
    assert inspected(read_images(f"{root}/stratified.csv"), str(tmp_path)).table.note == ""


def test_images_that_are_renamed_stay_and_most_do_where_others_are_added(tmp_path):
    before = splits_of(written(folder(tmp_path / "one", 100)))
    other = folder(tmp_path / "two", 100)
    for path in list(other.rglob("*.png")):
        path.rename(path.with_stem(f"renamed-{path.stem}"))
    renamed = {path.replace("renamed-", ""): split for path, split in splits_of(written(other)).items()}
    assert renamed == before
    after = splits_of(written(folder(tmp_path / "three", 120)))
    tested = [path for path, split in before.items() if split == "test"]
    assert sum(after[path] == "test" for path in tested) > 0.8 * len(tested)


def test_few_images_that_cannot_be_read_are_left_out_and_many_stop(tmp_path, capsys):
    root = folder(tmp_path / "set", 60)
    (root / "a/000.png").write_bytes(b"half")
    assert len(splits_of(written(root))) == 119
    assert "1 of 120 images cannot be read, and are left out, for instance a/000.png" in capsys.readouterr().err
    (root / "b/000.png").write_bytes(b"half")
    with pytest.raises(ConfigError, match="2 of 120 images cannot be read, more than 1%; mend or remove them"):
        write_stratified(str(root), f"{tmp_path}/all.csv", 0)


def test_groups_that_share_a_content_are_one_and_called_by_the_first_name():
    groups, contents = pa.array(["d", "c", "b", "c", "a", "e"]), pa.array([b"1", b"1", b"2", b"3", b"3", b"4"])
    assert joined(groups, contents).to_pylist() == ["a", "a", "b", "a", "a", "e"]


@pytest.mark.parametrize("there", [True, False])
def test_files_of_a_table_with_hashes_are_looked_at_where_they_are(tmp_path, capsys, there):
    """Else the patients that they name would be torn: 60 files of 20 patients."""
    root = tmp_path / "images"
    root.mkdir()
    rows = []
    for number in range(60):
        path = root / f"{number}.dcm"
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
        path.write_bytes(grey_file(pixels, PatientID=f"P{number % 20}"))
        rows.append((path.name, "ab"[number % 2], hashlib.sha256(path.read_bytes()).hexdigest()))
        if not there:
            path.unlink()
    lines = ["path,label,sha256", *(",".join(row) for row in rows)]
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    found = inspected(read_images(f"{root}/table.csv"), str(tmp_path)).table
    splits = {number: {row.split for row in found.rows() if int(row.path[:-4]) % 20 == number} for number in range(20)}
    assert all(len(one) == 1 for one in splits.values()) == there
    said = f"no file of the table is in {root}, so that none was looked at: pixels are not compared, and no patient is"
    assert (said in capsys.readouterr().err) == (not there)
