"""`tune` as a user runs it, on a real one-node Ray cluster that all tests of this file share.

One worker is compared with two, MLflow's runs with Optuna's storage.
"""

import contextlib
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fpt_ray.bench.cores import Measured, measured_line, measured_text
from fpt_ray.bench.recorded import recorded_spans, recorded_workload
from fpt_ray.bench.scaling import Job
from fpt_ray.config.preparation import Preparation
from fpt_ray.errors import ConfigError
from fpt_ray.images.decoding import read_square
from fpt_ray.metrics.scores import auc
from fpt_ray.predict.classifier import load
from fpt_ray.predict.finding import bundle_named, bundles_of_front
from fpt_ray.report.predictions import read_predictions
from fpt_ray.report.result import read_result
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.names import metric_key
from fpt_ray.tracking.server import default_uri, open_tracking
from fpt_ray.train.bundle import BUNDLE_FILE, read_bundle
from fpt_ray.tune.bundles import bundle_folder
from fpt_ray.tune.command import Command, run
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.study import run_study
from tests.conftest import SMOKE, table_of
from tests.searches import agree, of_store

BACKBONE = "fixed: {{backbone.name: vit_tiny_patch16_224, backbone.weights: random, {}}}"
pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def searched(store, workdir):
    """What a search of three trials says (stderr) and prints (stdout)."""
    said, printed = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed):
        run(Command(**of_store(store, workdir=workdir, study="s", num_trials=3, register="best of s")))
    return said.getvalue(), printed.getvalue()


def test_a_search_ends_with_a_front(searched):
    said, printed = searched
    assert "read once into shared memory" in said
    assert "trial 3/3" in said
    assert "test AUC" in printed


def test_a_search_leaves_a_page_and_what_was_said_of_each_test_image(searched, store, workdir):
    page = Path(workdir, "studies/s/report.html")
    assert f"page:    {page}  (" in searched[1]
    client = open_tracking(default_uri(workdir))
    study = tracking.find_study(client, "s")
    assert "report.html" in {file.path for file in client.list_artifacts(study.run_id)}
    shown = [one for one in tracking.read_trials(client, study) if "test_auc" in one.metrics]
    for record in shown:
        found = read_predictions(client, record.run_id)
        assert auc(found.said[0], found.labels, store.classes) == pytest.approx(record.metrics["test_auc"], abs=1e-6)
        assert found.images == tuple(one.tobytes().hex() for one in store.splits["test"].hashes)
    assert f"--model s:{max(shown, key=lambda one: one.metrics['val_auc']).number} " in page.read_text()


def test_a_search_leaves_a_bundle_of_every_member_of_its_front(searched, images, store, workdir):
    """Of the test images, read from their files, each says what gave the test AUC that the study shows."""
    client = open_tracking(default_uri(workdir))
    records = tracking.read_trials(client, tracking.find_study(client, "s"))
    assert all(record.metrics["process_memory_megabytes"] > 50 for record in records)
    shown = {bundle_folder(f"{workdir}/studies/s", one.number): one for one in records if "test_auc" in one.metrics}
    left = Path(workdir, "studies/s/bundles")
    assert {str(one) for one in left.iterdir() if one.is_dir()} == set(shown)
    assert set(bundles_of_front("s", workdir)) == set(shown)
    assert f"bundles: {len(shown)} in {left}, each with a model card" in searched[0]
    paths = sorted(Path(images, "test").rglob("*.png"))
    labels = np.array([store.classes.index(path.parent.name) for path in paths])
    for folder, record in shown.items():
        classifier = load(folder)
        (found,) = classifier.probabilities(np.stack([squared(path, 96) for path in paths]))
        assert auc(found, labels, store.classes) == pytest.approx(record.metrics["test_auc"], abs=1e-6)
        assert classifier.predict(paths[:2]).labels == [store.classes[at] for at in found[:2].argmax(axis=1)]
        assert f"| auc | {record.metrics['val_auc']:.4f} (" in card_of(folder)
        assert f" | {record.metrics['test_auc']:.4f} (" in card_of(folder)
    best = max(shown, key=lambda folder: shown[folder].metrics["val_auc"])
    assert bundle_named("s", workdir) == best


def test_a_search_logs_a_model_of_every_bundle_and_registers_the_best(searched, workdir):
    client = open_tracking(default_uri(workdir))
    records = tracking.read_trials(client, tracking.find_study(client, "s"))
    shown = [one for one in records if "test_auc" in one.metrics]
    best = max(shown, key=lambda one: one.metrics["val_auc"])
    assert f"models: {len(shown)} of study s in MLflow" in searched[0]
    assert f"trial {best.number} is best of s version 1: models:/best of s@champion" in searched[0]
    assert client.get_model_version_by_alias("best of s", "champion").run_id == best.run_id
    fetched, left = bundle_named("models:/best of s/1", workdir), bundle_named("s", workdir)
    assert Path(fetched, BUNDLE_FILE).read_bytes() == Path(left, BUNDLE_FILE).read_bytes()


def squared(path, resolution):
    return read_square(path.read_bytes(), path.name, Preparation(resolution=resolution))


def card_of(folder):
    return Path(folder, "README.md").read_text()


def test_a_search_can_be_scaled_from_what_it_recorded(searched, store, workdir):
    result = read_result(open_tracking(default_uri(workdir)), "s", default_uri(workdir), workdir)
    found = recorded_workload(result, gpu_bytes=2**40, per_gpu=2)
    trials = result.trials
    assert [trial.fit_seconds for trial in found.trials] == [trial.metrics["fit_seconds"] for trial in trials]
    assert [trial.share for trial in found.trials] == [50, 50, 50]
    assert found.image_seconds * sum(found.shard_rows) == pytest.approx(store.preload_seconds)
    starts, ends = zip(*recorded_spans(trials), strict=True)
    longest = max(end - start for start, end in zip(starts, ends, strict=True))
    assert 0 < found.startup_seconds <= found.startup_seconds + found.worker_seconds <= longest
    assert 0 <= found.driver_seconds < max(ends) - min(starts)


def test_what_two_processes_give_is_told_beside_what_the_model_expects():
    """By hand: jobs of 4 and 6 s after 2 s; alone 12 s, two at once 8 s, with twice the work 14 s (4 4 beside 6 6)."""
    jobs = (Job(seconds=4.0), Job(seconds=6.0))
    one = Measured(work="a search", processes=1, seconds=12.0, jobs=jobs, ready=2.0, driver_seconds=0.0)
    runs = [one, replace(one, processes=2, seconds=10.0), replace(one, processes=2, times=2, seconds=16.0)]
    assert "added up, of which the model makes 8.0 s" in measured_line(runs[1])
    measured, model = measured_text(runs).splitlines()
    assert re.findall(r"[\d.]+(?= s|%)", measured) == ["12.0", "10.0", "60", "16.0", "75"]
    assert re.findall(r"[\d.]+(?= s|%)", model) == ["12.0", "8.0", "75", "14.0", "86"]


@pytest.mark.slow
def test_a_trial_with_two_workers_of_its_own_gives_the_numbers_of_one(searched, store, workdir):
    command = of_store(store, workdir=workdir, num_trials=1)
    for name, workers in (("one", 1), ("two", 2)):
        run_study(StudyOptions(**command, study=name, workers_per_trial=workers))
    client = open_tracking(default_uri(workdir))
    one, two = (tracking.read_trials(client, tracking.find_study(client, name))[0] for name in ("one", "two"))
    assert one.params == two.params  # both studies begin with the paper's point
    for name in ("val_auc", "best_epoch", "test_auc"):
        assert two.metrics[name] == pytest.approx(one.metrics[name], abs=1e-6)


@pytest.mark.slow
def test_a_search_goes_on_with_features_from_other_places(searched, store, workdir, capsys):
    command = of_store(store, workdir=workdir, study="s")
    with pytest.raises(ConfigError, match=r"exists .*; resume it"):
        run_study(StudyOptions(**command))
    with pytest.raises(ConfigError, match=r"read is gpu, but the features have .* and there is no gpu; take another"):
        run_study(StudyOptions(**command, num_trials=4, resume=True, read="gpu"))
    run_study(StudyOptions(**command, num_trials=4, resume=True, read="stream"))
    assert "streamed by every trial" in capsys.readouterr().err
    run_study(StudyOptions(**command, num_trials=5, resume=True, read="disk"))
    (folder,) = re.findall(r"written once to every host's disk \((.*?)\)", capsys.readouterr().err)
    assert not Path(folder).exists()
    agree(workdir, "s", 5, ended_at=(3, 4))


@pytest.mark.slow
def test_the_best_are_confirmed_once_with_new_seeds(store, workdir, capsys, monkeypatch):
    """The test AUC and its spread against those of the seeds' own runs; nothing else has seen the test split."""
    command = of_store(store, workdir=workdir, study="c", num_trials=3)
    command |= {"set": ("training.epochs=1",), "confirm": 2, "repeats": 2}
    run(Command(**command))
    shown = capsys.readouterr()
    assert "Confirmed with 2 new seeds" in shown.out
    assert "no picture of importances: 3 trials" in shown.err
    client = open_tracking(default_uri(workdir))
    study = tracking.find_study(client, "c")
    records = tracking.read_trials(client, study)
    run_study(StudyOptions(**command, resume=True))
    assert [record.run_id for record in tracking.read_trials(client, study)] == [record.run_id for record in records]
    confirmed = [record for record in records if "of" in record.tags]
    assert len(records) - len(confirmed) == 3
    assert 1 <= len(confirmed) <= 2  # the front may have one member
    for record in records:
        assert record.status == "FINISHED"
        assert ("test_auc" in record.metrics) == (record in confirmed)
    for record in confirmed:
        seeds = [client.get_run(run_id) for run_id in tracking.seed_runs(client, study, record)]
        assert [run.data.params["training.seed"] for run in seeds] == ["1", "2"]
        scores = [run.data.metrics[metric_key("test_auc")] for run in seeds]
        assert record.metrics["test_auc"] == pytest.approx(np.mean(scores))
        assert record.metrics["test_auc_std"] == pytest.approx(np.std(scores, ddof=1))
        assert record.metrics["test_auc_low"] <= record.metrics["test_auc"] <= record.metrics["test_auc_high"]
    assert sum("difference_low" in record.metrics for record in confirmed) == len(confirmed) - 1
    members = {int(folder[-4:]): read_bundle(folder) for folder in bundles_of_front("c", workdir)}
    assert set(members) == {one.number for one in read_result(client, "c", default_uri(workdir), workdir).front}
    for bundle in members.values():
        assert "val_auc_low" in bundle.metrics
        assert not any(name.startswith("test_") for name in bundle.metrics), "nor for its bundle"
    best = max(confirmed, key=lambda record: record.metrics["val_auc"])
    assert bundle_named("c", workdir) == bundle_folder(f"{workdir}/studies/c", best.number)
    assert "the test split was kept for other trials" in card_of(bundles_of_front("c", workdir)[0])
    files = {file.path for file in client.list_artifacts(study.run_id)}
    assert {"history.html", "front.md"} <= files


PROBES = """
space:
  side.blocks: {choices: ["10", "11"]}
  training.learning_rate: {choices: [1.0e-3, 1.0e-2]}
sampler: grid
repeats: 2
fixed: {method: probe, side.depth: 1, side.resolution: 64, features.token_ratio: 0.3, FIXED}
"""


@pytest.mark.slow
def test_trials_that_train_as_one_model_have_the_numbers_of_each_by_itself(store, workdir, tmp_path, capsys):
    fixed = ", ".join(line.strip() for line in SMOKE.read_text().partition("fixed:\n")[2].splitlines()[:6])
    space = tmp_path / "probes.yaml"
    space.write_text(PROBES.replace("FIXED", fixed))
    client = open_tracking(default_uri(workdir))
    found = {}
    for name, together in (("alone", 1), ("as_one", None)):
        options = of_store(store, workdir=workdir, study=name, together=together, at_once=1) | {"space": str(space)}
        run_study(StudyOptions(**options))
        found[name] = tracking.read_trials(client, tracking.find_study(client, name))
    for own, other in zip(found["alone"], found["as_one"], strict=True):
        for metric in ("val_auc", "val_auc_std", "test_auc", "test_auc_std", "ppe", "peak_memory_bytes"):
            assert other.metrics[metric] == pytest.approx(own.metrics[metric], abs=2e-3), metric
        assert other.params == own.params
    assert len({record.metrics["val_auc"] for record in found["as_one"]}) == 4
    folders = {Path(record.checkpoint).parent for record in found["as_one"]}
    assert len(folders) == 1, "one of Tune's trials"
    assert {one.name for one in folders.pop().iterdir()} >= {"0", "1", "2", "3"}


METHODS = """
points:
  first: {method: FIRST}
  it: {method: METHOD}
space: {training.learning_rate: {choices: [1.0e-3, 1.0e-2]}}
choose: [training.learning_rate]
sampler: grid
repeats: 2
fixed: {side.depth: 2, side.resolution: 64, features.token_ratio: 0.3, FIXED}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "method", "together"),
    [
        ("linear_probing", "lora", False),
        ("stored_linear_probe", "probe", True),
    ],
)
def test_a_grid_of_methods_is_repeated_over_seeds(first, method, together, images, workdir, tmp_path, capsys):
    """One after the other, or together: then both have had a first epoch before one of them has a second."""
    fixed = ", ".join(line.strip() for line in SMOKE.read_text().partition("fixed:\n")[2].splitlines()[:6])
    space = tmp_path / f"{method}.yaml"
    space.write_text(METHODS.replace("FIXED", fixed).replace("METHOD", method).replace("FIRST", first))
    run_study(StudyOptions(space=str(space), images=images, workdir=workdir, set=("training.epochs=2",)))
    said = capsys.readouterr().err
    assert "rows: 2 of 6 trials" in said
    client = open_tracking(default_uri(workdir))
    study = tracking.find_study(client, method)
    other, final = [record for record in tracking.read_trials(client, study) if record.tags["stage"] == "final"]
    assert not study.starts_at_paper
    assert (other.label, final.label, final.status) == ("first", "it", "FINISHED")
    assert "difference_low" not in other.metrics
    between = final.metrics["test_auc"] - other.metrics["test_auc"]
    assert final.metrics["difference_low"] <= between <= final.metrics["difference_high"]
    assert "Rows with several seeds" in Path(f"{workdir}/studies/{method}/front.md").read_text()
    seeds = [client.get_run(run_id) for run_id in tracking.seed_runs(client, study, final)]
    assert [run.data.params["training.seed"] for run in seeds] == ["0", "1"]
    for name in ("val_auc", "test_auc"):
        values = [run.data.metrics[metric_key(name)] for run in seeds]
        assert final.metrics[name] == pytest.approx(np.mean(values))
        assert final.metrics[f"{name}_std"] == pytest.approx(np.std(values, ddof=1))
    first, second = (client.get_metric_history(run.info.run_id, metric_key("val_auc_epoch")) for run in seeds)
    assert [one.step for one in (*first, *second)] == [1, 2, 1, 2]
    assert (second[0].timestamp <= first[1].timestamp) == together


BACKBONES = """
points:
  rotary positions: {backbone.name: eva02_tiny_patch14_224, features.resolution: 56, side.resolution: 28}
  no class token: {backbone.name: test_vit2, features.resolution: 64, side.resolution: 32}
space: {method: {choices: [fpt+, knn]}}
sampler: grid
fixed: {backbone.weights: random, side.depth: 2, side.reduction: 4, training.epochs: 2, training.batch_size: 8}
"""


@pytest.mark.slow
def test_a_study_of_other_backbones_ends_with_scores_of_each(images, workdir, tmp_path):
    """Two stores of one study; by fpt+ and by nearest neighbours, whose only epoch is their last."""
    space = tmp_path / "backbones.yaml"
    space.write_text(BACKBONES)
    run_study(StudyOptions(space=str(space), images=images, workdir=workdir))
    client = open_tracking(default_uri(workdir))
    records = tracking.read_trials(client, tracking.find_study(client, "backbones"))
    kinds = {(record.params["backbone.name"], record.params["method"]): record for record in records}
    names = ("eva02_tiny_patch14_224", "test_vit2")
    assert kinds.keys() == {(name, method) for name in names for method in ("fpt+", "knn")}
    for (_, method), record in kinds.items():
        assert record.status == "FINISHED"
        assert 0 <= record.metrics["test_auc"] <= 1
        assert record.metrics["epochs"] == (1 if method == "knn" else 2)
        assert (record.metrics["learnable_parameters"] == 0) == (method == "knn")
        assert (record.metrics["ppe"] == record.metrics["val_auc"]) == (method == "knn")


@pytest.mark.slow
def test_a_trial_that_diverges_has_a_reason_and_the_search_goes_on(store, workdir, tmp_path, capsys):
    space = tmp_path / "diverges.yaml"
    rows = "space: {training.learning_rate: {choices: [1e-3, 1e+30]}}"
    fixed = SMOKE.read_text().partition("fixed:")[2].partition("objectives")[0]
    space.write_text(f"{rows}\nfixed:{fixed}  side.depth: 2\n  side.resolution: 64\nnum_trials: 2")
    run_study(StudyOptions(space=str(space), images=table_of(store), features=(store.uri,), workdir=workdir))
    assert "the loss is nan" in capsys.readouterr().err
    client = open_tracking(default_uri(workdir))
    records = tracking.read_trials(client, tracking.find_study(client, "diverges"))
    statuses = {record.status for record in records}
    assert statuses == {"FINISHED", "FAILED"}
    assert all("learning_rate" in record.reason for record in records if record.status == "FAILED")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: {side.depth: {low: 1, high: 13}}", r"side\.depth is 13; vit_tiny_patch16_224 has 12 blocks"),
        ("space: {side.resolution: {choices: [64, 70]}}", r"side\.resolution is 70"),
        ("space: {side.reduction: {choices: [4, 5]}}", r"side\.reduction is 5"),
        (
            "space: {side.depth: {low: 1, high: 6}}",
            r"no feature store serves this trial: side\.depth and side\.blocks ask for .*holds 10, 11",
        ),
        ("space: {features.resolution: {choices: [96, 112]}}", r"features\.resolution is 112"),
    ],
)
def test_a_space_that_does_not_fit_is_refused_before_anything_runs(text, message, store, tmp_path):
    space = tmp_path / "x.yaml"
    fixed = BACKBONE.format("side.reduction: 4, features.resolution: 96")
    if "reduction" in text or "resolution: {choices: [96" in text:
        fixed = BACKBONE.format("side.depth: 2, side.resolution: 64")
    space.write_text(f"{text}\n{fixed}")
    with pytest.raises(ConfigError, match=message):
        run_study(StudyOptions(space=str(space), images=table_of(store), features=(store.uri,), workdir=str(tmp_path)))
    assert not list(tmp_path.rglob("optuna.log"))
    assert not list((tmp_path / "features").glob("*"))
