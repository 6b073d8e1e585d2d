"""The commands as a user runs them, on a real one-node Ray cluster that all tests of this file share.

One worker is compared with two, a killed preload with an uninterrupted one, MLflow's runs with Optuna's storage.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import optuna
import psutil
import pytest
import torch
from stores import draw_images

from fpt_ray import tracking
from fpt_ray.config import ConfigError, override, trial_from
from fpt_ray.preload import preload
from fpt_ray.ray_session import ray_session, require_resources
from fpt_ray.rows import rows_from_files
from fpt_ray.shards import open_shard
from fpt_ray.space_yaml import load_space
from fpt_ray.store import open_store
from fpt_ray.store_spec import StoreError
from fpt_ray.train import Command as TrainCommand
from fpt_ray.train import run_training
from fpt_ray.trial import load_checkpoint, trial_slice
from fpt_ray.tune import Command as TuneCommand
from fpt_ray.tune import run_study

BACKBONE = "fixed: {{backbone.name: vit_tiny_patch16_224, backbone.weights: random, {}}}"
SMOKE = Path(__file__).parents[1] / "search_spaces" / "smoke.yaml"
TRIAL = load_space(SMOKE).stores()[0]


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    with ray_session(local=True, num_cpus=2):
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def store(images, workdir):
    return preload(images, TRIAL, workdir)


def rows_of(store):
    """{split: [(row, path, sha256)]} as the files hold them."""
    found = {}
    for split in ("train", "val", "test"):
        tables = [open_shard(uri).read(columns=["row", "path", "sha256"]) for uri in store.shard_uris(split)]
        found[split] = [tuple(row.values()) for table in tables for row in table.to_pylist()]
    return found


# --- preload --------------------------------------------------------------------------------------------------


def test_preload_stores_every_image_once_and_is_reused(store, images, workdir, capsys):
    rows = rows_of(store)
    assert {split: len(found) for split, found in rows.items()} == {"train": 36, "val": 12, "test": 12}
    for found in rows.values():
        assert [row for row, _, _ in found] == list(range(len(found)))
        assert len({path for _, path, _ in found}) == len(found)
    before = os.stat(f"{store.uri}/manifest.json").st_mtime_ns
    assert preload(images, TRIAL, workdir) == store
    assert "reusing the finished store" in capsys.readouterr().err
    assert os.stat(f"{store.uri}/manifest.json").st_mtime_ns == before


def test_a_store_slice_equals_a_direct_extraction_bit_for_bit(store, images, workdir, tmp_path):
    narrow = override(TRIAL, {"side.depth": 1, "features.token_ratio": 0.1})
    direct = preload(images, narrow, str(tmp_path))
    wide = rows_from_files(store, "train", trial_slice(narrow, store), 64)
    small = rows_from_files(direct, "train", trial_slice(narrow, direct), 64)
    assert direct.spec.depth == 1
    ids = [0, 7, 35]
    for kind in ("keys", "values", "low_res"):
        assert torch.equal(getattr(wide.take(ids), kind), getattr(small.take(ids), kind))


PRELOAD = (
    "import sys; from fpt_ray import preload as p; p.SHARD_BYTES = 100_000; from fpt_ray.space_yaml import load_space; "
)
PRELOAD += "p.preload(sys.argv[1], load_space(sys.argv[3]).stores()[0], sys.argv[2], local=True)"


def test_a_killed_preload_goes_on_and_ends_with_the_same_rows(store, images, tmp_path, monkeypatch):
    command = [sys.executable, "-c", PRELOAD, images, str(tmp_path), str(SMOKE)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    shards = tmp_path / "features"
    deadline = time.monotonic() + 120
    while len(list(shards.glob("*/train/part-*.parquet"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in shards.glob("*/*/part-*.parquet")}
    if not list(shards.glob("*/manifest.json")):
        with pytest.raises(StoreError, match="no finished feature store"):
            open_store(str(next(shards.iterdir())))
    monkeypatch.setattr("fpt_ray.preload.SHARD_BYTES", 100_000)
    resumed = preload(images, TRIAL, str(tmp_path))
    assert rows_of(resumed) == rows_of(store)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())
    assert len(resumed.shards) > 5


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is made by mounting a tmpfs, which only root may do")
def test_a_full_disk_is_said_and_finished_shards_are_kept(images, tmp_path, monkeypatch):
    trial = override(TRIAL, {"features.dtype": "float32"})
    workdir = tmp_path / "work"
    workdir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(workdir)], check=True)
    try:
        with pytest.raises(ConfigError, match=r"part-\d+\.parquet cannot be written .*No space left.*free space"):
            preload(images, trial, str(workdir))
        left = [file for _, _, files in os.walk(workdir / "features") for file in files]
        assert [file for file in left if not file.startswith("part-") or not file.endswith(".parquet")] == []
        subprocess.run(["mount", "-o", "remount,size=64m", str(workdir)], check=True)
        assert len(rows_of(preload(images, trial, str(workdir)))["train"]) == 36
    finally:
        subprocess.run(["umount", str(workdir)], check=True)


def test_a_leak_between_splits_is_reported(tmp_path, capsys):
    folder = tmp_path / "images"
    draw_images(folder, (4, 3, 3))
    (folder / "test" / "c1" / "copy.png").write_bytes((folder / "train" / "c1" / "0.png").read_bytes())
    preload(str(folder), TRIAL, str(tmp_path))
    said = capsys.readouterr().err
    assert "1 images stand in several splits" in said
    assert "c1/copy.png" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.resolution": 100}, r"features\.resolution is 100; .* take 96 or 112"),
        ({"side.depth": 13}, r"side\.depth is 13; .* has 12 blocks"),
        ({"backbone.weights": "none.safetensors"}, "there is no file none.safetensors"),
    ],
)
def test_preload_refuses_before_it_starts(change, message, images, tmp_path):
    with pytest.raises(ConfigError, match=message):
        preload(images, override(TRIAL, change), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


# --- train ----------------------------------------------------------------------------------------------------


def trained(store, workdir, num_workers):
    trial = override(TRIAL, {"side.depth": 2, "features.token_ratio": 0.2, "training.epochs": 3})
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run_training(
            TrainCommand(
                features=store.uri, workdir=workdir, name=f"n{num_workers}", num_workers=num_workers, trial=trial
            )
        )
    (checkpoint,) = Path(workdir, "runs", f"n{num_workers}").rglob("checkpoint.pt")
    return out.getvalue(), load_checkpoint(checkpoint.parent)


def test_two_workers_give_the_numbers_of_one(store, workdir):
    one, first = trained(store, workdir, 1)
    two, second = trained(store, workdir, 2)
    assert one == two
    assert "test  AUC" in one
    first, second = first["current"], second["current"]
    assert first["epoch"] == second["epoch"] == 3
    for name, tensor in first["model"].items():
        torch.testing.assert_close(second["model"][name], tensor, atol=1e-5, rtol=1e-4)


def test_a_batch_that_cannot_be_shared_is_refused(store, workdir):
    trial = override(TRIAL, {"training.batch_size": 9})
    with pytest.raises(ConfigError, match=r"training\.batch_size is 9; 2 workers cannot share it"):
        run_training(TrainCommand(features=store.uri, workdir=workdir, num_workers=2, trial=trial))


# --- tune -----------------------------------------------------------------------------------------------------


def test_a_search_ends_with_a_front_and_goes_on(store, workdir, capsys, monkeypatch):
    command = {"space": SMOKE, "features": (store.uri,), "workdir": workdir, "study": "s"}
    run_study(TuneCommand(**command, num_trials=3))
    shown = capsys.readouterr()
    assert "read once into shared memory" in shown.err
    assert "trial 3/3" in shown.err
    assert "test AUC" in shown.out
    with pytest.raises(ConfigError, match="continue it with --resume"):
        run_study(TuneCommand(**command))
    monkeypatch.setattr("fpt_ray.trainer.SHARED_MEMORY_SHARE", 0.0)
    monkeypatch.setattr("fpt_ray.tune.fits_in_memory", lambda size: False)
    run_study(TuneCommand(**command, num_trials=5, resume=True))
    assert "streamed from Parquet" in capsys.readouterr().err
    agree(workdir, "s", 5)


def agree(workdir, name, number):
    """MLflow and Optuna hold the same trials, each ended once, and only the front has test scores."""
    client = tracking.open_tracking(tracking.default_uri(workdir))
    run = tracking.find_study(client, name)
    records = tracking.read_trials(client, run)
    journal = optuna.storages.journal.JournalFileBackend(f"{workdir}/studies/{name}/optuna.log")
    study = optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(journal))
    ended = [trial for trial in study.get_trials() if trial.state == optuna.trial.TrialState.COMPLETE]
    records = [record for record in records if record.status != "KILLED"]  # their driver died; they were run again
    assert [record.number for record in records] == [trial.number for trial in ended]
    assert len(ended) == number
    for record, trial in zip(records, ended, strict=True):
        assert record.status == "FINISHED"
        assert [record.metrics["val_auc"], record.metrics["param_ratio"]] == trial.values
        assert {row: str(value) for row, value in trial.params.items()}.items() <= record.params.items()
    scored = {record.number for record in records if "test_auc" in record.metrics}
    assert {trial.number for trial in study.best_trials} <= scored
    files = {file.path for file in client.list_artifacts(run.run_id)}
    assert {"front.png", "front.html", "space.yaml", "manifests"} <= files
    assert json.loads(run.tags["objectives"]) == {"val_auc": "max", "param_ratio": "min"}


def test_a_trial_with_two_workers_of_its_own_gives_the_numbers_of_one(store, workdir):
    command = {"space": SMOKE, "features": (store.uri,), "workdir": workdir, "num_trials": 1}
    client = tracking.open_tracking(tracking.default_uri(workdir))
    scores = []
    for workers in (1, 2):
        run_study(TuneCommand(**command, study=f"of-{workers}", workers_per_trial=workers))
        (record,) = tracking.read_trials(client, tracking.find_study(client, f"of-{workers}"))
        scores.append((record.metrics["val_auc"], record.metrics["best_epoch"], record.metrics["test_auc"]))
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def finished_in(journal):
    return journal.exists() and journal.read_text().count('"state":1')


def test_a_killed_search_and_a_killed_worker_lose_and_repeat_nothing(store, tmp_path):
    """Driver killed in the middle, then a worker of the resumed search: every planned trial finishes once."""
    options = ["--space", str(SMOKE), "--features", store.uri, "--workdir", str(tmp_path), "--study", "k"]
    command = [sys.executable, "-m", "fpt_ray.tune", *options, "--num_trials", "5", "--local"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal, deadline = tmp_path / "studies" / "k" / "optuna.log", time.monotonic() + 120
    while not finished_in(journal):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = finished_in(journal)
    assert before < 5
    killed = []
    killer = threading.Thread(target=kill_a_worker, args=(killed,), daemon=True)
    killer.start()
    run_study(
        TuneCommand(space=SMOKE, features=(store.uri,), workdir=str(tmp_path), study="k", num_trials=5, resume=True)
    )
    assert killed
    agree(str(tmp_path), "k", 5)


def kill_a_worker(killed):
    """Kills the first worker of this process's cluster that trains a trial."""
    while not killed:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("ray::Implicit") or "ray::ImplicitFunc" in "".join(process.cmdline()):
                    time.sleep(1)
                    process.kill()
                    killed.append(process.pid)
                    return
        time.sleep(0.05)


def test_the_best_are_confirmed_once_with_new_seeds(store, workdir, capsys, monkeypatch):
    """The test AUC and its spread against those of the seeds' own runs; nothing else has seen the test split."""
    command = {"space": SMOKE, "features": (store.uri,), "workdir": workdir, "study": "c", "num_trials": 3}
    command |= {"set": ("training.epochs=1",), "confirm": 2, "repeats": 2}
    run_study(TuneCommand(**command))
    shown = capsys.readouterr()
    assert "Confirmed with 2 new seeds" in shown.out
    assert "no picture of importances: 3 trials" in shown.err
    client = tracking.open_tracking(tracking.default_uri(workdir))
    study = tracking.find_study(client, "c")
    records = tracking.read_trials(client, study)
    monkeypatch.setattr("fpt_ray.tune.report", lambda name, **places: None)  # shown above
    run_study(TuneCommand(**command, resume=True))
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
        scores = [run.data.metrics["test_auc"] for run in seeds]
        assert record.metrics["test_auc"] == pytest.approx(np.mean(scores))
        assert record.metrics["test_auc_std"] == pytest.approx(np.std(scores, ddof=1))
        assert record.metrics["test_auc_low"] <= record.metrics["test_auc"] <= record.metrics["test_auc_high"]
    assert sum("difference_low" in record.metrics for record in confirmed) == len(confirmed) - 1
    files = {file.path for file in client.list_artifacts(study.run_id)}
    assert {"history.html", "front.md"} <= files


METHODS = """
points:
  LoRA: {method: lora}
  FPT+: {}
  Broken: {method: lora, backbone.weights: none.pth}
space: {training.learning_rate: {choices: [1.0e-3, 1.0e-2]}}
choose: [training.learning_rate]
sampler: grid
repeats: 2
fixed: {side.depth: 2, side.resolution: 64, features.token_ratio: 0.3, FIXED}
"""


def test_a_grid_of_methods_is_repeated_over_seeds(images, workdir, tmp_path, capsys):
    fixed = ", ".join(line.strip() for line in SMOKE.read_text().partition("fixed:\n")[2].splitlines()[:6])
    space = tmp_path / "methods.yaml"
    space.write_text(METHODS.replace("FIXED", fixed))
    run_study(TuneCommand(space=space, images=images, workdir=workdir, set=("training.epochs=1",)))
    said = capsys.readouterr().err
    assert "rows: 2 of 9 trials" in said
    assert "there is no file" in said
    client = tracking.open_tracking(tracking.default_uri(workdir))
    study = tracking.find_study(client, "methods")
    final = [record for record in tracking.read_trials(client, study) if record.tags["stage"] == "final"]
    assert [record.status for record in sorted(final, key=lambda one: one.tags["label"])] == [
        "FAILED",
        "FINISHED",
        "FINISHED",
    ]
    for record in final:
        if record.status == "FINISHED":
            seeds = [client.get_run(run_id) for run_id in tracking.seed_runs(client, study, record)]
            assert [run.data.params["training.seed"] for run in seeds] == ["0", "1"]
            for name in ("val_auc", "test_auc"):
                values = [run.data.metrics[name] for run in seeds]
                assert record.metrics[name] == pytest.approx(np.mean(values))
                assert record.metrics[f"{name}_std"] == pytest.approx(np.std(values, ddof=1))


def test_a_trial_that_diverges_has_a_reason_and_the_search_goes_on(store, workdir, tmp_path, capsys):
    space = tmp_path / "diverges.yaml"
    rows = "space: {training.learning_rate: {choices: [1e-3, 1e+30]}}"
    fixed = SMOKE.read_text().partition("fixed:")[2].partition("objectives")[0]
    space.write_text(f"{rows}\nfixed:{fixed}  side.depth: 2\n  side.resolution: 64\nnum_trials: 2")
    run_study(TuneCommand(space=space, features=(store.uri,), workdir=workdir))
    assert "the loss is nan" in capsys.readouterr().err
    client = tracking.open_tracking(tracking.default_uri(workdir))
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
            r"no feature store serves this trial: side\.depth asks for 6.*at most 2",
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
        run_study(TuneCommand(space=space, features=(store.uri,), workdir=str(tmp_path)))
    assert not (tmp_path / "mlflow.db").exists()


def test_a_machine_that_is_too_small_is_said():
    with pytest.raises(ConfigError, match="a trial needs 64 CPUs and 0 GPUs at once; this cluster has 2 CPUs"):
        require_resources("a trial", cpus=64, gpus=0)


def test_user_errors_are_one_line(tmp_path):
    command = [sys.executable, "-m", "fpt_ray.preload", "--images", str(tmp_path / "none"), "--local"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(tmp_path / "none") in done.stderr


def test_defaults_of_a_trial_are_the_papers_on_the_command_line():
    assert TrainCommand().trial == trial_from({})
