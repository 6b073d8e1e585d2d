"""What a study knows of its images before their features are read, against the table that is written here."""

import csv

from fpt_ray.config.space import need_of
from fpt_ray.datasets.usable import inspected_here
from fpt_ray.features.joining import planned
from fpt_ray.features.spec import store_spec
from fpt_ray.images.table import read_images
from tests.predict.bundles import TRIAL
from tests.stores import draw_images


def counts(table):
    spec = store_spec(need_of(TRIAL), weights_digest="0" * 64, precision="float32")
    return {split: rows.num_groups for split, rows in planned("nowhere", spec, table).splits.items()}


def test_groups_are_counted_in_each_split(tmp_path):
    whole = inspected_here(read_images(str(draw_images(tmp_path / "images"))))
    assert counts(whole) == {"train": None, "val": None, "test": None}
    patients = {"train": 5, "val": 2, "test": 3}
    with (tmp_path / "images" / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "split", "group"])
        for number, row in enumerate(whole.rows()):
            writer.writerow([row.path, row.label, row.split, f"{row.split}{number % patients[row.split]}"])
    assert counts(inspected_here(read_images(str(tmp_path / "images" / "table.csv")))) == patients
