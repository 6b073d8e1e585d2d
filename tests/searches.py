"""Searches as several files look at them: what MLflow holds against what Optuna's storage holds."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import optuna

from fpt_ray.config.dotted import flatten
from fpt_ray.config.trial import TrialConfig
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.server import default_uri, open_tracking
from tests.conftest import SMOKE, table_of


def study_of(journal, name):
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def agree(workdir, name, number, *, ended_at=(), uri=None, journal=None):
    """MLflow and Optuna hold the same trials, each ended once, and only the front has test scores; with it the fronts
    at which earlier drivers ended, after so many trials."""
    client = open_tracking(uri or default_uri(workdir))
    run = tracking.find_study(client, name)
    records = tracking.read_trials(client, run)
    study = study_of(journal or f"{workdir}/studies/{name}/optuna.log", name)
    ended = [trial for trial in study.get_trials() if trial.state == optuna.trial.TrialState.COMPLETE]
    records = [record for record in records if record.status != "KILLED"]  # their driver died; they were run again
    assert [record.number for record in records] == [trial.number for trial in ended]
    assert len(ended) == number
    for record, trial in zip(records, ended, strict=True):
        assert record.status == "FINISHED"
        assert [record.metrics["val_auc"], record.metrics["param_ratio"]] == trial.values
        assert {row: str(value) for row, value in trial.params.items()}.items() <= record.params.items()
    scored = {record.number for record in records if "test_auc" in record.metrics}
    fronts = [front_numbers(ended[:count]) for count in (*ended_at, number)]
    assert scored == set().union(*fronts)
    assert fronts[-1] == {trial.number for trial in study.best_trials}
    files = {file.path for file in client.list_artifacts(run.run_id)}
    assert {"front.png", "front.html", "space.yaml", "features"} <= files
    assert json.loads(run.tags["objectives"]) == {"val_auc": "max", "param_ratio": "min"}
    assert client.get_run(run.run_id).info.status == "FINISHED"


def front_numbers(trials):
    """The numbers of the trials that no other has more AUC with no more parameters than, nor as much with fewer."""
    return {
        one.number
        for one in trials
        if not any(
            other.values != one.values and other.values[0] >= one.values[0] and other.values[1] <= one.values[1]
            for other in trials
        )
    }


def finished_in(journal):
    """How many trials have ended with a result, as the journal tells."""
    return journal.read_text().count('"state":1') if journal.exists() else 0


def trial_options(trial):
    """A trial as words of a command line."""
    told = flatten(trial), flatten(TrialConfig())
    return [word for key, value in told[0].items() if value != told[1][key] for word in (f"--{key}", str(value))]


def of_store(store, **more):
    """Options of a search of the space ``smoke`` on features that are there."""
    return {"space": str(SMOKE), "images": table_of(store), "features": (store.uri,), **more}


def feature_options(store):
    """The same features as words of a command line."""
    return ["--images", table_of(store), "--features", store.uri]


def tune_command(store, workdir, name, num_trials, *more):
    """A search of the space ``smoke`` as a command line of its own."""
    options = ["--space", str(SMOKE), *feature_options(store), "--workdir", str(workdir), "--study", name]
    return [sys.executable, "-m", "fpt_ray.tune", *options, "--num_trials", str(num_trials), "--local", *more]


@contextlib.contextmanager
def driver(command, said, **environment):
    """A driver of its own, in a group of its own; what it says goes to a file."""
    with open(said, "w") as file:
        process = subprocess.Popen(
            command, start_new_session=True, stdout=file, stderr=file, env={**os.environ, **environment}
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_trials(process, journal, number):
    deadline = time.monotonic() + 200
    while finished_in(journal) < number:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
