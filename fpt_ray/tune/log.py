"""What the driver of a search writes down in MLflow: every trial as it goes."""

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import CHECKPOINT_PATH_KEY
from typing_extensions import override

from fpt_ray.config.dotted import flatten
from fpt_ray.config.space import POINT, SearchSpace
from fpt_ray.config.tasks import TITLES
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.report.predictions import FILE as PREDICTIONS
from fpt_ray.report.tested import FILE as TESTED
from fpt_ray.search.messages import (
    EpochReport,
    Message,
    Proposal,
    TrialFailure,
    final_metrics,
    unpack_messages,
    unpack_proposals,
    why_incomplete,
)
from fpt_ray.storage.files import located
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.names import weighed
from fpt_ray.tracking.patient_client import PatientClient
from fpt_ray.tracking.records import StudyRun, TrialRecord, counted, trial_tags, with_metrics
from fpt_ray.tracking.runs import Status
from fpt_ray.train.checkpoint import checkpoint_folders
from fpt_ray.tune.scoring import TrialScores
from fpt_ray.tune.study_run import pruned_for, status_for

_LAST_PATIENCE_SECONDS = 20
"""How long a search that ends otherwise than planned waits for MLflow."""
_BEFORE = -1
"""The step of numbers that a trial's last ones replace, whatever the clock says: of one step the latest time counts."""


class StudyLog(tune.Callback):
    """Tune's events of a study, told to MLflow and to the person at the terminal."""

    def __init__(
        self,
        client: PatientClient,
        study: StudyRun,
        space: SearchSpace,
        num_trials: int,
        *,
        study_uri: str,
        ended: int = 0,
    ) -> None:
        self.client, self.study, self.space = client, study, space
        self.num_trials, self.study_uri = num_trials, study_uri
        self.ended = self.ended_before = ended
        """Trials that have ended, those of earlier drivers included."""
        self.runs: dict[int, str] = {}
        """{trial: its run in MLflow}."""
        self.open: set[int] = set()
        """Of these, the trials that have not ended."""
        self.disowned: dict[int, str] = {}
        """{trial: why}: those that were asked again before they ended here."""
        self.seeds: dict[tuple[int, int], str] = {}
        """(trial, repeat): run, of trials with several seeds."""
        self.epochs: dict[str, int] = {}
        """{run: the last epoch that was logged}."""
        self.began: dict[str, float] = {}
        """Of Tune's trials that have not reported yet."""
        self.started = time.monotonic()
        self.failure: Exception | None = None
        """What went wrong when a trial's end was told."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks into its own snapshot of the experiment, which is never read: Optuna's storage and
        # MLflow are the truth.
        return {}

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What the block takes says nothing of how long trials take."""
        began = time.monotonic()
        yield
        self.started += time.monotonic() - began

    def refused(self, number: int, values: dict[str, Any], costs: Mapping[str, float], reason: str) -> None:
        """Records a proposal that broke a constraint and was not trained."""
        parameters, tags = flatten(self.space.trial(values)), trial_tags(values, values.get(POINT, ""))
        run_id = tracking.start_trial(self.client, self.study, number, parameters, tags)
        tracking.end_trial(self.client, run_id, "FINISHED", costs, reason, "infeasible")
        say(f"trial {number}: {reason}")

    # --- Tune's events ------------------------------------------------------------------------------------------

    @override
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Opens the runs of the trials that train as one of Tune's."""
        if any(proposal.number not in self.runs for proposal in unpack_proposals(trial.config)):
            self.began[trial.trial_id] = time.monotonic()
        for proposal in unpack_proposals(trial.config):
            self._open(proposal)

    def _open(self, proposal: Proposal) -> None:
        if proposal.number in self.runs:
            return
        tags = trial_tags(
            proposal.values,
            proposal.values.get(POINT, ""),
            stage=proposal.stage,
            seeds=proposal.seeds,
            confirms=proposal.confirms,
        )
        parameters = flatten(proposal.trial(self.space))
        self.runs[proposal.number] = tracking.start_trial(self.client, self.study, proposal.number, parameters, tags)
        self.open.add(proposal.number)

    @override
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Logs an epoch, in the run of its seed where there are several; ends the search where it cannot go on."""
        messages = unpack_messages(result)
        self._log_startup(trial, messages)
        for proposal, message in zip(unpack_proposals(trial.config), messages, strict=True):
            if isinstance(message, TrialFailure) and message.halts_search:
                raise ConfigError(message.reason, fields=("resume",))
            if isinstance(message, EpochReport):
                self._log_epoch(proposal, message)
        if CHECKPOINT_PATH_KEY in result:  # of a trial with workers of its own
            self._note_checkpoint(trial, result[CHECKPOINT_PATH_KEY])

    def _log_startup(self, trial: Any, messages: Sequence[Message]) -> None:
        """How long the first epoch of trials that train as one model was waited for: each has its share."""
        proposals, reports = unpack_proposals(trial.config), [one for one in messages if isinstance(one, EpochReport)]
        if (began := self.began.pop(trial.trial_id, None)) is None or not reports:
            return
        trained = statistics.fmean(report.epoch_seconds for report in reports) * len(proposals)
        waited = time.monotonic() - began - trained
        for proposal, message in zip(proposals, messages, strict=True):
            if isinstance(message, EpochReport):
                first = weighed(final_metrics(message), self.study.score)  # so far; MLflow compares trials by these
                tracking.log_numbers(self.client, self.runs[proposal.number], first, _BEFORE)
                share = {"startup_seconds": waited / len(proposals)}
                tracking.log_numbers(self.client, self.runs[proposal.number], share)

    def _log_epoch(self, proposal: Proposal, report: EpochReport) -> None:
        run_id = self.runs[proposal.number]
        for seed in report.seeds:
            metrics = {f"val_{report.picked_by}_epoch": seed.val_score_epoch, **report.load}
            if seed.train_loss is not None:
                metrics["train_loss"] = seed.train_loss
            if proposal.seeds > 1:
                run_id = self._seed_run(proposal, seed.repeat)
                metrics[f"val_{report.picked_by}"] = seed.val_score
            if seed.epoch > self.epochs.get(run_id, 0):  # else a worker died before its checkpoint was known: run again
                tracking.log_epoch(self.client, run_id, seed.epoch, metrics)
                self.epochs[run_id] = seed.epoch

    def _seed_run(self, proposal: Proposal, repeat: int) -> str:
        key = (proposal.number, repeat)
        if key not in self.seeds:
            seed = proposal.trial(self.space).training.seed + repeat
            self.seeds[key] = tracking.start_seed(self.client, self.study, self.runs[proposal.number], repeat, seed)
        return self.seeds[key]

    @override
    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        """Notes where the weights of each trial are."""
        self._note_checkpoint(trial, checkpoint.path)

    def _note_checkpoint(self, trial: Any, path: str) -> None:
        proposals = unpack_proposals(trial.config)
        folders = checkpoint_folders(located(path, self.study_uri), len(proposals))
        for proposal, folder in zip(proposals, folders, strict=True):
            tracking.note_checkpoint(self.client, self.runs[proposal.number], folder)

    @override
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Closes the runs of trials that returned."""
        self._end(trial, died=False)

    @override
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Closes the runs of what Tune gave up: what goes wrong within a trial, it tells itself."""
        self._end(trial, died=True)

    def _end(self, trial: Any, *, died: bool) -> None:
        proposals = unpack_proposals(trial.config)
        messages = unpack_messages(trial.last_result) or (None,) * len(proposals)
        try:
            for proposal, message in zip(proposals, messages, strict=True):
                self._end_one(proposal, message, died=died)
        except Exception as failure:
            self.failure = self.failure or failure
            raise

    def _end_one(self, proposal: Proposal, message: Message | None, *, died: bool) -> None:
        self._open(proposal)  # its worker may have died before Tune called it started
        if proposal.number in self.disowned:
            self._close(proposal.number, "KILLED", {}, self.disowned[proposal.number])
            return
        reason = why_incomplete(message, died, self.space)
        metrics = final_metrics(message)
        self._close(proposal.number, status_for(reason, pruned_for(reason)), metrics, reason)
        self.ended += proposal.confirms is None
        self._say(proposal, metrics, reason)

    def _close(self, number: int, status: Status, metrics: Mapping[str, float], reason: str | None) -> None:
        for (owner, _), seed_run in self.seeds.items():
            if owner == number:
                self.client.set_terminated(seed_run, status)
        tracking.end_trial(self.client, self.runs[number], status, metrics, reason, pruned_for(reason))
        self.open.discard(number)

    def _say(self, proposal: Proposal, metrics: Mapping[str, float], reason: str | None) -> None:
        seconds = (time.monotonic() - self.started) / max(1, self.ended - self.ended_before)
        left = max(0, self.num_trials - self.ended) * seconds
        values = " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in proposal.values.items())
        name = self.space.score
        spread = f" ± {metrics[f'{name}_std']:.3f}" if f"{name}_std" in metrics else ""
        title = TITLES[name.removeprefix("val_")]
        score = f"val {title} {metrics[name]:.3f}{spread}" if reason is None else reason
        if proposal.confirms is not None:
            say(f"trial {proposal.confirms} with {proposal.seeds} new seeds: {score}  {values}")
            return
        say(f"trial {self.ended}/{self.num_trials}: {score}  {values}  (about {left / 60:.1f} min left)")

    # --- the end of the study -----------------------------------------------------------------------------------

    def scored(self, found: Sequence[TrialScores], records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Writes down what trials reached on the test split; returns the records with these numbers in them."""
        by_run = {one.run_id: one for one in found}
        for record in records:
            if (one := by_run.get(record.run_id)) is None:
                continue
            if one.details:
                tracking.attach_text(self.client, record.run_id, one.details, TESTED)
            if one.predictions:
                tracking.attach_text(self.client, record.run_id, one.predictions, PREDICTIONS)
            if len(one.seed_scores) > 1:
                runs = tracking.seed_runs(self.client, self.study, record)
                name = f"test_{self.study.score}"
                for run_id, score in zip(runs, one.seed_scores, strict=True):
                    tracking.log_numbers(self.client, run_id, {name: score}, score=self.study.score)
            # Last: a trial that has these numbers is not scored again.
            tracking.log_numbers(self.client, record.run_id, one.metrics, score=self.study.score)
        return [with_metrics(one, by_run[one.run_id].metrics) if one.run_id in by_run else one for one in records]

    def end(
        self, status: Status, ledger: Mapping[str, float] | None = None, records: Sequence[TrialRecord] = ()
    ) -> None:
        """Closes the study's run, and those of this driver's trials that are still open as killed."""
        for number in tuple(self.open):
            self._close(number, "KILLED", {}, "the study ended before the trial did")
        results, score = counted(records, self.space.constraints, (self.space.score,)), self.space.score
        best = max(results, key=lambda record: record.metrics[score]).metrics if results else {}
        tracking.end_study(self.client, self.study, status, self.ended, ledger, best)
        self.client.settle()

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Closes what is open where the search ends otherwise than planned, as far as that goes.

        What ended the search may keep MLflow from being told, and is what the user must read. What stays open is closed
        when the study is resumed.
        """
        try:
            yield
        except BaseException as error:
            stopped, name = isinstance(error, KeyboardInterrupt), self.study.name
            try:
                self.client.settle(_LAST_PATIENCE_SECONDS)
                self.end("KILLED" if stopped else "FAILED")
            except Exception as failure:
                say(f"study {name}: MLflow could not be told of the end ({type(failure).__name__})")
            if stopped:
                say(f"study {name}: stopped after {self.ended} of {self.num_trials} trials; go on with --resume")
            raise
