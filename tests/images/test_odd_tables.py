"""Tables that are odd or wrong: what is said of them, and that what is only odd is read."""

import csv
import dataclasses
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fpt_ray.errors import ConfigError
from fpt_ray.images.splits import stratified, with_hashed_splits
from fpt_ray.images.table import read_images, write_table

ODD = [
    "folder of images/left eye.png",
    " begins with a space.png",
    "眼底/右.png",
    "é.png",
    "e\u0301.png",  # the same to the eye, another file
    'a "quoted", name.png',
    "👁.png",
    "100%25.png",
    "a#b?c.png",
]


def test_blank_lines_before_the_names_are_none(tmp_path):
    (tmp_path / "t.csv").write_text("\n\npath,label\na.png,x\nb.png,y\n")
    assert read_images(str(tmp_path / "t.csv")).paths.to_pylist() == ["a.png", "b.png"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_paths_have_spaces_and_any_letters(tmp_path, kind):
    for path in ODD:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    uri = str(tmp_path / f"my täble.{kind}")
    columns = {"path": ODD, "label": ["ä", "no finding", "ä"] * 3}
    if kind == "parquet":
        pq.write_table(pa.table(columns), uri)
    else:
        with open(uri, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    table = read_images(uri)
    assert sorted(table.paths.to_pylist()) == sorted(ODD)
    assert table.classes == ("no finding", "ä")
    splits = np.zeros(len(table), np.int8)
    for label in (0, 1):
        splits[table.labels == label] = np.arange((table.labels == label).sum()) % 3
    hashes = np.zeros((len(table), 32), np.uint8)
    write_table(dataclasses.replace(table, splits=splits, hashes_=hashes), f"{tmp_path}/written.parquet")
    assert sorted(read_images(f"{tmp_path}/written.parquet").paths.to_pylist()) == sorted(ODD)


def test_a_csv_without_a_header_is_told_that_it_needs_one(tmp_path):
    (tmp_path / "a.csv").write_text("1.png,none\n2.png,mild\n")
    with pytest.raises(ConfigError, match=r"a\.csv lacks the column 'path'; it has 1\.png, none; .*the first row of a"):
        read_images(f"{tmp_path}/a.csv")


def test_a_table_of_one_class_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("path,label\n1.png,only\n2.png,only\n")
    with pytest.raises(ConfigError, match=r"a\.csv has the classes \('only',\); at least two are needed"):
        read_images(f"{tmp_path}/a.csv")


def test_one_image_of_each_class_is_read_and_cannot_be_stratified(tmp_path):
    (tmp_path / "a.csv").write_text("path,label\n1.png,a\n2.png,b\n3.png,c\n")
    table = read_images(f"{tmp_path}/a.csv")
    assert table.labels.tolist() == [0, 1, 2]
    with pytest.raises(ConfigError, match="class 'a' has 1 images or groups; a split needs at least 3"):
        stratified(table, table.paths.dictionary_encode(), 0)


def test_ten_thousand_classes_take_seconds(tmp_path):
    number, rows = 10_000, 50_000
    labels = np.arange(rows) % number
    columns = {"path": [f"{i}.png" for i in range(rows)], "label": [f"species {i:05}" for i in labels]}
    pq.write_table(pa.table(columns), f"{tmp_path}/a.parquet")
    began = time.process_time()
    table = read_images(f"{tmp_path}/a.parquet")
    assert len(table.classes) == number
    assert (np.bincount(table.labels) == 5).all()
    hashes = np.random.default_rng(0).integers(0, 256, (rows, 32), np.uint8)
    with_hashed_splits(dataclasses.replace(table, hashes_=hashes)).digest()
    assert len(stratified(table, table.paths.dictionary_encode(), 0).of("test")) == number
    assert time.process_time() - began < 30


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('a.png,x,"seen twice\nb.png,y,\nc.png,x,\n', r"line 2 begins a row that is no CSV \(unexpected end of data\)"),
        ('a.png,x,\nb.png,y,"large" lesion\n', r"line 3 begins a row that is no CSV \(',' expected after '\"'\)"),
    ],
)
def test_a_quote_that_is_not_closed_takes_no_row(tmp_path, rows, message):
    (tmp_path / "table.csv").write_text(f"path,label,note\n{rows}")
    with pytest.raises(ConfigError, match=f"table.csv: {message}; close its quotes"):
        read_images(str(tmp_path / "table.csv"))


def test_a_text_of_several_lines_is_read_and_said(tmp_path, capsys):
    rows = "".join(f"{number}.png,{'ab'[number % 2]},\n" for number in range(4))
    (tmp_path / "table.csv").write_text(f'path,label,note\n{rows}4.png,a,"one\n5.png,b,\nthree"\n')
    assert len(read_images(str(tmp_path / "table.csv"))) == 5
    assert "the quotes of row 5 span 3 lines" in capsys.readouterr().err


@pytest.mark.parametrize("cell", ["nan", " NaN ", "  "])
def test_who_is_unknown_is_no_group(tmp_path, cell):
    (tmp_path / "table.csv").write_text(f"path,label,group\na.png,x,p1\nb.png,y,{cell}\n")
    with pytest.raises(ConfigError, match=f"row 2 has the group '{cell}'; fill it, or leave out the column"):
        read_images(str(tmp_path / "table.csv"))
