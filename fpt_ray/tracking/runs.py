"""Studies and trials in MLflow: one run a study, one child a trial. Clients are parameters; nothing is global.

Only the driver of a search uses this module; workers report numbers to Tune. What is written is free of passwords that
stand in URIs.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, ViewType
from mlflow.entities import Run as MlflowRun

from fpt_ray.display.terminal import without_secrets
from fpt_ray.errors import ConfigError
from fpt_ray.tracking.names import LEDGER, metric_key, plain_name, weighed
from fpt_ray.tracking.provenance import SOURCE, provenance, source_tags
from fpt_ray.tracking.records import (
    CHECKPOINT,
    DATA_NOTE,
    PRUNED,
    STUDY_ID,
    ImagesNote,
    Pruned,
    StudyRun,
    TrialRecord,
    images_tags,
    store_tags,
    title_of,
)
from fpt_ray.tracking.server import database_path

EXPERIMENT = "fpt_ray"
Status = Literal["FINISHED", "FAILED", "KILLED"]
_PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
_KIND, _NUMBER, _REASON = "fpt_ray.kind", "number", "reason"
LONGEST_TAG, _LONGEST_PARAM = 8000, 6000  # MLflow's own limits: it cuts what is longer
_DIGITS = 12  # of a table's digest, as in the names of its files


# --- studies --------------------------------------------------------------------------------------------------


def start_study(client: MlflowClient, name: str, *, params: Mapping[str, object], tags: Mapping[str, str]) -> StudyRun:
    """The run of a new study; what computes it (``provenance``) is among its tags.

    A new experiment keeps files beside an SQLite database, else where the server says.

    Raises:
        ConfigError: the name cannot be a folder's, or a tag is too long.
    """
    check_study_name(name)
    experiment_id = _experiment(client)
    versions = provenance()
    source = source_tags(versions.get("git_commit", ""))
    every = _safe_tags({**versions, **source, **tags, _KIND: "study", "study": name})
    if note := every.get(DATA_NOTE):
        every[NOTE] = note
    run = client.create_run(experiment_id, run_name=name, tags=every)
    _log_params(client, run.info.run_id, params)
    run_id = client.get_run(run.info.run_id).info.run_id  # a patient client has had an id of its own for it
    return StudyRun(name=name, experiment_id=experiment_id, run_id=run_id, tags=every)


def check_study_name(name: str) -> None:
    """ConfigError if a study cannot be called so: its name is also that of a folder."""
    if not re.fullmatch(r"\w[\w.-]{0,99}", name):
        raise ConfigError(f"study {name!r}: use 1 to 100 letters, digits, '_', '-' and '.'; start with none of '-.'")


def _experiment(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        uri, location = client.tracking_uri, None
        if uri.startswith("sqlite:///"):
            location = (database_path(uri).parent / "mlartifacts").resolve().as_uri()
        return client.create_experiment(EXPERIMENT, artifact_location=location)
    if experiment.lifecycle_stage != "active":
        restore = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        raise ConfigError(f"MLflow's experiment {EXPERIMENT!r} has been deleted; bring it back with: {restore}")
    return experiment.experiment_id


def list_studies(client: MlflowClient) -> list[StudyRun]:
    """All studies, the newest first."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    where = experiment.experiment_id
    return [
        StudyRun(
            name=run.data.tags["study"],
            experiment_id=where,
            run_id=run.info.run_id,
            tags=run.data.tags,
            metrics=run.data.metrics,
        )
        for run in _search(client, where, f"tags.`{_KIND}` = 'study'")
    ]


def study_with(client: MlflowClient, study_id: str) -> StudyRun | None:
    """The study of this id, if the server knows it."""
    return next((study for study in list_studies(client) if study.tags.get(STUDY_ID) == study_id), None)


def find_study(client: MlflowClient, name: str, study_id: str | None = None) -> StudyRun:
    """A study by its name; of several users' studies of one name, the one of this id.

    Raises:
        ConfigError: there is none (the message lists those there are), or there are several and no id tells which.
    """
    studies = list_studies(client)
    named = [study for study in studies if study.name == name]
    own = [study for study in named if study_id in (None, study.tags.get(STUDY_ID))]
    if len(own) == 1:
        return own[0]
    if own:
        raise ConfigError(
            f"there are {len(own)} studies {name!r} here; give the workdir of the one meant",
            fields=("workdir",),
        )
    if named:
        raise ConfigError(f"study {name!r} here is another than that of the workdir; give the server it was told to")
    known = ", ".join(sorted({study.name for study in studies})) or "none yet"
    raise ConfigError(f"there is no study {name!r} here; known are: {known}")


def name_stores(client: MlflowClient, study: StudyRun, stores: Sequence[str]) -> StudyRun:
    """The study's run with these feature stores, by their URIs."""
    tags = _safe_tags(store_tags(stores))
    for name, value in tags.items():
        client.set_tag(study.run_id, name, value)
    return replace(study, tags={**study.tags, **tags})


def name_images(client: MlflowClient, study: StudyRun, images: ImagesNote) -> StudyRun:
    """The study's run with the images that it and its trials learn from."""
    tags = _safe_tags(images_tags(images))
    for name, value in tags.items():
        client.set_tag(study.run_id, name, value)
    _log_images(client, study.run_id, images)
    return replace(study, tags={**study.tags, **tags})


def end_study(
    client: MlflowClient,
    study: StudyRun,
    status: Status,
    trials: int,
    ledger: Mapping[str, float] | None = None,
    best: Mapping[str, float] | None = None,
) -> None:
    """Closes a study's run, which bears what its best trial weighs, by whose numbers people compare studies.

    The last of several ends counts, even if the clock was set back between them.
    """
    found = weighed(best or {}, study.score)
    metrics = {metric_key(name, study.score): value for name, value in found.items()}
    metrics |= {f"{LEDGER}{name}": value for name, value in {"trials": trials, **(ledger or {})}.items()}
    ends = max((len(client.get_metric_history(study.run_id, name)) for name in metrics), default=0)
    _log_metrics(client, study.run_id, metrics, ends)
    client.set_terminated(study.run_id, status)


# --- trials ---------------------------------------------------------------------------------------------------


def start_trial(
    client: MlflowClient, study: StudyRun, number: int, params: Mapping[str, object], tags: Mapping[str, str]
) -> str:
    """Opens the run of a trial under its study, of the same images, user and commit, and returns its id."""
    own = {_KIND: "trial", _NUMBER: str(number), "study": study.name, _PARENT: study.run_id}
    every = _safe_tags({**{name: study.tags[name] for name in SOURCE if name in study.tags}, **tags, **own})
    run = client.create_run(study.experiment_id, run_name=title_of(number, tags), tags=every)
    _log_params(client, run.info.run_id, params)
    if study.images is not None:
        _log_images(client, run.info.run_id, study.images)
    return run.info.run_id


def start_seed(client: MlflowClient, study: StudyRun, trial_run: str, repeat: int, seed: int) -> str:
    """Opens the run of one of a trial's seeds under the trial and returns its id; repeats count from 0."""
    tags = _safe_tags({_KIND: "seed", _NUMBER: str(repeat), "study": study.name, _PARENT: trial_run})
    run = client.create_run(study.experiment_id, run_name=f"seed-{seed}", tags=tags)
    _log_params(client, run.info.run_id, {"training.seed": seed})
    return run.info.run_id


def seed_runs(client: MlflowClient, study: StudyRun, trial: "TrialRecord") -> list[str]:
    """The runs of a trial's seeds, in order; of a seed that was run again, the last."""
    runs = _search(client, study.experiment_id, f"tags.`{_PARENT}` = '{trial.run_id}'")
    runs.sort(key=lambda run: run.info.start_time)
    last = {int(run.data.tags[_NUMBER]): run.info.run_id for run in runs}
    return [last[repeat] for repeat in sorted(last)]


def note_checkpoint(client: MlflowClient, run_id: str, uri: str) -> None:
    """Keeps where a trial's weights are."""
    client.set_tag(run_id, CHECKPOINT, uri)


def log_epoch(client: MlflowClient, run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
    """The metrics of an epoch, counted from 1."""
    log_numbers(client, run_id, metrics, epoch)


def end_trial(
    client: MlflowClient,
    run_id: str,
    status: Status,
    metrics: Mapping[str, float],
    reason: str | None = None,
    pruned: Pruned = "",
) -> None:
    """Closes a trial's run with its final metrics and, unless it was trained to its end, the reason."""
    log_numbers(client, run_id, metrics)
    if pruned:
        client.set_tag(run_id, PRUNED, pruned)
    if reason is not None:
        for key in (_REASON, NOTE):
            client.set_tag(run_id, key, without_secrets(reason)[:LONGEST_TAG])
    client.set_terminated(run_id, status)


def read_trials(client: MlflowClient, study: StudyRun) -> list[TrialRecord]:
    """All trials of a study, by number; one that was run again stands as often as it was run."""
    runs = _search(client, study.experiment_id, f"tags.`{_PARENT}` = '{study.run_id}'")
    records = [
        TrialRecord(
            number=int(run.data.tags[_NUMBER]),
            run_id=run.info.run_id,
            params=run.data.params,
            metrics={plain_name(key): value for key, value in run.data.metrics.items()},
            tags=run.data.tags,
            status=run.info.status,
            reason=run.data.tags.get(_REASON, ""),
            started_s=run.info.start_time / 1e3,
            ended_s=run.info.end_time / 1e3 if run.info.end_time else None,
        )
        for run in runs
    ]
    return sorted(records, key=lambda record: record.number)


def _search(client: MlflowClient, experiment_id: str, query: str) -> list[MlflowRun]:
    runs: list[MlflowRun] = []
    token: str | None = ""
    while token is not None:
        page = client.search_runs([experiment_id], query, ViewType.ACTIVE_ONLY, 1000, page_token=token or None)
        runs, token = runs + page, page.token or None
    return runs


def log_numbers(
    client: MlflowClient, run_id: str, metrics: Mapping[str, float], step: int = 0, score: str = "auc"
) -> None:
    """Numbers of a trial or seed by their plain names; ``score`` is the one that picks the study's best trials."""
    _log_metrics(client, run_id, {metric_key(name, score): value for name, value in metrics.items()}, step)


def _log_images(client: MlflowClient, run_id: str, images: ImagesNote) -> None:
    source, profile = json.dumps({"uri": without_secrets(images.uri)}), json.dumps(dict(images.rows))
    told = Dataset(images.name, images.digest[:_DIGITS], "local", source, profile=profile)
    client.log_inputs(run_id, [DatasetInput(told, [InputTag("mlflow.data.context", "training")])])


def _log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float], step: int) -> None:
    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(name, float(value), now, step) for name, value in metrics.items()])


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, object]) -> None:
    values = {name: without_secrets(str(value))[:_LONGEST_PARAM] for name, value in params.items()}
    client.log_batch(run_id, params=[Param(name, value) for name, value in values.items()])


def _safe_tags(tags: Mapping[str, str]) -> dict[str, str]:
    for name, value in tags.items():
        if len(value) > LONGEST_TAG:  # cut short, one that is JSON could not be read again
            raise ConfigError(f"the tag {name!r} takes {len(value)} characters; MLflow keeps {LONGEST_TAG} at most")
    return {name: without_secrets(value) for name, value in tags.items()}


def attach(client: MlflowClient, run_id: str, path: Path, folder: str = "") -> None:
    """Puts a file beside a run; one of that name is replaced."""
    client.log_artifact(run_id, str(path), folder or None)


def attach_text(client: MlflowClient, run_id: str, text: str, name: str) -> None:
    """Puts a text beside a run under a name with folders."""
    client.log_text(run_id, text, name)
