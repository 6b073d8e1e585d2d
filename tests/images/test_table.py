"""Folders and tables are written by each test; splits and digests are compared with what their definition says."""

import csv
import dataclasses
import hashlib
import io
import json
import os
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fpt_ray.datasets.one_image import inspect_here
from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.table import ImageRow, ImageTable, read_images
from tests.stores import image_table

LAYOUT = {split: {"mild": 2, "none": 3} for split in ("train", "val", "test")}


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def put(path: Path, data: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def split_folder(root: Path, layout: dict[str, dict[str, int]] = LAYOUT) -> Path:
    for split, classes in layout.items():
        for name, count in classes.items():
            for number in range(count):
                put(root / split / name / f"{number}.png", png(zlib.crc32(f"{split}{name}{number}".encode())))
    return root


def class_folder(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        for number in range(count):
            put(root / name / f"{number:03}.jpg", b"not opened yet")
    return root


def csv_table(path: Path, rows: list[tuple[str, ...]], header: str = "path,label,split") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        file.write(header + "\n")
        csv.writer(file).writerows(rows)
    return str(path)


GOOD = [(f"images/{split}{label}.png", label, split) for split in ("test", "train", "val") for label in ("a", "b")]


# --- folders --------------------------------------------------------------------------------------------------


def test_a_folder_of_splits(tmp_path: Path) -> None:
    table = read_images(str(split_folder(tmp_path)))
    assert table.classes == ("mild", "none")
    assert table.root == os.path.realpath(tmp_path)
    assert [row.split for row in table.rows()] == ["train"] * 5 + ["val"] * 5 + ["test"] * 5
    assert [row.path for row in table.rows_at(table.of("val"))] == [
        "val/mild/0.png",
        "val/mild/1.png",
        "val/none/0.png",
        "val/none/1.png",
        "val/none/2.png",
    ]
    assert [row.label for row in table.rows_at(table.of("test"))] == [0, 0, 1, 1, 1]
    assert {row.sha256 for row in table.rows()} == {""}
    assert table.ignored == 0
    assert table.skipped == ()


def test_images_in_deeper_folders_belong_to_the_class(tmp_path: Path) -> None:
    split_folder(tmp_path)
    put(tmp_path / "train/mild/patient/left/9.TIF")
    assert "train/mild/patient/left/9.TIF" in [row.path for row in read_images(str(tmp_path)).rows()]


def test_what_is_no_image_is_counted(tmp_path: Path) -> None:
    split_folder(tmp_path)
    for name in ("readme.txt", "loose.png", ".hidden.png", "train/loose.png", "train/mild/.a.png", "masks/x/1.png"):
        put(tmp_path / name)
    for name in (".git/a.png", "train/none/Thumbs.db", "val/.cache/a/1.png"):
        put(tmp_path / name)
    table = read_images(str(tmp_path))
    assert len(table) == 15
    assert table.ignored == 9


def test_a_relative_folder_gives_an_absolute_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split_folder(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    assert read_images("set") == read_images(str(tmp_path / "set"))


@pytest.mark.parametrize("missing", ["train", "val", "test"])
def test_a_missing_split_is_named(tmp_path: Path, missing: str) -> None:
    split_folder(tmp_path, {split: classes for split, classes in LAYOUT.items() if split != missing})
    with pytest.raises(ConfigError, match=f"lacks the folder {missing} "):
        read_images(str(tmp_path))


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    split_folder(tmp_path, {split: classes for split, classes in LAYOUT.items() if split != "val"})
    (tmp_path / "val").mkdir()
    with pytest.raises(ConfigError, match="has no image in val; every split needs some"):
        read_images(str(tmp_path))


@pytest.mark.parametrize(
    ("names", "renamed"),
    [
        (["Training", "Testing"], "rename Testing to test and Training to train"),
        (["Train", "Val", "Test"], "rename Test to test and Train to train and Val to val"),
        (["training", "validation"], "rename training to train and validation to val"),
        (["TRAIN", "test", "Dev"], "rename Dev to val and TRAIN to train"),
        (["train", "Validation", "test", "notes"], "rename Validation to val"),
        (["Training", "Testing", "masks"], "rename Testing to test and Training to train"),
        (["Testing"], "rename Testing to test"),
    ],
)
def test_folders_called_nearly_as_splits_are_no_classes(tmp_path: Path, names: list[str], renamed: str) -> None:
    split_folder(tmp_path, {name: {"mild": 1, "none": 1} for name in names})
    with pytest.raises(ConfigError, match=rf"lacks the folder .*it has .*; {renamed}, and give train, val and test"):
        read_images(str(tmp_path))


@pytest.mark.parametrize("names", [["Testing", "control"], ["valid", "invalid"], ["Dev", "ops"]])
def test_a_class_may_be_called_as_a_split_beside_another(tmp_path: Path, names: list[str]) -> None:
    assert read_images(str(class_folder(tmp_path, dict.fromkeys(names, 3)))).classes == tuple(sorted(names))


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "hollow").mkdir()
    with pytest.raises(ConfigError, match="hollow holds no images"):
        read_images(str(tmp_path))


@pytest.mark.parametrize("files", [[], ["notes.txt", "loose.png"]])
def test_a_folder_without_images(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        put(tmp_path / name)
    with pytest.raises(ConfigError, match="holds none; give class folders"):
        read_images(str(tmp_path))


def test_one_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\('only',\); at least two"):
        read_images(str(class_folder(tmp_path, {"only": 9})))


@pytest.mark.parametrize("name", ["absent", "notes.txt", "absent.csv"])
def test_what_is_neither_folder_nor_table(tmp_path: Path, name: str) -> None:
    put(tmp_path / "notes.txt")
    with pytest.raises(ConfigError, match=r"neither a folder nor a .csv or .parquet file"):
        read_images(str(tmp_path / name))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_folder_of_200_000_files_is_read_without_an_object_for_each(tmp_path: Path) -> None:
    """Of what is held; while it is walked, each file has its name and path."""
    rows = 200_000
    read_images(str(class_folder(tmp_path / "few", {"a": 1, "b": 1})))  # what is imported then is not counted
    root = tmp_path / "many"
    for number in range(rows):
        if number % 50_000 == 0:  # a file has at most 65,000 names on ext4
            first = put(root / f"first{number}", png(number))
        path = root / f"{'ab'[number % 2]}/{number}.png"
        if number < 2:
            path.parent.mkdir()
        os.link(first, path)
    tracemalloc.start()
    try:
        table = read_images(str(root))
        (held, peak), blocks = tracemalloc.get_traced_memory(), tracemalloc.take_snapshot().traces
        assert len(blocks) < rows / 100
    finally:
        tracemalloc.stop()
    assert (len(table), table.classes, np.bincount(table.labels).tolist()) == (rows, ("a", "b"), [rows // 2] * 2)
    print(f"{held / rows:.0f} bytes a row, {peak / rows:.0f} at most")
    assert held / rows < 30
    assert peak / rows < 400


# --- links ----------------------------------------------------------------------------------------------------


def test_a_link_to_a_file_outside_is_refused(tmp_path: Path) -> None:
    secret = put(tmp_path / "secret.png", png(0))
    root = split_folder(tmp_path / "set")
    (root / "train/mild/link.png").symlink_to(secret)
    with pytest.raises(ConfigError, match=r"'train/mild/link.png' is a link that leaves"):
        read_images(str(root))


def test_a_link_to_a_file_inside_is_read(tmp_path: Path) -> None:
    split_folder(tmp_path)
    (tmp_path / "train/mild/link.png").symlink_to(tmp_path / "train/mild/0.png")
    table = read_images(str(tmp_path))
    assert table.row(2).path == "train/mild/link.png"
    first, second, third = inspect_here(table.root, table.paths.slice(0, 3))["sha256"].to_pylist()
    assert first == third != second


def test_a_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    root = split_folder(tmp_path / "set")
    (root / "train/mild/loop").symlink_to(root, target_is_directory=True)
    with pytest.raises(ConfigError, match="loop is a link to a folder"):
        read_images(str(root))


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    root = split_folder(tmp_path / "set")
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    assert read_images(str(tmp_path / "link")) == read_images(str(root))


# --- classes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["10", "9", "0"], ("0", "9", "10")),
        (["grade10", "grade9"], ("grade10", "grade9")),
        (["10", "9", "none"], ("10", "9", "none")),
    ],
)
def test_classes_are_sorted_and_grades_by_value(tmp_path: Path, names: list[str], order: tuple[str, ...]) -> None:
    assert read_images(str(class_folder(tmp_path, dict.fromkeys(names, 3)))).classes == order


# --- tables ---------------------------------------------------------------------------------------------------


def test_a_csv_table(tmp_path: Path) -> None:
    table = read_images(csv_table(tmp_path / "set.csv", GOOD))
    assert table.classes == ("a", "b")
    assert table.root == os.path.realpath(tmp_path)
    assert [(row.path, row.label, row.split) for row in table.rows()][:3] == [
        ("images/traina.png", 0, "train"),
        ("images/trainb.png", 1, "train"),
        ("images/vala.png", 0, "val"),
    ]


def test_csv_columns_may_stand_anywhere_and_be_more(tmp_path: Path) -> None:
    rows = [(label, "x", split, path) for path, label, split in GOOD]
    with_more = read_images(csv_table(tmp_path / "a.csv", rows, "\ufefflabel,age,split,path"))
    assert with_more == read_images(csv_table(tmp_path / "b.csv", GOOD))


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_parquet_table_equals_its_csv(tmp_path: Path, text: pa.DataType) -> None:
    paths, labels, splits = zip(*GOOD, strict=True)
    columns = {"path": pa.array(paths), "label": pa.array(labels).cast(text), "split": pa.array(splits).cast(text)}
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    assert read_images(str(tmp_path / "set.parquet")) == read_images(csv_table(tmp_path / "set.csv", GOOD))


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    columns = {"path": [f"{i}.png" for i in range(12)], "label": [2, 10, 2, 10] * 3}
    pq.write_table(pa.table({**columns, "split": ["train"] * 4 + ["val"] * 4 + ["test"] * 4}), tmp_path / "a.parquet")
    table = read_images(str(tmp_path / "a.parquet"))
    assert table.classes == ("2", "10")
    rows = table.rows_at(table.of("train"))
    assert {row.path: row.label for row in rows} == {
        "0.png": 0,
        "1.png": 1,
        "2.png": 0,
        "3.png": 1,
    }


def test_without_splits_a_table_holds_what_its_folder_holds(tmp_path: Path) -> None:
    folder = read_images(str(class_folder(tmp_path, {"a": 10, "b": 20})))
    rows = [(row.path, folder.classes[row.label]) for row in folder.rows()]
    assert read_images(csv_table(tmp_path / "set.csv", rows, "path,label")).rows() == folder.rows()
    assert {row.split for row in folder.rows()} == {""}


def test_groups_may_be_numbers(tmp_path: Path) -> None:
    rows = [(path, label, split, str(number)) for number, (path, label, split) in enumerate(GOOD)]
    table = read_images(csv_table(tmp_path / "set.csv", rows, "path,label,split,group"))
    assert {row.group for row in table.rows()} == set("012345")
    columns = {name: [row[at] for row in rows] for at, name in enumerate(("path", "label", "split"))}
    pq.write_table(pa.table({**columns, "group": list(range(6))}), tmp_path / "set.parquet")
    assert read_images(str(tmp_path / "set.parquet")).rows() == table.rows()
    with pytest.raises(ConfigError, match="row 1 has the group ''; fill it"):
        read_images(csv_table(tmp_path / "gap.csv", [(*rows[0][:3], "")], "path,label,split,group"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*GOOD, ("../secret.png", "a", "train")], r"'../secret.png' leaves"),
        ([*GOOD, ("images/../../secret.png", "a", "train")], r"leaves"),
        ([*GOOD, ("/etc/hostname", "a", "train")], r"'/etc/hostname' leaves"),
        ([*GOOD, ("link/secret.png", "a", "train")], r"'link/secret.png' is a link that leaves"),
        ([*GOOD, ("x\0.png", "a", "train")], r"not UTF-8"),
        ([*GOOD, ("images/new.png", "", "train")], r"row 7 has the label ''; fill it"),
        ([*GOOD, ("", "a", "train")], r"row 7 has the path ''"),
        ([*GOOD, ("images/new.png", "a")], r"row 7 has 2 cells, the header has 3"),
        ([*GOOD, ("images/new.png", "a", "valid")], r"row 7 has the split 'valid'"),
        ([*GOOD, ("./images/traina.png", "b", "test")], r"1 paths stand in it twice, such as 'images/traina.png'"),
        ([row for row in GOOD if row[2] != "val"], r"set.csv has no image in val;"),
        ([], r"holds none"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, rows: list[tuple[str, ...]], message: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/link").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(ConfigError, match=message):
        read_images(csv_table(tmp_path / "set/set.csv", rows))


@pytest.mark.parametrize("header", ["file,label,split", "path;label;split", ""])
def test_a_missing_column_is_named(tmp_path: Path, header: str) -> None:
    with pytest.raises(ConfigError, match="lacks the column 'path'"):
        read_images(csv_table(tmp_path / "set.csv", GOOD, header))


@pytest.mark.parametrize("name", ["set.csv", "set.parquet"])
def test_a_damaged_table_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read as"):
        read_images(str(put(tmp_path / name, b"path,label\n\xff\xfe\x00,a\n")))


@pytest.mark.parametrize("column", ["path", "label", "split"])
def test_parquet_types_are_checked_before_values(tmp_path: Path, column: str) -> None:
    columns = dict(zip(("path", "label", "split"), map(list, zip(*GOOD, strict=True)), strict=True))
    table = pa.table({**columns, column: pa.array([b"pickle"] * len(GOOD), pa.binary())})
    pq.write_table(table, tmp_path / "set.parquet")
    with pytest.raises(ConfigError, match=f"column {column} is binary; give text"):
        read_images(str(tmp_path / "set.parquet"))


class Foreign(pa.ExtensionType):
    """A type that text hides behind, as Ray's pickled objects hide behind bytes."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "fpt_ray.test.foreign")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "Foreign":
        return cls()


def test_extension_types_are_refused(tmp_path: Path) -> None:
    pa.register_extension_type(Foreign())
    try:
        paths, labels, splits = zip(*GOOD, strict=True)
        label = pa.ExtensionArray.from_storage(Foreign(), pa.array(labels))
        pq.write_table(pa.table({"path": paths, "label": label, "split": splits}), tmp_path / "set.parquet")
        with pytest.raises(ConfigError, match="column label is extension"):
            read_images(str(tmp_path / "set.parquet"))
    finally:
        pa.unregister_extension_type("fpt_ray.test.foreign")


def rows_of(count: int) -> ImageTable:
    rows = [
        ImageRow(path=f"{split}/{number:03}.png", label=number % 2, split=split)
        for split in SPLITS
        for number in range(count)
    ]
    return image_table(rows)


def test_equal_names_in_different_folders_are_different_images(tmp_path: Path) -> None:
    table = read_images(str(split_folder(tmp_path)))
    assert len(set(inspect_here(table.root, table.paths)["sha256"].to_pylist())) == len(table) == 15


# --- notes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (b"", ""),
        (b"\n", ""),
        (b"Made by a test.\nmore\n", "Made by a test."),
        (b"\xef\xbb\xbfMade by a test.\r\n", "Made by a test."),
    ],
)
@pytest.mark.parametrize("name", ["DATA_NOTE.txt", "set.note.txt"])
def test_the_first_line_of_a_note_is_the_tables(tmp_path: Path, name: str, content: bytes, note: str) -> None:
    put(tmp_path / name, content)
    assert read_images(csv_table(tmp_path / "set.csv", GOOD)).note == note


@pytest.mark.parametrize("name", ["DATA_NOTE.txt", "set.note.txt"])
def test_a_note_that_is_not_utf_8_is_named(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, "Größe".encode("latin-1"))
    with pytest.raises(ConfigError, match=rf"{name} is not UTF-8; save it as UTF-8"):
        read_images(csv_table(tmp_path / "set.csv", GOOD))


@pytest.mark.parametrize(
    ("images", "own", "note"),
    [
        ("Not of people.", "Split by a test.", "Split by a test; Not of people."),
        ("Not of people.", "Not of people; 2 files twice", "Not of people; 2 files twice"),
        ("Not of people; of 2020.", "Not of people.", "Not of people; of 2020."),
    ],
)
def test_a_table_says_its_own_note_and_that_of_its_images(tmp_path: Path, images: str, own: str, note: str) -> None:
    put(tmp_path / "DATA_NOTE.txt", images.encode())
    put(tmp_path / "set.note.txt", own.encode())
    assert read_images(csv_table(tmp_path / "set.csv", GOOD)).note == note


# --- digest ---------------------------------------------------------------------------------------------------


def digest_by_hand(table: ImageTable) -> str:
    rows = sorted((row.sha256, row.label, row.split) for row in table.rows())
    return hashlib.sha256(json.dumps([table.classes, rows]).encode()).hexdigest()


def inspected_rows(count: int) -> ImageTable:
    hashes = [hashlib.sha256(str(i // 2).encode()).digest() for i in range(3 * count)]
    return dataclasses.replace(rows_of(count), hashes_=np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32))


def test_the_digest_is_of_what_determines_numbers_and_not_of_names_and_groups() -> None:
    table = inspected_rows(2)
    rows = table.rows()
    others = [
        dataclasses.replace(table, classes=("a", "c")),
        dataclasses.replace(table, task="ordinal"),
        dataclasses.replace(table, weights=np.ones(6, np.float32)),
        *(
            image_table([dataclasses.replace(rows[0], **change), *rows[1:]])
            for change in ({"label": 1}, {"split": "test"}, {"sha256": "ab" * 32})
        ),
        image_table(rows[:-1]),
    ]
    assert len({other.digest() for other in (table, *others)}) == len(others) + 1
    renamed = [dataclasses.replace(row, path=f"new/{i}", group="new") for i, row in enumerate(rows)]
    for same in (dataclasses.replace(table, root="x", note="said"), image_table(renamed), image_table(rows[::-1])):
        assert same.digest() == table.digest()
    assert len(table.digest()) == 64


def test_the_digest_is_that_of_its_json_however_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of studies and stores that are on disks: contents that come twice, labels of two digits, and parts."""
    rows = [dataclasses.replace(row, label=i % 12) for i, row in enumerate(inspected_rows(50).rows())]
    table = image_table(rows, [f"{number} \u00e9" for number in range(12)])
    assert table.digest() == digest_by_hand(table)
    monkeypatch.setattr("fpt_ray.images.digest._CHUNK", 7)
    assert table.digest() == digest_by_hand(table)
    assert rows_of(3).digest() == digest_by_hand(rows_of(3))
    pinned = "97fa17da03bea42941dcb9aae16f1fc2a61e89cf886b559dc74d06f364759ee0"
    assert inspected_rows(2).digest() == pinned
