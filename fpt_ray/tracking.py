"""Studies and trials in MLflow: one run a study, one child a trial. Clients are parameters; nothing is global.

Only the driver of a search uses this module; workers report numbers to Tune.
"""

import contextlib
import logging
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, ViewType
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from fpt_ray.config import ConfigError

EXPERIMENT = "fpt_ray"
Status = Literal["FINISHED", "FAILED", "KILLED"]
_PARENT, _NOTE = "mlflow.parentRunId", "mlflow.note.content"
_KIND, _NUMBER, _REASON = "kind", "number", "reason"
_LONGEST_TAG = 5000


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRun:
    """A study's run."""

    name: str
    experiment_id: str
    run_id: str
    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """A trial as MLflow holds it; metrics are the last values."""

    number: int
    run_id: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    status: str
    reason: str


def default_uri(workdir: str | Path) -> str:
    """The database in a working directory."""
    return f"sqlite:///{Path(workdir).resolve()}/mlflow.db"


def ui_command(uri: str) -> str:
    """The one command that opens MLflow's pages on what was tracked, on this machine only."""
    if uri.startswith(("http://", "https://")):
        return uri
    return f"{shlex.quote(sys.executable)} -m mlflow ui --host 127.0.0.1 --backend-store-uri {shlex.quote(uri)}"


def open_tracking(uri: str) -> MlflowClient:
    """A client whose database exists with its schema.

    Raises:
        ConfigError: the database or server cannot be reached.
    """
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=uri)
    try:
        with _quiet():
            client.search_experiments(max_results=1)
    except MlflowException as error:
        raise ConfigError(f"--tracking_uri: {uri} cannot be used ({error})") from None
    return client


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the log lines of a database's creation off the terminal."""
    loggers = [logging.getLogger(name) for name in ("alembic", "mlflow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# --- studies --------------------------------------------------------------------------------------------------


def start_study(
    client: MlflowClient, name: str, *, params: Mapping[str, object], tags: Mapping[str, str], artifacts: Path | None
) -> StudyRun:
    """The run of a new study. ``artifacts``: where a new experiment keeps files; None lets the server say.

    Raises:
        ConfigError: a study of that name exists.
    """
    if any(study.name == name for study in list_studies(client)):
        raise ConfigError(f"study {name!r} exists already; continue it with --resume, or choose another --study")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        experiment_id = experiment.experiment_id
    else:
        location = None if artifacts is None else artifacts.resolve().as_uri()
        experiment_id = client.create_experiment(EXPERIMENT, artifact_location=location)
    every = {**tags, _KIND: "study", "study": name}
    run = client.create_run(experiment_id, run_name=name, tags=_fitting(every))
    _log_params(client, run.info.run_id, params)
    return StudyRun(name=name, experiment_id=experiment_id, run_id=run.info.run_id, tags=every)


def list_studies(client: MlflowClient) -> list[StudyRun]:
    """All studies, the newest first."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    runs = _search(client, experiment.experiment_id, f"tags.{_KIND} = 'study'")
    return [
        StudyRun(
            name=run.data.tags["study"],
            experiment_id=experiment.experiment_id,
            run_id=run.info.run_id,
            tags=run.data.tags,
        )
        for run in runs
    ]


def find_study(client: MlflowClient, name: str) -> StudyRun:
    """A study by its name.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    studies = list_studies(client)
    for study in studies:
        if study.name == name:
            return study
    known = ", ".join(sorted({study.name for study in studies})) or "none yet"
    raise ConfigError(f"there is no study {name!r} here; known are: {known}")


def end_study(client: MlflowClient, study: StudyRun, status: Status, metrics: Mapping[str, float]) -> None:
    """Closes a study's run."""
    _log_metrics(client, study.run_id, metrics, 0)
    client.set_terminated(study.run_id, status)


# --- trials ---------------------------------------------------------------------------------------------------


def start_trial(
    client: MlflowClient, study: StudyRun, number: int, params: Mapping[str, object], tags: Mapping[str, str]
) -> str:
    """Opens the run of a trial under its study and returns its id."""
    every = {**tags, _KIND: "trial", _NUMBER: str(number), "study": study.name, _PARENT: study.run_id}
    run = client.create_run(study.experiment_id, run_name=f"{study.name}-{number:04d}", tags=_fitting(every))
    _log_params(client, run.info.run_id, params)
    return run.info.run_id


def log_epoch(client: MlflowClient, run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
    """The metrics of an epoch, counted from 1."""
    _log_metrics(client, run_id, metrics, epoch)


def end_trial(
    client: MlflowClient, run_id: str, status: Status, metrics: Mapping[str, float], reason: str | None = None
) -> None:
    """Closes a trial's run with its final metrics and, unless it finished as planned, the reason."""
    _log_metrics(client, run_id, metrics, 0)
    if reason is not None:
        for key in (_REASON, _NOTE):
            client.set_tag(run_id, key, reason[:_LONGEST_TAG])
    client.set_terminated(run_id, status)


def read_trials(client: MlflowClient, study: StudyRun) -> list[TrialRecord]:
    """All trials of a study, by number; one that was run again stands as often as it was run."""
    runs = _search(client, study.experiment_id, f"tags.`{_PARENT}` = '{study.run_id}'")
    records = [
        TrialRecord(
            number=int(run.data.tags[_NUMBER]),
            run_id=run.info.run_id,
            params=run.data.params,
            metrics=run.data.metrics,
            tags=run.data.tags,
            status=run.info.status,
            reason=run.data.tags.get(_REASON, ""),
        )
        for run in runs
    ]
    return sorted(records, key=lambda record: record.number)


def _search(client: MlflowClient, experiment_id: str, query: str) -> list[MlflowRun]:
    runs: list[MlflowRun] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], query, ViewType.ACTIVE_ONLY, max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float], step: int) -> None:
    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(name, float(value), now, step) for name, value in metrics.items()])


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, object]) -> None:
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])


def _fitting(tags: Mapping[str, str]) -> dict[str, str]:
    return {name: value[:_LONGEST_TAG] for name, value in tags.items()}


# --- what else stands with a study ----------------------------------------------------------------------------


def attach(client: MlflowClient, run_id: str, path: Path, folder: str = "") -> None:
    """Puts a file beside a run; one of that name is replaced."""
    client.log_artifact(run_id, str(path), folder or None)


def attach_text(client: MlflowClient, run_id: str, text: str, name: str) -> None:
    """Puts a text beside a run under a name with folders."""
    client.log_text(run_id, text, name)


def provenance() -> dict[str, str]:
    """Versions of what computes, and the git commit where there is one."""
    found = {f"version.{name}": metadata.version(name) for name in ("fpt_ray", "torch", "timm", "ray", "optuna", "mlflow")}
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return found
    return {**found, "git_commit": commit}

