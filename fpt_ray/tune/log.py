"""What the driver of a search writes down in MLflow: every trial as it goes."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from mlflow import MlflowClient
from optuna.trial import TrialState
from ray import tune
from ray.tune.integration.ray_train import CHECKPOINT_PATH_KEY
from typing_extensions import override

from fpt_ray.config.space import POINT, SearchSpace
from fpt_ray.config.trial import flatten
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.features.store import Store
from fpt_ray.search.messages import (
    HALT,
    NUMBER,
    OF,
    REASON,
    RESULT,
    SEEDS,
    STAGE,
    final_metrics,
    plain_values,
    seeded_trial,
    why_not,
)
from fpt_ray.storage.files import located
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.patient_client import PatientClient
from fpt_ray.tracking.runs import Status, StudyRun, TrialRecord
from fpt_ray.tune.accounting import study_ledger

_EPOCH_METRICS = ("train_loss", "val_auc_epoch")


def start_or_find(
    client: MlflowClient,
    name: str,
    space: SearchSpace,
    stores: Sequence[Store],
    proposed: optuna.Study,
    *,
    resume: bool,
) -> StudyRun:
    """The study's run; in a resumed study, trials that a dead driver left open are closed as Optuna's storage has them.

    Raises:
        ConfigError: a study of that name exists and is not to be resumed, or there is none to resume.
    """
    begun = any(trial.state != TrialState.WAITING for trial in proposed.get_trials(deepcopy=False))
    if resume and (begun or tracking.has_study(client, name)):  # else its first driver died before it had told MLflow
        study = tracking.find_study(client, name)
        client.update_run(study.run_id, status="RUNNING")
        _close_as_told(client, study, proposed)
        return study
    notes = {store.data_note for store in stores if store.data_note}
    study = tracking.start_study(
        client,
        name,
        params=flatten(space.base()),
        tags={
            "objectives": json.dumps(dict(space.objectives)),
            "searched": json.dumps([row.name for row in space.rows]),
            "data_note": " ".join(sorted(notes)),
            "stores": json.dumps([store.uri for store in stores]),
        },
    )
    tracking.attach_text(client, study.run_id, space.text, "space.yaml")
    for store in stores:
        tracking.attach_text(client, study.run_id, store.manifest_text, f"manifests/{store.spec.name}.json")
    return study


def _close_as_told(client: MlflowClient, study: StudyRun, proposed: optuna.Study) -> None:
    """Ends the runs that a dead driver left open. What it had told Optuna stands; what runs elsewhere is let be."""
    told = {trial.number: trial for trial in proposed.get_trials(deepcopy=False)}
    for record in tracking.read_trials(client, study):
        trial = told[record.number]
        if record.status != "RUNNING" or trial.state == TrialState.RUNNING:
            continue
        status: Status = "KILLED"
        reason = "its driver died; the trial was run again"
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            status = "FINISHED" if trial.state == TrialState.COMPLETE else "FAILED"
            reason = trial.user_attrs.get(REASON)
        _close(client, study, record, status, trial.user_attrs.get(RESULT, {}), reason)


def _close(
    client: MlflowClient,
    study: StudyRun,
    record: TrialRecord,
    status: Status,
    metrics: Mapping[str, float],
    reason: str | None,
) -> None:
    for run_id in tracking.seed_runs(client, study, record):
        client.set_terminated(run_id, status)
    tracking.end_trial(client, record.run_id, status, metrics, reason)


class StudyLog(tune.Callback):
    """Tune's events of a study, told to MLflow and to the person at the terminal."""

    def __init__(
        self, client: PatientClient, study: StudyRun, space: SearchSpace, num_trials: int, workdir: str
    ) -> None:
        self.workdir = workdir
        self.client, self.study, self.space, self.num_trials = client, study, space, num_trials
        self.runs: dict[str, str] = {}
        self.seeds: dict[tuple[str, int], str] = {}
        """(trial, repeat): run, of trials with several seeds."""
        self.epochs: dict[str, int] = {}
        """{run: the last epoch that was logged}."""
        self.began: dict[str, float] = {}
        """Of trials that have not reported yet."""
        self.ended = self.ended_before = sum(
            record.status in ("FINISHED", "FAILED") and OF not in record.tags
            for record in tracking.read_trials(client, study)
        )
        self.started = time.monotonic()
        self.spent: dict[str, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into its own snapshot of the experiment, which is never read: Optuna's storage and
        # MLflow are the truth.
        return {}

    def refused(self, number: int, values: dict[str, Any], costs: Mapping[str, float], reason: str) -> None:
        """Records a proposal that broke a constraint and was not trained."""
        parameters = flatten(self.space.trial(values))
        tags = {"proposal": json.dumps(values), "label": values.get(POINT, "")}
        run_id = tracking.start_trial(self.client, self.study, number, parameters, tags)
        tracking.end_trial(self.client, run_id, "FAILED", costs, reason)
        say(f"trial {number}: {reason}")

    @override
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Opens the trial's run."""
        if trial.trial_id in self.runs:
            return
        self.began[trial.trial_id] = time.monotonic()
        values = plain_values(trial.config)
        self.runs[trial.trial_id] = tracking.start_trial(
            self.client,
            self.study,
            trial.config[NUMBER],
            flatten(seeded_trial(self.space, trial.config)),
            {
                "proposal": json.dumps(values),
                "label": values.get(POINT, ""),
                **{name: str(trial.config[name]) for name in (STAGE, OF, SEEDS) if name in trial.config},
            },
        )

    @override
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Logs an epoch, in the run of its seed where there are several; ends the search where it cannot go on."""
        if HALT in result:
            raise ConfigError(result[HALT])
        metrics = {name: result[name] for name in _EPOCH_METRICS if name in result}
        if not metrics:
            return
        run_id, epoch = self.runs[trial.trial_id], result["epochs"]
        if (began := self.began.pop(trial.trial_id, None)) is not None:
            waited = time.monotonic() - began - result["epoch_seconds"]
            self.client.log_metric(run_id, "startup_seconds", waited)
        if trial.config[SEEDS] > 1:
            run_id, epoch = self._seed_run(trial, result["repeat"]), result["epoch_of_seed"]
            metrics["val_auc"] = result["val_auc_seed"]
        if epoch > self.epochs.get(run_id, 0):  # else its worker died before the checkpoint was known, and ran it again
            tracking.log_epoch(self.client, run_id, epoch, metrics)
            self.epochs[run_id] = epoch
        if CHECKPOINT_PATH_KEY in result:  # of a trial with workers of its own
            self.client.set_tag(
                self.runs[trial.trial_id], "checkpoint", located(result[CHECKPOINT_PATH_KEY], self.workdir)
            )

    def _seed_run(self, trial: Any, repeat: int) -> str:
        key = (trial.trial_id, repeat)
        if key not in self.seeds:
            seed = seeded_trial(self.space, trial.config).training.seed + repeat
            self.seeds[key] = tracking.start_seed(self.client, self.study, self.runs[trial.trial_id], repeat, seed)
        return self.seeds[key]

    @override
    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        """Notes where the trial's weights are."""
        self.client.set_tag(self.runs[trial.trial_id], "checkpoint", located(checkpoint.path, self.workdir))

    @override
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Closes the run of a trial that returned."""
        result = trial.last_result or {}
        self._end(trial, result, result.get(REASON) or why_not(result, False, self.space))

    @override
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Closes the run of a trial that Tune gave up: what goes wrong within a trial, it tells itself."""
        self._end(trial, trial.last_result or {}, why_not({}, True, self.space))

    def _end(self, trial: Any, result: dict[str, Any], reason: str | None) -> None:
        metrics = final_metrics(result)
        status = "FINISHED" if reason is None else "FAILED"
        run_id = self.runs[trial.trial_id]
        for (trial_id, _), seed_run in self.seeds.items():
            if trial_id == trial.trial_id:
                self.client.set_terminated(seed_run, status)
        tracking.end_trial(self.client, run_id, status, metrics, reason)
        self.ended += OF not in trial.config
        self._say(trial, metrics, reason)

    def _say(self, trial: Any, metrics: dict[str, float], reason: str | None) -> None:
        seconds = (time.monotonic() - self.started) / max(1, self.ended - self.ended_before)
        left = max(0, self.num_trials - self.ended) * seconds
        values = " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in plain_values(trial.config).items())
        spread = f" ± {metrics['val_auc_std']:.3f}" if "val_auc_std" in metrics else ""
        score = f"val AUC {metrics['val_auc']:.3f}{spread}" if reason is None else reason
        if OF in trial.config:
            say(f"trial {trial.config[OF]} with {trial.config[SEEDS]} new seeds: {score}  {values}")
            return
        say(f"trial {self.ended}/{self.num_trials}: {score}  {values}  (about {left / 60:.1f} min left)")

    def end(self, status: Status) -> None:
        """Closes the study's run, and those of this driver's trials that are still open as killed."""
        for record in tracking.read_trials(self.client, self.study):
            if record.status == "RUNNING" and record.run_id in self.runs.values():
                _close(self.client, self.study, record, "KILLED", {}, "the study ended before the trial did")
        tracking.end_study(self.client, self.study, status, {"trials": self.ended, **self.spent})

    def give_up(self, status: Status) -> None:
        """Closes what is open as far as that goes.

        What ended the search may keep MLflow from being told, and is what the user must read. What stays open is closed
        when the study is resumed.
        """
        try:
            self.end(status)
        except Exception as error:
            say(f"study {self.study.name}: MLflow could not be told of the end ({type(error).__name__})")

    def account(self, stores: Sequence[Store]) -> None:
        """Adds up what the study cost; said by its report and kept on its run."""
        records = tracking.read_trials(self.client, self.study)
        self.spent = {f"ledger.{name}": value for name, value in study_ledger(self.space, stores, records).items()}
