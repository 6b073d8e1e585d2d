"""What `datasets prepare` does for all data sets alike: what is found, what leaves the folder, what is written."""

import shutil
from contextlib import nullcontext

import pyarrow.parquet as pq
import pytest

from fpt_ray.datasets.command import prepare as command
from fpt_ray.datasets.published.layout import open_download
from fpt_ray.datasets.published.preparation import PUBLISHED, Division, prepare
from fpt_ray.datasets.published.workbook import first_sheet
from fpt_ray.errors import ConfigError
from fpt_ray.images.table import read_images
from tests.datasets.published.miniatures import MINIATURES, unpack, workbook


@pytest.fixture
def folder(tmp_path):
    return unpack(MINIATURES["ddr"](), tmp_path / "down loads ü")


def prepared(folder, name="ddr", out=None, split=None):
    return prepare(name, str(folder), out, Division(split=split), True)


def test_the_command_says_what_was_written(folder, capsys):
    command("ddr", str(folder), allow_partial=True)
    assert capsys.readouterr().out.splitlines() == [
        f"{folder}/ddr.parquet",
        "DDR: 30 images of a download with 31 of 13,673; official splits",
        "15 train, 5 val, 10 test; 6 0, 6 1, 6 2, 6 3, 6 4",
    ]


def test_a_csv_table_has_its_note_beside_it(folder):
    said = prepared(folder, out=f"{folder.parent}/ddr.csv").splitlines()
    assert said[:2] == [f"{folder.parent}/ddr.csv", f"{folder.parent}/ddr.note.txt"]
    table = read_images(f"{folder.parent}/ddr.csv")
    assert table.note == said[2] == "DDR: 30 images of a download with 31 of 13,673; official splits"
    assert all(row.path.startswith("down loads ü/DDR-dataset/DR_grading/") for row in table.rows())
    other = folder.parent / "other.csv"
    other.write_bytes((folder.parent / "ddr.csv").read_bytes())
    assert read_images(str(other)).note == ""


def test_no_table_stands_beside_the_note_of_another(folder):
    out = folder.parent / "ddr.csv"
    prepared(folder, out=str(out))
    out.unlink()
    with pytest.raises(ConfigError, match=r"ddr\.note\.txt is there already and is another"):
        prepared(folder, out=str(out), split="random")
    assert not out.exists()


def test_a_table_is_written_once(folder):
    assert prepared(folder) == prepared(folder)
    with pytest.raises(ConfigError, match=r"ddr\.parquet is there already and is another; remove it, or give another"):
        prepared(folder, split="random")


def test_a_table_of_the_same_content_is_the_same_however_it_was_written(folder):
    said = prepared(folder)
    table = pq.read_table(folder / "ddr.parquet")
    for other, same in (
        (table, True),
        (table.slice(1), False),
        (table.replace_schema_metadata({"fpt_ray.data_note": "another"}), False),
    ):
        pq.write_table(other, folder / "ddr.parquet", compression="none")  # other bytes, as of another pyarrow
        with nullcontext() if same else pytest.raises(ConfigError, match=r"ddr\.parquet is there .* is another"):
            assert prepared(folder) == said
    (folder / "ddr.parquet").write_bytes(b"no table")
    with pytest.raises(ConfigError, match=r"ddr\.parquet is there already and is another"):
        prepared(folder)


@pytest.mark.parametrize("out", ["elsewhere/ddr.csv", "ddr.txt"])
def test_a_table_lies_where_it_can_name_the_images(folder, out):
    with pytest.raises(ConfigError, match=r"--out is .*; give a \.csv or \.parquet file in .* or above it"):
        prepared(folder, out=str(folder.parent / out))


def test_no_path_leaves_the_folder(folder):
    lists = folder / "DDR-dataset/DR_grading"
    outside = folder.parent / "outside.jpg"
    outside.write_bytes(b"")
    (lists / "valid.txt").write_text("../../../../outside.jpg 1\n")
    with pytest.raises(ConfigError, match=r"1 that it names are missing, such as .*/valid/\.\./\.\./\.\./\.\./outside"):
        prepare("ddr", str(folder), None, Division(), False)
    (lists / "valid/link.jpg").symlink_to(outside)
    (lists / "valid.txt").write_text("link.jpg 1\n")
    with pytest.raises(ConfigError, match=r"valid/link\.jpg is a link that leaves the folder"):
        prepared(folder)
    (lists / "more").symlink_to(folder.parent)
    with pytest.raises(ConfigError, match=r"--from: .*/more is a link to a folder"):
        prepared(folder)


def test_the_nearest_of_several_places_is_taken_and_a_tie_is_named(folder):
    once = prepared(folder, out=f"{folder}/once.csv").splitlines()[-1]
    unpack(MINIATURES["ddr"](), folder / "__MACOSX")
    unpack(MINIATURES["ddr"](), folder / "copies/more")
    assert prepared(folder, out=f"{folder}/twice.csv").splitlines()[-1] == once
    for name in ("a", "b"):
        unpack(MINIATURES["ddr"](), folder / name)
    shutil.rmtree(folder / "DDR-dataset")
    with pytest.raises(ConfigError, match=r"DR_grading/train\.txt in a/DDR-dataset/\S+ and b/DDR-dataset/\S+; give"):
        prepared(folder)


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("ddr", "DDR-dataset/DR_grading/test.txt", "a.jpg 7\n", "has the line 'a.jpg 7'; get it anew"),
        ("ddr", "DDR-dataset/DR_grading/test.txt", "a.jpg\n", "has the line 'a.jpg'; get it anew"),
        ("messidor2", "messidor_data.csv", "image,grade\n", "lacks the column 'image_id'; it has image, grade"),
        ("messidor2", "messidor-2.csv", "left;right\n", r"messidor-2\.csv of Messidor-2 lacks IM000000\.jpg"),
        (
            "isic2016",
            "ISBI2016_ISIC_Part3_Test_GroundTruth.csv",
            "ISIC_0000050,0.5\n",
            "has the line 'ISIC_0000050,0.5'",
        ),
        ("isic2018", "ISIC2018_Task3_Training_LesionGroupings.csv", b"\xff\xfe", "is no CSV file in UTF-8"),
        ("isic2018", "ISIC2018_Task3_Training_LesionGroupings.csv", "", "lacks the column 'image'; it has"),
    ],
)
def test_a_label_file_that_is_not_as_published_is_named(name, file, content, said, tmp_path):
    folder = unpack(MINIATURES[name](), tmp_path)
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=said) as caught:
        prepared(folder, name)
    assert file.rpartition("/")[2] in str(caught.value)


def test_two_diagnoses_or_none_are_an_error(tmp_path):
    folder = unpack(MINIATURES["isic2018"](), tmp_path)
    (truth,) = folder.rglob("ISIC2018_Task3_Test_GroundTruth.csv")
    whole = truth.read_text()
    for other in (whole.replace("1.0", "0.0"), whole.replace("0.0", "1.0")):
        truth.write_text(other)
        with pytest.raises(ConfigError, match=r"Test_GroundTruth\.csv of ISIC 2018 gives ISIC_\d+ the diagnoses"):
            prepared(folder, "isic2018")


def test_an_image_that_is_named_twice_is_an_error(folder):
    listed = folder / "DDR-dataset/DR_grading/test.txt"
    listed.write_text(2 * listed.read_text())
    with pytest.raises(ConfigError, match=r"DDR names DDR-dataset/.*\.jpg twice"):
        prepared(folder)


def test_a_folder_that_is_missing_says_where_the_data_are_had(tmp_path):
    with pytest.raises(ConfigError, match=r"--from: .*/none is no folder; DDR is had from github\.com/nkicsl"):
        open_download(PUBLISHED["ddr"], str(tmp_path / "none"))


def test_a_workbook_is_read_as_it_was_written():
    rows = [("ID1", "LeftRight", "Age"), ("D1-0001", "", "44"), ("D1-0002", "L", "")]
    assert first_sheet(workbook(rows)) == [["ID1", "LeftRight", "Age"], ["D1-0001", "", "44"], ["D1-0002", "L"]]


@pytest.mark.parametrize("data", [b"", b"PK", workbook([("a",)])[:-30]])
def test_what_is_no_workbook_is_an_error(data):
    with pytest.raises(ValueError, match=r"no \.xlsx file"):
        first_sheet(data)
