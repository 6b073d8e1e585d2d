"""`datasets prepare bccd` on a clone of six images: labels and boxes by hand, faults by name."""

import pytest
from PIL import Image

from fpt_ray.datasets.published.preparation import Division, prepare
from fpt_ray.errors import ConfigError
from fpt_ray.images.table import read_images

OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
PLATELET = ("Platelets", 1, 2, 30, 40)
CELL = ("RBC", 5, 6, 7, 8)
IMAGES = {
    "train": [("a", [PLATELET, CELL]), ("b", [CELL])],
    "val": [("c", [PLATELET, PLATELET]), ("d", [])],
    "test": [("e", []), ("f", [PLATELET])],
}


@pytest.fixture
def clone(tmp_path):
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (tmp_path / folder).mkdir(parents=True)
    for split, images in IMAGES.items():
        (tmp_path / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name, _ in images))
        for name, objects in images:
            Image.new("RGB", (64, 48)).save(tmp_path / f"JPEGImages/{name}.jpg")
            inside = "".join(OBJECT.format(*one) for one in objects)
            (tmp_path / f"Annotations/{name}.xml").write_text(f"<annotation>{inside}</annotation>")
    return tmp_path


def prepared(clone):
    return prepare("bccd", str(clone), None, Division(), True)


def test_labels_and_boxes_are_those_of_the_annotations(clone):
    said = prepared(clone).splitlines()
    assert said[-1] == "2 train, 2 val, 2 test; 3 no, 3 yes"
    table = read_images(str(clone / "platelets.csv"))
    assert table.classes == ("no", "yes")
    assert {(row.path[-5], row.label, row.split) for row in table.rows()} == {
        ("a", 1, "train"),
        ("b", 0, "train"),
        ("c", 1, "val"),
        ("d", 0, "val"),
        ("e", 0, "test"),
        ("f", 1, "test"),
    }
    lines = (clone / "platelets_boxes.csv").read_text().splitlines()
    assert lines[:2] == ["image,x0,y0,x1,y1", "JPEGImages/a.jpg,0.0,1.0,30.0,40.0"]
    assert len(lines) == 5


def test_what_is_no_clone_is_named(clone):
    (clone / "Annotations/a.xml").write_text("<annotation><object><name>Platelets</name></object></annotation>")
    with pytest.raises(ConfigError, match=r"Annotations/a\.xml is no annotation of BCCD"):
        prepared(clone)
    (clone / "Annotations/a.xml").unlink()
    with pytest.raises(ConfigError, match=r"Annotations/a\.xml cannot be read \(No such file"):
        prepared(clone)
    (clone / "ImageSets/Main/train.txt").write_text("../a\n")
    with pytest.raises(ConfigError, match=r"train\.txt of BCCD names '\.\./a', which is no image of it"):
        prepared(clone)
