"""A study's run in MLflow: begun, or found again and brought to what Optuna's storage has."""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
from mlflow import MlflowClient
from optuna.trial import TrialState

from fpt_ray.config.dotted import flatten
from fpt_ray.config.space import SearchSpace
from fpt_ray.display.terminal import without_secrets
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import Features, features_text
from fpt_ray.search.attributes import has_begun, is_infeasible, reason_of, result_of
from fpt_ray.search.identity import study_id
from fpt_ray.search.messages import STOPPED
from fpt_ray.storage.files import own_folder
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.patient_client import PatientClient
from fpt_ray.tracking.records import ImagesNote, Pruned, StudyRun, TrialRecord, study_tags
from fpt_ray.tracking.runs import Status
from fpt_ray.tracking.server import open_tracking
from fpt_ray.tracking.waiting import waiting_file


@contextmanager
def patient_client(uri: str, study_uri: str) -> Iterator[PatientClient]:
    """A client for a study that has delivered what an earlier driver could not; MLflow is asked before all else.

    Raises:
        ConfigError: MLflow cannot be had, or what waits is for another server.
    """
    open_tracking(uri)
    with closing(PatientClient(uri, waiting_file(own_folder(study_uri), uri))) as client:
        client.settle()
        yield client


def start_or_find(
    client: MlflowClient,
    name: str,
    space: SearchSpace,
    stores: Iterable[Features],
    proposed: optuna.Study,
    *,
    resume: bool,
) -> tuple[StudyRun, int]:
    """The study's run, and how many trials of it have ended.

    In a resumed study, trials that a dead driver left open are closed as Optuna's storage has them.

    Raises:
        ConfigError: it was told to another server.
    """
    study = tracking.study_with(client, study_id(proposed)) if resume else None
    if study is not None:
        client.update_run(study.run_id, status="RUNNING")
        return study_with_stores(client, study, stores), close_as_stored(client, study, proposed)
    if has_begun(proposed):
        problem = f"study {name!r} was told to another MLflow server or database than this one; give that one"
        raise ConfigError(problem, fields=("tracking_uri",))
    notes = {store.data_note for store in stores if store.data_note}
    study = tracking.start_study(
        client,
        name,
        params=flatten(space.base()),
        tags=study_tags(
            space.objectives,
            [row.name for row in space.rows],
            " ".join(sorted(notes)),
            study_id=study_id(proposed),
            constraints=space.constraints,
            starts_at_paper=not space.enqueues,
            score=space.score.removeprefix("val_"),
        ),
    )
    tracking.attach_text(client, study.run_id, space.text, "space.yaml")
    return study_with_stores(client, study, stores), 0


def study_with_stores(client: MlflowClient, study: StudyRun, stores: Iterable[Features]) -> StudyRun:
    """A study's run that names the stores that are made, and has what each holds attached."""
    new = [store for store in stores if store.is_made and store.uri not in study.stores]
    for store in new:
        tracking.attach_text(client, study.run_id, features_text(store), f"features/{store.spec.name}.json")
    return tracking.name_stores(client, study, [*study.stores, *(store.uri for store in new)]) if new else study


def study_with_images(client: MlflowClient, study: StudyRun, store: Features, images: str, table: str) -> StudyRun:
    """A study's run that says which images it learns from: as the user gave them, and their table as it is kept."""
    if study.images is not None:
        return study
    name, rows = Path(images).name or images, {split: len(rows) for split, rows in store.splits.items()}
    said = ImagesNote(name=without_secrets(name), digest=store.table_digest, uri=table, rows=rows)
    return tracking.name_images(client, study, said)


def close_as_stored(client: MlflowClient, study: StudyRun, proposed: optuna.Study) -> int:
    """Ends the runs that a dead driver left open. What it had told Optuna stands; what runs elsewhere is let be.

    Returns how many trials have ended, but for those that confirm others or were refused before training.
    """
    records, ended = tracking.read_trials(client, study), 0  # first: a trial's run is made after the trial
    stored = {trial.number: trial for trial in proposed.get_trials(deepcopy=False)}
    for record in records:
        trial, status = stored[record.number], record.status
        if status == "RUNNING" and trial.state != TrialState.RUNNING:
            status = _close_one_as_stored(client, study, record, trial)
        if record.confirms is None and not is_infeasible(trial):
            ended += status in ("FINISHED", "FAILED")
    return ended


def _close_one_as_stored(
    client: MlflowClient, study: StudyRun, record: TrialRecord, trial: optuna.trial.FrozenTrial
) -> Status:
    status: Status = "KILLED"
    reason, pruned = "its driver died; the trial was run again", ""
    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
        reason = reason_of(trial)
        pruned = "infeasible" if is_infeasible(trial) else pruned_for(reason)
        status = status_for(reason, pruned)
    for run_id in tracking.seed_runs(client, study, record):
        client.set_terminated(run_id, status)
    tracking.end_trial(client, record.run_id, status, result_of(trial), reason, pruned)
    return status


def pruned_for(reason: str | None) -> Pruned:
    """Of a trial that was trained and has no result for that reason."""
    return "stopped early" if reason == STOPPED else ""


def status_for(reason: str | None, pruned: Pruned) -> Status:
    """What is neither trained to its end nor pruned has failed."""
    return "FINISHED" if reason is None or pruned else "FAILED"
