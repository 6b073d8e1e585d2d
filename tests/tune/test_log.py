"""What a driver that dies between Optuna's storage and MLflow leaves behind, and how a resumed study closes it."""

from contextlib import closing
from dataclasses import replace
from math import nan
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from fpt_ray.config.space_yaml import parse_space
from fpt_ray.errors import ConfigError
from fpt_ray.search.attributes import remember_infeasible, remember_reason
from fpt_ray.search.messages import DIED, STOPPED, Proposal, TrialFailure, pack_messages, pack_proposals, unpack_message
from fpt_ray.search.optuna_study import open_study
from fpt_ray.search.searcher import StudySearcher
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.names import metric_key
from fpt_ray.tracking.patient_client import PatientClient
from fpt_ray.tracking.server import default_uri, open_tracking
from fpt_ray.tune.ends_told import EndsTold
from fpt_ray.tune.log import PREDICTIONS, StudyLog
from fpt_ray.tune.scoring import TrialScores, shown_trials
from fpt_ray.tune.study_run import close_as_stored, start_or_find
from tests.messages import of_seeds, report

SPACE = parse_space("space: {side.num_prompts: {low: 1, high: 64}}\nobjectives: {val_auc: max}")


@pytest.fixture
def client(tmp_path):
    open_tracking(default_uri(tmp_path))
    with closing(PatientClient(default_uri(tmp_path), tmp_path / "waiting.jsonl")) as client:
        yield client


@pytest.fixture
def dead(client, tmp_path):
    """A study whose driver told Optuna how trials 0 and 1 ended, and MLflow nothing; trial 2 was running."""
    study = open_study(SPACE, "s", str(tmp_path / "optuna.log"), resume=False)
    run, _ = start_or_find(client, "s", SPACE, (), study, resume=False)
    search = StudySearcher(SPACE, study)
    for name in "abc":
        search.suggest(name)
        trial = tracking.start_trial(client, run, study.trials[-1].number, {}, {"proposal": "{}"})
        tracking.start_seed(client, run, trial, 0, 0)
    search.on_trial_complete("a", report(val_auc=0.8, param_ratio=0.01, epochs=3))
    search.on_trial_complete("b", report(val_auc=0.7, finished=False, epochs=2))
    return client, run, str(tmp_path / "optuna.log")


def test_what_optuna_was_told_stands_in_mlflow_after_resuming(dead):
    client, run, journal = dead
    study = open_study(SPACE, "s", journal, resume=True)
    start_or_find(client, "s", SPACE, (), study, resume=True)
    complete, stopped, running = tracking.read_trials(client, run)
    assert (complete.status, complete.metrics) == ("FINISHED", {"val_auc": 0.8, "param_ratio": 0.01, "epochs": 3})
    assert (stopped.status, stopped.pruned, stopped.reason) == ("FINISHED", "stopped early", STOPPED)
    assert [record.complete for record in (complete, stopped, running)] == [True, False, False]
    assert stopped.metrics == {"val_auc": 0.7, "epochs": 2}
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


def test_another_users_study_of_that_name_is_neither_adopted_nor_touched(dead, tmp_path):
    """It has its own storage and folder and the same MLflow: begun beside the first, resumed as itself."""
    client, first, _ = dead
    (tmp_path / "other").mkdir()
    journal = str(tmp_path / "other" / "optuna.log")
    study = open_study(SPACE, "s", journal, resume=False)
    run, ended = start_or_find(client, "s", SPACE, (), study, resume=False)
    assert (run.run_id != first.run_id, ended) == (True, 0)
    again = open_study(SPACE, "s", journal, resume=True)
    assert start_or_find(client, "s", SPACE, (), again, resume=True)[0].run_id == run.run_id
    assert [record.status for record in tracking.read_trials(client, first)] == ["RUNNING"] * 3


def test_a_trial_that_another_driver_runs_is_let_be(dead, tmp_path):
    """As with a database that several drivers share: nothing has told its end."""
    client, run, journal = dead
    backend = optuna.storages.journal.JournalFileBackend(journal)
    study = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))
    start_or_find(client, "s", SPACE, (), study, resume=True)
    StudyLog(client, run, SPACE, 3, study_uri=str(tmp_path)).end("FINISHED")
    assert tracking.read_trials(client, run)[2].status == "RUNNING"


def test_sigkill_of_tunes_driver_before_it_has_told_mlflow_of_its_study(client, tmp_path):
    """Optuna has the study, MLflow has not: it is begun there when it is resumed. With trials it would be elsewhere."""
    journal = str(tmp_path / "optuna.log")
    open_study(SPACE, "s", journal, resume=False)
    study = open_study(SPACE, "s", journal, resume=True)
    assert [trial.state for trial in study.trials] == [TrialState.WAITING]
    assert start_or_find(client, "s", SPACE, (), study, resume=True)[0].name == "s"
    open_study(SPACE, "t", str(tmp_path / "t"), resume=False).ask()
    other = open_study(SPACE, "t", str(tmp_path / "t"), resume=True)
    with pytest.raises(ConfigError, match="study 't' was told to another MLflow server"):
        start_or_find(client, "t", SPACE, (), other, resume=True)


def test_the_clock_goes_backwards_between_two_ends_of_a_study(dead, monkeypatch):
    """MLflow shows the value of the latest time; what the later driver says counts all the same."""
    client, run, _ = dead
    tracking.end_study(client, run, "FAILED", 3)
    monkeypatch.setattr("time.time", lambda: 1e9)
    tracking.end_study(client, run, "FINISHED", 5)
    assert tracking.find_study(client, "s").ledger == {"trials": 5}


def test_an_epoch_that_is_told_twice_stands_once(dead, tmp_path):
    """As when a worker dies after its epoch was told and before the epoch's checkpoint was known."""
    client, run, _ = dead
    running = tracking.read_trials(client, run)[2].run_id
    log = StudyLog(client, run, SPACE, 3, study_uri=str(tmp_path))
    log.runs[2] = running
    trial = SimpleNamespace(trial_id="c", config=pack_proposals(Proposal(number=2, values={})))
    for epoch in (1, 2, 2, 3):
        log.on_trial_result(0, [], trial, report(epochs=epoch, val_auc_epoch=epoch / 10, finished=False))
    points = client.get_metric_history(running, metric_key("val_auc_epoch"))
    assert [(point.step, point.value) for point in points] == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_what_a_worker_takes_of_its_host_stands_among_mlflows_system_metrics(dead, tmp_path):
    client, run, _ = dead
    running = tracking.read_trials(client, run)[2].run_id
    log = StudyLog(client, run, SPACE, 3, study_uri=str(tmp_path))
    log.runs[2] = running
    trial = SimpleNamespace(trial_id="c", config=pack_proposals(Proposal(number=2, values={})))
    log.on_trial_result(0, [], trial, report(epochs=2, finished=False, load={"process_cpu_percentage": 95.0}))
    (point,) = client.get_metric_history(running, "system/process_cpu_percentage")
    assert (point.step, point.value) == (2, 95.0)


def test_a_trial_is_told_first_by_what_the_study_weighs(dead, tmp_path):
    """MLflow's comparison of trials opens with the number that they were told first."""
    client, run, _ = dead
    log = StudyLog(client, run, SPACE, 3, study_uri=str(tmp_path))
    trial = SimpleNamespace(trial_id="d", config=pack_proposals(Proposal(number=3, values={})))
    log.on_trial_start(0, [], trial)
    log.on_trial_result(0, [], trial, report(param_ratio=0.1, ppe=0.7, fit_seconds=9, val_auc=0.8, finished=False))
    told = list(client.get_run(log.runs[3]).data.metrics)
    assert told[:4] == ["aim/val_auc", "aim/ppe", "cost/param_ratio", "time/startup_seconds"]


def test_the_clock_goes_backwards_between_a_trials_first_epoch_and_its_end(dead, tmp_path, monkeypatch):
    client, run, _ = dead
    log = StudyLog(client, run, SPACE, 3, study_uri=str(tmp_path))
    last = report(epochs=2, val_auc=0.9, train_loss=0.1)
    trial = SimpleNamespace(trial_id="d", config=pack_proposals(Proposal(number=3, values={})), last_result=last)
    log.on_trial_start(0, [], trial)
    log.on_trial_result(0, [], trial, report(epochs=1, val_auc=0.5, finished=False))
    monkeypatch.setattr("time.time", lambda: 1e9)
    log.on_trial_result(0, [], trial, last)
    log.on_trial_complete(0, [], trial)
    (ended,) = (one for one in tracking.read_trials(client, run) if one.number == 3)
    assert ended.metrics["val_auc"] == 0.9


def test_an_end_that_mlflow_does_not_take_ends_the_search(dead, tmp_path, monkeypatch):
    client, run, _ = dead
    log = StudyLog(client, run, SPACE, 3, study_uri=str(tmp_path))
    trial = SimpleNamespace(trial_id="d", config=pack_proposals(Proposal(number=3, values={})), last_result=report())
    log.on_trial_start(0, [], trial)

    def gone(*_, **__):
        raise OSError("gone")

    monkeypatch.setattr(tracking, "end_trial", gone)
    with pytest.raises(OSError, match="gone"):
        log.on_trial_complete(0, [], trial)
    with pytest.raises(OSError, match="gone"):
        EndsTold(log).on_step_begin(0, [])


def test_a_trial_that_begins_while_a_resumed_study_is_read_is_let_be(dead, monkeypatch):
    client, run, journal = dead
    study, read = open_study(SPACE, "s", journal, resume=True), tracking.read_trials

    def and_one_begins(*given):
        found = read(*given)
        number = study.ask().number
        return [*found, replace(found[0], number=number, status="RUNNING")]

    monkeypatch.setattr(tracking, "read_trials", and_one_begins)
    assert close_as_stored(client, run, study) >= 2


def test_a_studys_run_bears_what_its_best_trial_weighs(dead, tmp_path):
    client, run, journal = dead
    start_or_find(client, "s", SPACE, (), open_study(SPACE, "s", journal, resume=True), resume=True)
    log = StudyLog(client, run, SPACE, 3, study_uri=str(tmp_path))
    log.end("FINISHED", {"fit_seconds": 3.0}, tracking.read_trials(client, run))
    found = client.get_run(run.run_id).data.metrics
    weighed = {"aim/val_auc": 0.8, "cost/param_ratio": 0.01}
    assert found == {**weighed, "ledger/trials": 0, "ledger/fit_seconds": 3.0}


def test_a_trial_whose_predictions_could_not_be_stored_is_scored_again(dead, tmp_path, monkeypatch):
    client, run, _ = dead
    log = StudyLog(client, run, SPACE, 9, study_uri=str(tmp_path / "studies/s"))
    (record, *_) = tracking.read_trials(client, run)
    found = TrialScores(
        run_id=record.run_id, metrics={"test_auc": 0.7}, seed_scores=(0.7,), details="{}", predictions="{}"
    )

    def full(_, __, ___, path):
        if path == PREDICTIONS:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "attach_text", full)
        with pytest.raises(OSError, match="No space"):
            log.scored([found], [record])
    assert "test_auc" not in tracking.read_trials(client, run)[0].metrics
    log.scored([found], [record])
    assert tracking.read_trials(client, run)[0].metrics["test_auc"] == 0.7


def test_seeds_that_train_together_have_a_curve_each(dead, tmp_path):
    client, run, _ = dead
    log = StudyLog(client, run, SPACE, 9, study_uri=str(tmp_path))
    trial = SimpleNamespace(trial_id="t", config=pack_proposals(Proposal(number=3, values={}, seeds=2, first_seed=4)))
    log.on_trial_start(0, [], trial)
    for epoch in (1, 2):
        log.on_trial_result(0, [], trial, of_seeds(epoch, (epoch / 10, epoch / 20)))
    seeds = tracking.seed_runs(client, run, tracking.read_trials(client, run)[3])
    assert [client.get_run(seed).data.params for seed in seeds] == [{"training.seed": "4"}, {"training.seed": "5"}]
    for name in ("val_auc_epoch", "val_auc"):
        curves = [
            [(one.step, one.value) for one in client.get_metric_history(seed, metric_key(name))] for seed in seeds
        ]
        assert curves == [[(1, 0.1), (2, 0.2)], [(1, 0.05), (2, 0.1)]]


def test_trials_that_train_as_one_model_are_runs_of_their_own(dead, tmp_path, capsys):
    client, run, _ = dead
    log = StudyLog(client, run, SPACE, 9, study_uri=str(tmp_path))
    config = pack_proposals(*(Proposal(number=number, values={"side.num_prompts": number}) for number in (3, 4)))
    trial = SimpleNamespace(trial_id="t", config=config)
    log.on_trial_start(0, [], trial)
    log.began["t"] -= 100  # which they share
    first, second = (unpack_message(report(val_auc=value, finished=False)) for value in (0.6, 0.7))
    log.on_trial_result(0, [], trial, pack_messages(first, second))
    log.on_checkpoint(0, [], trial, SimpleNamespace(path=str(tmp_path / "checkpoint_0")))
    trial.last_result = pack_messages(TrialFailure(reason="lost"), unpack_message(report(val_auc=0.8)))
    log.on_trial_complete(0, [], trial)
    lost, whole = tracking.read_trials(client, run)[3:5]
    assert [(one.number, one.status, one.params["side.num_prompts"]) for one in (lost, whole)] == [
        (3, "FAILED", "3"),
        (4, "FINISHED", "4"),
    ]
    assert whole.metrics["val_auc"] == 0.8
    assert [one.checkpoint.removeprefix(str(tmp_path)) for one in (lost, whole)] == [
        "/checkpoint_0/0",
        "/checkpoint_0/1",
    ]
    assert whole.metrics["startup_seconds"] == lost.metrics["startup_seconds"] == pytest.approx(50, abs=1)
    assert log.ended == 2
    assert "lost" in capsys.readouterr().err


def test_what_was_stopped_or_refused_has_not_failed_and_is_not_complete(dead, tmp_path):
    client, run, _ = dead
    log = StudyLog(client, run, SPACE, 9, study_uri=str(tmp_path))
    for number, last in ((3, report(val_auc=0.8)), (4, report(val_auc=0.9, finished=False)), (5, report(val_auc=nan))):
        config = pack_proposals(Proposal(number=number, values={"side.num_prompts": number}, seeds=2))
        trial = SimpleNamespace(trial_id=str(number), config=config, last_result=last)
        log.on_trial_start(0, [], trial)
        log.on_trial_result(0, [], trial, last)
        log.on_trial_complete(0, [], trial)
    log.refused(6, {"side.num_prompts": 6}, {"param_ratio": 0.5}, "infeasible before training: param_ratio is 0.5")
    records = tracking.read_trials(client, run)[3:]
    endings = [(record.status, record.pruned, record.complete) for record in records]
    assert endings == [
        ("FINISHED", "", True),
        ("FINISHED", "stopped early", False),
        ("FAILED", "", False),
        ("FINISHED", "infeasible", False),
    ]
    for record in records[:3]:
        (seed,) = tracking.seed_runs(client, run, record)
        assert client.get_run(seed).info.status == record.status
    assert shown_trials(records, replace(SPACE, sampler="grid")) == records[:1]
    assert log.ended == 3


def test_what_was_refused_before_training_is_not_counted_when_resuming(client, tmp_path):
    """Its driver died before MLflow had its end; Optuna knows it by what it would have cost."""
    study = open_study(SPACE, "s", str(tmp_path / "optuna.log"), resume=False)
    run, _ = start_or_find(client, "s", SPACE, (), study, resume=False)
    for state in (TrialState.PRUNED, TrialState.COMPLETE):
        trial = study.ask({"side.num_prompts": IntDistribution(1, 64)})
        tracking.start_trial(client, run, trial.number, {}, {"proposal": "{}"})
        if state == TrialState.PRUNED:
            remember_infeasible(trial, {"param_ratio": 0.5})
            remember_reason(trial, "infeasible before training: param_ratio is 0.5")
        study.tell(trial, 0.8 if state == TrialState.COMPLETE else None, state=state)
    for _ in range(2):  # closed now; closed before
        assert start_or_find(client, "s", SPACE, (), study, resume=True)[1] == 1
    assert [record.pruned for record in tracking.read_trials(client, run)] == ["infeasible", ""]


def test_an_actor_that_dies_before_its_trial_is_called_started_is_told(dead, tmp_path):
    """Tune tells of its end alone: its run is opened and closed with the reason, and the search goes on."""
    client, run, _ = dead
    log = StudyLog(client, run, SPACE, 4, study_uri=str(tmp_path))
    config = pack_proposals(Proposal(number=3, values={"side.num_prompts": 8}))
    log.on_trial_error(0, [], SimpleNamespace(trial_id="d", config=config, last_result=None))
    (record,) = [one for one in tracking.read_trials(client, run) if one.number == 3]
    assert (record.status, record.reason) == ("FAILED", DIED)
    assert log.ended == 1
