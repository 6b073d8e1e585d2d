"""What a prediction is divided into, where it goes on, and which outputs are refused."""

from pathlib import Path

import pytest

from fpt_ray.config.space import need_of
from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import trial_from
from fpt_ray.errors import ConfigError
from fpt_ray.features.spec import store_spec
from fpt_ray.predict import parts
from fpt_ray.predict.classifier import images_held
from fpt_ray.predict.listing import listed
from fpt_ray.storage.files import write
from tests.stores import draw_images

TARGET = Target(task="multiclass", classes=("c0", "c1", "c2"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("images", [0, 1, 8, 9, 300, 5000, 100_000])
def test_parts_are_of_all_images_in_their_order_and_of_bounded_size(images):
    found = parts.parts_of(images)
    assert [at for part in found for at in part] == list(range(images))
    assert all(len(part) <= 64 for part in found)
    assert all(len(part) >= 8 for part in found[:-1])


def test_of_large_images_fewer_are_held_at_once():
    """At the paper's setting 3.9 MB of features and 0.8 MB of pixels each; at 2,048 px sixteen times as much."""
    papers = store_spec(need_of(trial_from({})))
    large = store_spec(need_of(trial_from({"features.resolution": 2048})))
    assert (images_held([papers]), images_held([large])) == (64, 4)
    assert images_held([papers, large]) == images_held([large, papers]) == 4
    found = parts.parts_of(5000, images_held([large]))
    assert [at for part in found for at in part] == list(range(5000))
    assert {len(part) for part in found} == {4}


def test_what_goes_on_needs_all_parts_and_parts_that_go_meanwhile_are_told(images, tmp_path):
    listing, out = listed(images, (), TARGET), str(tmp_path / "out.csv")
    work = parts.planned("it", listing, out)
    for number in work.unfinished()[1:]:
        write(f"{work.folder}/{parts.part_file(number)}", b"")
    assert len(work.parts) > 1
    assert work.unfinished() == [0]
    Path(out).touch()
    with pytest.raises(ConfigError, match=r"out.csv is there already; remove it"):
        parts.planned("it", listing, out)
    with pytest.raises(ConfigError, match=r"out.csv.parts-\w+ was removed meanwhile, as the same command does at"):
        parts.read_back(work, 0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder.csv", "folder.csv is a folder; give the name of a file"),
        ("file/out.csv", "file/out.csv cannot be written, for .*/file is no folder that may be written to"),
        ("file/new/out.csv", "file/new/out.csv cannot be written, for .*/file is no folder"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_at_once(name, said, tmp_path):
    with pytest.raises(ConfigError, match=r"out is out.xlsx; give a .parquet or .csv file"):
        parts.check_output("out.xlsx")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=said):
        parts.check_output(str(tmp_path / name))
    parts.check_output(str(tmp_path / "new/deep/out.csv"))
    assert not (tmp_path / "new").exists()
