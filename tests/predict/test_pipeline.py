"""Predictions of many images by Ray Data, against the classifier in this process; what is interrupted goes on."""

import csv
import dataclasses
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fpt_ray.config.preparation import Preparation
from fpt_ray.config.tasks import Target
from fpt_ray.errors import ConfigError
from fpt_ray.metrics.operating_points import OperatingPoint
from fpt_ray.models.device import DeviceError
from fpt_ray.predict import parts, pipeline
from fpt_ray.predict.classifier import Answers, load
from fpt_ray.predict.command import Command, run
from fpt_ray.predict.ensemble import Ensemble
from fpt_ray.predict.evidence import worker
from fpt_ray.predict.evidence.options import EvidenceOptions
from fpt_ray.predict.evidence.writing import planned_evidence
from fpt_ray.predict.finding import bundle_named
from fpt_ray.predict.listing import listed
from fpt_ray.storage.errors import StorageError
from fpt_ray.train.bundle import BUNDLE_FILE, bundle_digest, read_bundle

TARGET = Target(task="multiclass", classes=("c0", "c1", "c2"))


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_killed_before_its_evidence_a_command_goes_on_with_that(cluster, bundle, images, tmp_path, monkeypatch):
    out, folder = tmp_path / "out.csv", tmp_path / "evidence"
    looking = EvidenceOptions(evidence=str(folder), evidence_images=2, evidence_orders=0)
    command = Command(model=bundle, images=images, out=str(out), looking=looking, workdir=str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(worker, "ask_worker", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(command)
    written = out.stat()
    assert not folder.exists()
    monkeypatch.setattr(pipeline, "_write_parts", None)
    assert run(command) == 0
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert (folder / "evidence.csv").exists()
    assert not list(tmp_path.glob("out.csv.parts-*"))
    with pytest.raises(ConfigError, match=r"out.csv is there already; remove it"):
        run(dataclasses.replace(command, looking=EvidenceOptions()))


def interrupted(_question):
    raise KeyboardInterrupt


def test_evidence_that_a_worker_wrote_elsewhere_is_none(cluster, bundle, images, tmp_path, monkeypatch):
    looking = EvidenceOptions(evidence=str(tmp_path / "evidence"), evidence_images=1, evidence_orders=0)
    listing = listed(images, (), TARGET)
    plan = planned_evidence(read_bundle(bundle), listing, looking)
    monkeypatch.setattr(worker, "ask_worker", lambda question: "written")
    with pytest.raises(ConfigError, match=r"evidence: a worker wrote .*evidence on its own host; give a folder"):
        worker.evidence_by_worker(Ensemble(members=(load(bundle),)), listing, plan, pa.table({}), str(tmp_path))


@pytest.mark.slow
def test_images_that_a_worker_cannot_reach_are_an_error_and_no_rows(cluster, bundle, images, tmp_path, monkeypatch):
    """A storage that fails, and a file that the driver's host alone has, as far as a worker can tell."""
    listing, out = listed(images, (), TARGET), str(tmp_path / "out.csv")
    elsewhere = dataclasses.replace(listing, root="gs://bucket")
    monkeypatch.setattr(parts, "stamps", lambda root, paths: [f"{path}|1|2" for path in paths])
    with pytest.raises(ConfigError, match=r"^gs:// is no location; give a local path"):
        predict_all(bundle, elsewhere, out)
    hidden = dataclasses.replace(listing, root=str(tmp_path / "hidden"))
    with pytest.raises(
        ConfigError, match=rf"host {socket.gethostname()} finds no .*hidden/test/c\d/\d+.png, which was"
    ):
        predict_all(bundle, hidden, out)
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_cannot_be_used_is_told_of_before_anything_is_read(cluster, bundle, images, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "hardware_here", unusable)
    with pytest.raises(DeviceError, match="it cannot be used"):
        predict_all(bundle, listed(images, (), TARGET), str(tmp_path / "out.csv"))


def unusable(*_):
    raise DeviceError("it cannot be used")


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


def part_of(*paths):
    return pa.table({"part": [0], "paths": [list(paths)], "there": [[True for _ in paths]]})


def test_a_failing_storage_is_no_image_that_cannot_be_read(images, monkeypatch):
    def fails(uri):
        raise StorageError(f"{uri}: S3 fails")

    preparations = (Preparation(resolution=64),)
    good = pipeline._read_part(images, preparations, part_of("test/c0/0.png"))
    monkeypatch.setattr(pipeline, "bytes_or_reason", fails)
    row = pipeline._read_part("root", preparations, part_of("a.png"))
    assert row["failure"].to_pylist() == ["root/a.png: S3 fails"]
    assert row.schema == good.schema
    assert good["failure"].to_pylist() == [""]
    monkeypatch.undo()
    of_folder = pipeline._read_part(images, preparations, part_of("test/c0"))
    assert of_folder.select(["errors", "failure"]).to_pylist() == [{"errors": ["there is no such file"], "failure": ""}]


def test_an_actor_without_its_device_says_so_of_every_part(monkeypatch):
    monkeypatch.setattr(pipeline, "taken_over", unusable)
    monkeypatch.setattr(pipeline.ray, "get", lambda reference: reference)
    answered = pipeline._Actor((None,), 1)(pa.table({"part": [3], "failure": [""]}))
    assert answered.select(["part", "failure"]).to_pylist() == [{"part": 3, "failure": "it cannot be used"}]


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


def put_bundle(workdir, study, number, score, confirms=None):
    folder = workdir / f"studies/{study}/bundles/trial-{number:04d}"
    folder.mkdir(parents=True)
    document = {"task": "binary", "classes": ["a", "b"], "trial": {}, "metrics": {"val_auc": score}}
    more = {"confirms": confirms, "data": {"images_digest": "0" * 64}}
    (folder / BUNDLE_FILE).write_text(json.dumps(document | more))


def test_the_best_of_all_studies_is_a_confirmed_one_where_there_is_any(tmp_path):
    for study, number, score, confirms in (("a", 4, 0.93, None), ("a", 9, 0.9, 4), ("b", 2, 0.94, None)):
        put_bundle(tmp_path, study, number, score, confirms)
    (tmp_path / "studies/mine/copied").mkdir(parents=True)
    (tmp_path / f"studies/mine/copied/{BUNDLE_FILE}").write_text("{}")  # where no study has bundles
    assert bundle_named("best", str(tmp_path)) == f"{tmp_path}/studies/a/bundles/trial-0009"
    assert bundle_named("b", str(tmp_path)) == f"{tmp_path}/studies/b/bundles/trial-0002"
    damaged = tmp_path / f"studies/b/bundles/trial-0002/{BUNDLE_FILE}"
    damaged.write_text(damaged.read_text()[:40])
    for model in ("b", "best"):
        with pytest.raises(ConfigError, match=rf"^model: {damaged} cannot be used .*; copy it again, or remove"):
            bundle_named(model, str(tmp_path))


def test_a_study_stands_for_its_best_bundle(tmp_path):
    for number, score in ((3, 0.8), (12, 0.9), (20, 0.85)):
        put_bundle(tmp_path, "s", number, score)
    bundles = f"{tmp_path}/studies/s/bundles"
    assert bundle_named("s", str(tmp_path)) == f"{bundles}/trial-0012"
    assert bundle_named("s:3", str(tmp_path)) == f"{bundles}/trial-0003"
    assert bundle_named(f"{bundles}/trial-0020", ".") == f"{bundles}/trial-0020"
    with pytest.raises(ConfigError, match="s has bundles of trial-0003, trial-0012, trial-0020; the front's"):
        bundle_named("s:4", str(tmp_path))
    with pytest.raises(ConfigError, match="neither the folder of a bundle nor a study with bundles"):
        bundle_named("other", str(tmp_path))
