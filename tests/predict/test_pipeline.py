"""Predictions of many images by Ray Data, against the classifier in this process; what is interrupted goes on."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import override
from fpt_ray.errors import ConfigError
from fpt_ray.metrics.operating_points import OperatingPoint
from fpt_ray.predict import parts, pipeline
from fpt_ray.predict.classifier import Answers, load
from fpt_ray.predict.command import Command, run
from fpt_ray.predict.ensemble import Ensemble
from fpt_ray.predict.evidence.options import EvidenceOptions
from fpt_ray.predict.finding import bundle_named
from fpt_ray.predict.listing import listed
from fpt_ray.predict.summary import summary_text
from fpt_ray.train.bundle import BUNDLE_FILE, bundle_digest, read_bundle
from tests.predict.bundles import TRIAL, left, stored, table_of_images
from tests.stores import draw_images

TARGET = Target(task="multiclass", classes=("c0", "c1", "c2"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def bundle(images, tmp_path_factory):
    """Of two seeds of a probe, whose states are written into one network in turn."""
    folder, table = tmp_path_factory.mktemp("bundle"), table_of_images(images)
    trial = override(TRIAL, {"method": "probe"})
    return left(trial, stored(trial, table, folder / "store"), folder, seeds=2)


def predict_all(bundle, listing, out):
    work = parts.planned(bundle_digest(bundle), listing, out)
    found = pipeline.predict_all(Ensemble(members=(load(bundle),)), work)
    parts.remove_parts(work)
    return found


def test_every_image_of_a_folder_has_a_row_as_the_classifier_says(cluster, bundle, images, tmp_path, capsys):
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "note.txt").write_text("not listed")
    out = tmp_path / "out.parquet"
    looking = EvidenceOptions(evidence=str(tmp_path / "evidence"), evidence_images=2, evidence_orders=0)
    assert run(Command(model=bundle, images=str(folder), out=str(out), looking=looking)) == 1, "1 of 61 cannot be read"
    files = sorted(file.name for file in (tmp_path / "evidence").iterdir())
    assert files == ["00060-3.npz", "00060-3.png", "evidence.csv"], "the first of the two cannot be read"
    rows = pq.read_table(out).to_pylist()
    assert [row["path"] for row in rows] == sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    broken, *good = rows
    assert (broken["path"], broken["class"], broken["probability_c0"]) == ("broken.png", None, None)
    assert broken["error"].startswith("no readable image of a known format")
    expected = load(bundle).predict([folder / row["path"] for row in good])
    found = np.array([[row[f"probability_{name}"] for name in expected.target.classes] for row in good])
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-6)
    np.testing.assert_allclose([row["spread"] for row in good], expected.spread, atol=1e-6)
    np.testing.assert_allclose([row["familiarity"] for row in good], expected.familiarity, atol=1e-6)
    assert [row["class"] for row in good] == expected.labels
    assert not list(tmp_path.glob("out.parquet.parts-*/*"))
    said = capsys.readouterr()
    assert "1 image could not be read:\n  broken.png: no readable image" in said.out
    assert "constructor arguments in the object store" not in said.err


def test_an_interrupted_prediction_goes_on_where_it_was(cluster, bundle, images, tmp_path, monkeypatch):
    listing, out = listed(images, (), TARGET), str(tmp_path / "out.csv")
    monkeypatch.setattr(parts, "_PART_IMAGES", (16, 16))
    whole, calls = pipeline.write, []

    def write(uri, content):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(uri)
        whole(uri, content)

    monkeypatch.setattr(pipeline, "write", write)
    with pytest.raises(KeyboardInterrupt):
        predict_all(bundle, listing, out)
    assert not Path(out).exists()
    monkeypatch.setattr(pipeline, "write", whole)
    asked = []
    write_parts = pipeline._write_parts
    monkeypatch.setattr(pipeline, "_write_parts", lambda *given: (asked.extend(given[2]), write_parts(*given)))
    found = predict_all(bundle, listing, out)
    assert len(asked) == 2, "of four parts, two were there"
    with Path(out).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == list(listing.paths) == found["path"].to_pylist()
    expected = load(bundle).predict([Path(images, path) for path in listing.paths])
    np.testing.assert_allclose([float(row["probability_c1"]) for row in rows], expected.probabilities[:, 1], atol=1e-6)
    with pytest.raises(ConfigError, match=r"out: .*out.csv is there already; remove it, or give another name"):
        predict_all(bundle, listing, out)


# --- without Ray --------------------------------------------------------------------------------------------------


def test_what_cannot_be_listed_or_written_is_refused(images, tmp_path):
    image = next(Path(images).rglob("*.png"))
    assert (listed(str(image), (), TARGET).root, listed(str(image), (), TARGET).paths) == (
        str(image.parent),
        (image.name,),
    )
    with pytest.raises(ConfigError, match=r"nowhere is neither a folder nor a .csv"):
        listed(str(tmp_path / "nowhere"), (), TARGET)
    with pytest.raises(ConfigError, match=r"holds none; give a folder with \.jpg"):
        listed(str(tmp_path), (), TARGET)
    (tmp_path / "out.png").symlink_to(image)
    with pytest.raises(ConfigError, match=r"'out.png' is a link that leaves .*; copy the file into it"):
        listed(str(tmp_path), (), TARGET)
    with pytest.raises(ConfigError, match=r"out is out.xlsx; give a .parquet or .csv file"):
        parts.check_output("out.xlsx")


@pytest.mark.parametrize("images", [0, 1, 8, 9, 300, 5000, 100_000])
def test_parts_are_of_all_images_in_their_order_and_of_bounded_size(images):
    found = parts.parts_of(images)
    assert [at for part in found for at in part] == list(range(images))
    assert all(len(part) <= 64 for part in found)
    assert all(len(part) >= 8 for part in found[:-1])


def test_values_have_a_column_of_their_own_whatever_they_are_called():
    target = Target(task="regression", classes=("path",))
    answers = Answers(target=target, probabilities=np.array([[2.5]]), spread=np.array([0.5]), familiarity=None)
    table = pipeline.answer_rows(answers, ["a.png", "b.png"], ["", ""], ["", "why"])
    assert table.select(["path", "value", "spread"]).to_pylist() == [
        {"path": "a.png", "value": 2.5, "spread": 0.5},
        {"path": "b.png", "value": None, "spread": None},
    ]
    assert not {"class", "familiarity"} & set(table.column_names)


def test_every_label_is_called_by_its_own_operating_points():
    answers = Answers(
        target=Target(task="multilabel", classes=("x", "y")),
        probabilities=np.array([[0.2, 0.7], [0.3, 0.1]]),
        spread=np.zeros(2),
        familiarity=None,
        operating_points=(
            OperatingPoint(name="youden_x", of="x", threshold=0.25),
            OperatingPoint(name="youden_y", of="y", threshold=0.7),
        ),
    )
    table = pipeline.answer_rows(answers, ["a", "b", "c"], ["", "", ""], ["", "why", ""])
    assert table["youden_x"].to_pylist() == [False, None, True]
    assert table["youden_y"].to_pylist() == [True, None, False]


def test_labels_come_from_a_table_or_from_folders_that_are_called_as_classes(images, tmp_path):
    found = listed(images, (), TARGET)
    assert [TARGET.classes[at] for at in found.labels] == [path.split("/")[1] for path in found.paths]
    assert listed(images, (), Target(task="binary", classes=("c0", "c1"))).labels is None
    table = tmp_path / "t.csv"
    table.write_text("file,kind\na.png,c1\nb.png,c1\n")
    two = Target(task="binary", classes=("c0", "c1"))
    named = listed(str(table), ("path=file", "label=kind"), two)
    assert (list(named.paths), named.labels.tolist()) == (["a.png", "b.png"], [1, 1])
    assert listed(str(table), ("path=file",), two).labels is None
    with pytest.raises(ConfigError, match=r"has the label 'c1', which is none of the bundle's \(c0, c2\)"):
        listed(str(table), ("path=file", "label=kind"), Target(task="binary", classes=("c0", "c2")))


def test_several_labels_and_values_come_from_their_columns(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("path,y,x,size\na.png,1,,2.5\nb.png,0,1,3\n")
    several = listed(str(table), ("label=y,x",), Target(task="multilabel", classes=("w", "x", "y")))
    np.testing.assert_array_equal(several.labels, [[np.nan, np.nan, 1], [np.nan, 1, 0]])
    values = listed(str(table), ("label=size",), Target(task="regression", classes=("mm",)))
    assert values.labels.tolist() == [2.5, 3.0]


def test_where_labels_are_known_the_answers_are_scored(bundle, images):
    """By the library's own AUC of what is in the table; of a class without an image nothing is said."""
    read, listing = read_bundle(bundle), listed(images, (), TARGET)
    answers = load(bundle).predict([Path(images, path) for path in listing.paths])
    blank = [""] * len(listing.paths)
    table = pipeline.answer_rows(answers, listing.paths, blank, blank)
    text = summary_text(table, read, listing.labels, "out.csv")
    area = roc_auc_score(listing.labels, answers.probabilities, multi_class="ovr", labels=[0, 1, 2])
    assert f"AUC {area:.4f} (" in text
    right = np.mean(answers.probabilities.argmax(axis=1) == listing.labels)
    assert f"accuracy {right:.4f} (" in text
    assert "unlike the training images" not in text
    strange = answers.familiarity.copy()
    strange[:7] = 0.0
    unlike = pipeline.answer_rows(dataclasses.replace(answers, familiarity=strange), listing.paths, blank, blank)
    said = summary_text(unlike, read, listing.labels, "out.csv")
    assert "warning: 7 of 60 images are unlike the training images (familiarity below 0.01; of images like" in said
    assert "them, about 7.7% are to be expected)" in said
    alone = np.flatnonzero(listing.labels == 2)
    assert "no scores: " in summary_text(table.take(alone), read, listing.labels[alone], "out.csv")
    broken = pipeline.answer_rows(load(bundle).answers(np.zeros((0, 64, 64, 3), np.uint8)), ["a"], [""], ["why"])
    assert "1 image could not be read:\n  a: why\n" in summary_text(broken, read, np.zeros(1, np.int64), "out.csv")


def test_a_study_stands_for_its_best_bundle(tmp_path):
    for number, score in ((3, 0.8), (12, 0.9), (20, 0.85)):
        folder = tmp_path / f"studies/s/bundles/trial-{number:04d}"
        folder.mkdir(parents=True)
        document = {"task": "binary", "classes": ["a", "b"], "trial": {}, "metrics": {"val_auc": score}}
        (folder / BUNDLE_FILE).write_text(json.dumps(document))
    bundles = f"{tmp_path}/studies/s/bundles"
    assert bundle_named("s", str(tmp_path)) == f"{bundles}/trial-0012"
    assert bundle_named("s:3", str(tmp_path)) == f"{bundles}/trial-0003"
    assert bundle_named(f"{bundles}/trial-0020", ".") == f"{bundles}/trial-0020"
    with pytest.raises(ConfigError, match="s has bundles of trial-0003, trial-0012, trial-0020; the front's"):
        bundle_named("s:4", str(tmp_path))
    with pytest.raises(ConfigError, match="neither the folder of a bundle nor a study with bundles"):
        bundle_named("other", str(tmp_path))
