"""What a driver that dies between Optuna's storage and MLflow leaves behind, and how a resumed study closes it."""

import optuna
import pytest
from optuna.trial import TrialState

from fpt_ray import tracking
from fpt_ray.patient_client import PatientClient
from fpt_ray.searcher import FINISHED, StudySearcher
from fpt_ray.space_yaml import parse_space
from fpt_ray.study import StudyLog, start_or_find
from fpt_ray.study_storage import open_study
from fpt_ray.tracking_uri import default_uri, open_tracking

SPACE = parse_space("space: {side.num_prompts: {low: 1, high: 64}}\nobjectives: {val_auc: max}")


@pytest.fixture
def dead(tmp_path):
    """A study whose driver told Optuna how trials 0 and 1 ended, and MLflow nothing; trial 2 was running."""
    open_tracking(default_uri(tmp_path))
    client = PatientClient(default_uri(tmp_path), tmp_path / "waiting.jsonl")
    study = open_study(SPACE, "s", str(tmp_path / "optuna.log"), resume=False)
    run = start_or_find(client, "s", SPACE, (), study, resume=False)
    search = StudySearcher(SPACE, study)
    for name in "abc":
        search.suggest(name)
        trial = tracking.start_trial(client, run, study.trials[-1].number, {}, {"proposal": "{}"})
        tracking.start_seed(client, run, trial, 0, 0)
    search.on_trial_complete("a", {"val_auc": 0.8, "param_ratio": 0.01, FINISHED: True})
    search.on_trial_complete("b", {"val_auc": 0.7, FINISHED: False})
    return client, run, str(tmp_path / "optuna.log")


def test_what_optuna_was_told_stands_in_mlflow_after_resuming(dead):
    client, run, journal = dead
    study = open_study(SPACE, "s", journal, resume=True)
    start_or_find(client, "s", SPACE, (), study, resume=True)
    complete, stopped, running = tracking.read_trials(client, run)
    assert (complete.status, complete.metrics) == ("FINISHED", {"val_auc": 0.8, "param_ratio": 0.01})
    assert (stopped.status, stopped.reason) == ("FAILED", "stopped before its last epoch")
    assert stopped.metrics == {"val_auc": 0.7}
    assert (running.status, running.reason) == ("KILLED", "its driver died; the trial was run again")
    for record in (complete, stopped, running):
        (seed,) = tracking.seed_runs(client, run, record)
        assert client.get_run(seed).info.status == record.status
    assert [trial.state for trial in study.trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.WAITING,
    ]


def test_a_trial_that_another_driver_runs_is_let_be(dead, tmp_path):
    """As with a database that several drivers share: nothing has told its end."""
    client, run, journal = dead
    backend = optuna.storages.journal.JournalFileBackend(journal)
    study = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))
    start_or_find(client, "s", SPACE, (), study, resume=True)
    StudyLog(client, run, SPACE, 3, str(tmp_path)).end("FINISHED")
    assert tracking.read_trials(client, run)[2].status == "RUNNING"
