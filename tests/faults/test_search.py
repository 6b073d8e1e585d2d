"""The fault table, searches: killed drivers and workers, two drivers, a clock set back, features beyond Ray's memory.

MLflow's runs are compared with Optuna's storage, features stored through a small object store with a large one's.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch

from fpt_ray.config.space_yaml import load_space
from fpt_ray.errors import ConfigError
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.store import open_store
from fpt_ray.preload.pipeline import preload
from fpt_ray.report.command import report
from fpt_ray.search.messages import NEVER_RAN
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.names import metric_key
from fpt_ray.tracking.server import default_uri, open_tracking
from fpt_ray.train.seeds import assignment_of
from fpt_ray.tune.log import StudyLog
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.study import run_study
from tests.conftest import SMOKE
from tests.searches import agree, driver, finished_in, of_store, study_of, tune_command, wait_for_trials
from tests.seeds import fit_one
from tests.stores import draw_images, rows_from_files

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster"), pytest.mark.timeout(600)]


def kill_workers(times, killed, ended):
    """Kills so many workers, one after the other, that are training a trial of this process's cluster."""
    while len(killed) < times and not ended.is_set():
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.pid not in killed and "ray::ImplicitFunc.train" in "".join(process.cmdline()):
                    process.kill()
                    killed.append(process.pid)
                    break
        time.sleep(0.01)


@contextlib.contextmanager
def killing_workers(times):
    killed, ended = [], threading.Event()
    killer = threading.Thread(target=kill_workers, args=(times, killed, ended), daemon=True)
    killer.start()
    try:
        yield
    finally:  # else it would kill workers of the tests that follow
        ended.set()
        killer.join()
    assert len(killed) == times


# --- killed ---------------------------------------------------------------------------------------------------


def test_sigkill_of_tunes_driver_and_of_a_trials_worker(store, tmp_path):
    """Driver killed in the middle, then a worker of the resumed search: every planned trial finishes once. While the
    first driver lives, a second one of its study is refused and changes nothing."""
    journal = tmp_path / "studies" / "k" / "optuna.log"
    resumed = StudyOptions(**of_store(store, workdir=str(tmp_path), study="k", num_trials=5, resume=True))
    with driver(tune_command(store, tmp_path, "k", 5), tmp_path / "said") as process:
        wait_for_trials(process, journal, 1)
        with pytest.raises(ConfigError, match=rf"another driver searches this study just now \(process {process.pid} "):
            run_study(resumed)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert finished_in(journal) < 5
    with killing_workers(1):
        run_study(resumed)
    agree(str(tmp_path), "k", 5)


def test_a_trial_out_of_memory_is_infeasible_and_the_search_goes_on(store, tmp_path, capsys):
    """The system kills the first trial's worker each time it is begun, as the kernel does where memory has run out."""
    command = StudyOptions(**of_store(store, workdir=str(tmp_path), study="o", num_trials=4, at_once=1))
    with killing_workers(3):
        run_study(command)
    why = "its worker died 3 times while its host lived on: most likely the system killed it"
    first, *others = study_of(tmp_path / "studies" / "o" / "optuna.log", "o").get_trials()
    assert first.state.name == "PRUNED"
    assert first.user_attrs["reason"].startswith(why)
    assert max(first.constraints.values()) > 0
    assert [trial.state.name for trial in others] == ["COMPLETE"] * 3
    assert first.params not in [trial.params for trial in others]
    shown = capsys.readouterr()
    assert f"trial 1/4: {why}" in shown.err
    client = open_tracking(default_uri(tmp_path))
    records = tracking.read_trials(client, tracking.find_study(client, "o"))
    why = first.user_attrs["reason"]
    assert [(record.status, record.reason) for record in records] == [("FAILED", why)] + [("FINISHED", "")] * 3
    report("o", tracking_uri=default_uri(tmp_path), workdir=str(tmp_path))
    assert f"trial 0 failed: {why}" in capsys.readouterr().out


def test_a_worker_that_dies_between_two_trials_is_no_trials_fault(store, tmp_path, monkeypatch, capsys):
    """Tune gives a trial up to which it has given a dead worker: its point is asked again and completes."""
    ended, killed = StudyLog.on_trial_complete, []

    def end_and_kill(self, iteration, trials, trial, **info):
        ended(self, iteration, trials, trial, **info)
        if not killed:
            killed.append(trial.last_result["pid"])
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(StudyLog, "on_trial_complete", end_and_kill)
    run_study(StudyOptions(**of_store(store, workdir=str(tmp_path), study="d", num_trials=3, at_once=1)))
    assert NEVER_RAN in capsys.readouterr().err
    trials = study_of(tmp_path / "studies" / "d" / "optuna.log", "d").get_trials()
    completed = [trial.params for trial in trials if trial.state.name == "COMPLETE"]
    (lost,) = (trial for trial in trials if trial.user_attrs.get("reason") == NEVER_RAN)
    assert lost.state.name == "FAIL"
    assert lost.params in completed
    assert len(completed) == 3
    assert "PRUNED" not in [trial.state.name for trial in trials]
    client = open_tracking(default_uri(tmp_path))
    records = tracking.read_trials(client, tracking.find_study(client, "d"))
    assert [(record.status, record.reason) for record in records if record.number == lost.number] == [
        ("KILLED", NEVER_RAN)
    ]


def kill_trains_worker(run, killed):
    """Kills one of a trial's own workers, once the first epoch's checkpoint is there."""
    while not list(run.glob("checkpoint_*")):
        time.sleep(0.05)
    time.sleep(0.5)
    kill_worker("RayTrainWorker", killed)


def kill_worker(name, killed):
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if name in "".join(process.cmdline()):
                process.kill()
                killed.append(process.pid)
                return


def test_a_trial_goes_on_when_one_of_its_own_workers_is_killed(store, tmp_path):
    """From its last checkpoint, of which Ray Train keeps one, the one that is scored, to the numbers of a study of
    one worker that nothing disturbed."""
    command = of_store(store, workdir=str(tmp_path), num_trials=1)
    command |= {"set": ("training.epochs=12",)}
    runs, killed = tmp_path / "studies" / "killed" / "runs" / "trial-0000", []
    killer = threading.Thread(target=kill_trains_worker, args=(runs, killed), daemon=True)
    killer.start()
    for name, workers in (("killed", 2), ("whole", 1)):
        run_study(StudyOptions(**command, study=name, workers_per_trial=workers))
    assert len(killed) == 1
    client = open_tracking(default_uri(tmp_path))
    disturbed, whole = (
        tracking.read_trials(client, tracking.find_study(client, name))[0] for name in ("killed", "whole")
    )
    assert (disturbed.status, disturbed.reason) == ("FINISHED", "")
    for name in ("val_auc", "best_epoch", "test_auc"):
        assert disturbed.metrics[name] == pytest.approx(whole.metrics[name], abs=1e-6)
    *cut_short, kept = sorted(runs.glob("checkpoint_2*"))
    assert len(cut_short) <= 3  # by the kill, before Ray Train knew of them: of 12 epochs, those of half a second
    assert disturbed.checkpoint.endswith(f"trial-0000/{kept.name}")
    (told,) = (tmp_path / "studies" / "killed").glob("tune-*/*/result.json")
    epochs = [json.loads(json.loads(line)["messages"])[0]["epochs"] for line in told.read_text().splitlines()]
    assert sorted(set(epochs)) == list(range(1, 13))
    assert epochs == sorted(epochs)  # begun again from its first epoch, it would tell that one twice


PROBES = """
space: {training.learning_rate: {choices: [3.0e-4, 1.0e-3, 3.0e-3, 1.0e-2]}}
sampler: grid
fixed: {method: probe, side.depth: 2, side.resolution: 64, features.token_ratio: 0.3, training.epochs: 80, FIXED}
"""


def test_trials_that_train_as_one_model_go_on_when_their_worker_is_killed(store, tmp_path):
    """Each from its last checkpoint, to the numbers of a study that nothing disturbed."""
    fixed = [line.strip() for line in SMOKE.read_text().partition("fixed:\n")[2].splitlines()[:6]]
    space = tmp_path / "probes.yaml"
    space.write_text(PROBES.replace("FIXED", ", ".join(one for one in fixed if "epochs" not in one)))
    command = of_store(store, workdir=str(tmp_path), at_once=1) | {"space": str(space)}
    killed, runs = [], tmp_path / "studies" / "killed"

    def kill():
        """As soon as the driver knows of two epochs and their checkpoints: the trial takes but seconds."""
        while not any(told.read_text().count("\n") > 1 for told in runs.glob("tune-*/*/result.json")):
            time.sleep(0.02)
        kill_worker("ray::ImplicitFunc", killed)  # between two epochs it is not called by its method

    threading.Thread(target=kill, daemon=True).start()
    for name in ("killed", "whole"):
        run_study(StudyOptions(**command, study=name))
    assert len(killed) == 1
    client = open_tracking(default_uri(tmp_path))
    disturbed, whole = (tracking.read_trials(client, tracking.find_study(client, name)) for name in ("killed", "whole"))
    assert [(one.status, one.reason) for one in disturbed] == [("FINISHED", "")] * 4
    for own, other in zip(disturbed, whole, strict=True):
        for name in ("val_auc", "best_epoch", "test_auc"):
            assert own.metrics[name] == pytest.approx(other.metrics[name], abs=1e-6)
        steps = [point.step for point in client.get_metric_history(own.run_id, metric_key("val_auc_epoch"))]
        assert steps == list(range(1, 81))
    (told,) = runs.glob("tune-*/*/result.json")
    reports = [json.loads(json.loads(line)["messages"]) for line in told.read_text().splitlines()]
    assert {len(each) for each in reports} == {4}
    epochs = [each[3]["epochs"] for each in reports]
    assert epochs == sorted(epochs)  # begun again from its first epoch, it would tell that one twice
    assert set(epochs) == set(range(1, 81))


# --- the clock ------------------------------------------------------------------------------------------------

CLOCK = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    long failed = syscall(SYS_clock_gettime, id, at);
    const char *file = getenv("TESTS_CLOCK_BACK");
    int real = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE;
    if (!failed && real && file && !syscall(SYS_access, file, F_OK)) at->tv_sec -= 3600;
    return failed;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""
"""The C library's clocks for every process of a driver, its workers and Ray's: an hour back once a file is there."""


@pytest.mark.skipif(shutil.which("cc") is None, reason="the clock is set back by a library that a C compiler makes")
def test_the_clock_goes_backwards_in_the_middle_of_a_search(store, tmp_path, monkeypatch):
    """An hour back for all processes after the first trial, and for a second driver from its start: as if nothing had
    been. (The kernel's own waits keep the old time, so that Ray as a whole cannot be started with the library.)"""
    (tmp_path / "clock.c").write_text(CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "clock.so", tmp_path / "clock.c"], check=True)
    back, said = tmp_path / "back", tmp_path / "said"
    # Waits that are given an end by the clock end at once and are asked again, in Ray's processes and the driver's: at
    # Ray's niceness of 15, workers would starve beside them.
    clock = {"LD_PRELOAD": str(tmp_path / "clock.so"), "TESTS_CLOCK_BACK": str(back), "RAY_worker_niceness": "0"}
    with driver(tune_command(store, tmp_path, "t", 3), said, **clock) as process:
        wait_for_trials(process, tmp_path / "studies" / "t" / "optuna.log", 1)
        back.touch()
        assert process.wait() == 0, said.read_text()
    agree(str(tmp_path), "t", 3)
    client = open_tracking(default_uri(tmp_path))
    records = tracking.read_trials(client, tracking.find_study(client, "t"))
    started = [client.get_run(record.run_id).info.start_time for record in records]
    assert max(started) - min(started) > 3_000_000  # the clock did go back
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() - 7200)
    run_study(StudyOptions(**of_store(store, workdir=str(tmp_path), study="t", num_trials=4, resume=True)))
    agree(str(tmp_path), "t", 4, ended_at=(3,))
    study = tracking.find_study(client, "t")
    assert study.ledger["trials"] == 4  # the last number said, though the first has the later time
    for record in tracking.read_trials(client, study):
        for name in ("startup_seconds", "train_seconds", "fit_seconds", "data_seconds"):
            assert 0 <= record.metrics[name] < 600


# --- Ray's memory ---------------------------------------------------------------------------------------------

LARGE = {
    "features.resolution": 224,
    "features.token_ratio": 1.0,
    "features.dtype": "float32",
    "side.depth": 12,
    "side.resolution": 32,
    "training.epochs": 1,
}
OBJECT_STORE_BYTES = 80 * 2**20


def test_rays_object_store_full(cluster, tmp_path):
    """Features larger than Ray's memory: preload spills and stores what it stores where memory is ample; the search
    reads them from the host's disk, and the user reads so."""
    space, said = tmp_path / "large.yaml", tmp_path / "said"
    fixed = SMOKE.read_text().partition("fixed:\n")[2].partition("objectives")[0]
    lines = [line for line in fixed.splitlines() if line.partition(":")[0].strip() not in LARGE]
    lines += [f"  {name}: {value}" for name, value in LARGE.items()]
    space.write_text("space: {side.num_prompts: {choices: [2, 4]}}\nnum_trials: 1\nfixed:\n" + "\n".join(lines))
    images = draw_images(tmp_path / "images", (8, 4, 1))
    ample = preload(images, load_space(space).stores()[0], str(tmp_path / "ample"))
    assert sum(shard.bytes for shard in ample.shards) > OBJECT_STORE_BYTES
    command = [sys.executable, "-m", "fpt_ray.tune", "--space", str(space), "--images", images, "--local"]
    command += ["--workdir", str(tmp_path), "--study", "l"]
    with driver(command, said, RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES=str(OBJECT_STORE_BYTES)) as process:
        assert process.wait() == 0, said.read_text()
    assert "features: 0.13 GB, written once to every host's disk" in said.read_text()
    (folder,) = (tmp_path / "features").iterdir()
    small = open_store(str(folder))
    assert [shard.sha256 for shard in small.shards] == [shard.sha256 for shard in ample.shards]
    client = open_tracking(default_uri(tmp_path))
    (record,) = tracking.read_trials(client, tracking.find_study(client, "l"))
    assert record.status == "FINISHED"
    trial, assignment = load_space(space).trial(record.values), assignment_of(ample, torch.device("cpu"))
    cut = trial_slice(trial, ample.spec)
    rows = {split: rows_from_files(ample, split, cut) for split in ("train", "val")}
    *_, last = fit_one(trial, 1, rows, assignment, identity="", started=0.0)
    assert record.metrics["val_auc"] == pytest.approx(last.epochs[0].best_val_score, abs=1e-6)
