"""Searches side networks over preloaded features: Optuna proposes, Ray Tune schedules, MLflow shows.

``python -m fpt_ray.tune --space search_spaces/X.yaml --images DIR_OR_TABLE | --features URI``
"""

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import optuna
import tyro
from ray import tune
from ray.tune.error import TuneError
from ray.tune.execution import class_cache

from fpt_ray.cluster import ray_session
from fpt_ray.config.space import SearchSpace
from fpt_ray.config.space_yaml import load_space, with_fixed
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.features.serving import store_for
from fpt_ray.features.store import Store, open_store
from fpt_ray.models.methods import check_trial
from fpt_ray.preload.pipeline import preload
from fpt_ray.report.command import report
from fpt_ray.search.early_stopping import FairStopping
from fpt_ray.search.journal import one_driver
from fpt_ray.search.messages import RESTARTS
from fpt_ray.search.optuna_study import load_study, open_study
from fpt_ray.search.pictures import attach_study_pictures
from fpt_ray.search.queue import (
    confirmations_waiting,
    enqueue_chosen,
    enqueue_confirmed,
    enqueue_front,
    finished_trials,
    paper_point,
)
from fpt_ray.search.searcher import StudySearcher
from fpt_ray.storage.errors import disk_full_as_error
from fpt_ray.storage.files import absolute, failure_as_error, filesystem, own_folder
from fpt_ray.tracking.patient_client import PatientClient
from fpt_ray.tracking.runs import check_study_name
from fpt_ray.tracking.server import open_tracking, tracking_uri
from fpt_ray.tune.log import StudyLog, start_or_find
from fpt_ray.tune.resources import plan_packing
from fpt_ray.tune.scoring import score_confirmed, score_front
from fpt_ray.tune.worker import Shared, run_trial, shared_features

_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Search side networks over the preloaded features of some images."""

    space: Path
    """The search space, a YAML file."""
    images: str | None = None
    """A folder (train/ val/ test/, or classes to be split) or a table (CSV, Parquet) of path, label[, split]."""
    features: tuple[str, ...] = ()
    """Finished feature stores instead of images, one for each high resolution in the space."""
    set: tuple[str, ...] = ()
    """Other fixed values for the space, such as training.epochs=5."""
    num_trials: int | None = None
    """Trials of the study in all; nothing: what the space says."""
    study: str | None = None
    """The study's name; nothing: the name of the space's file."""
    tracking_uri: str | None = None
    """MLflow's tracking server or database; nothing: MLFLOW_TRACKING_URI, else mlflow.db in the working directory."""
    workdir: str = "."
    """Where feature stores, checkpoints, studies and mlflow.db live: a folder, or s3://bucket/prefix (then MLflow is
    elsewhere: --tracking_uri)."""
    resume: bool = False
    """Go on with a study of that name."""
    local: bool = False
    """Start Ray on this machine even if RAY_ADDRESS names a cluster."""
    workers_per_trial: int = 1
    """Workers of one trial; more than one train it through Ray Train."""
    cpus_per_worker: float | None = None
    """Nothing: one, or all of a machine for methods that run the LPM on CPUs in every step."""
    gpus_per_worker: float | None = None
    """Share of a GPU a worker takes; nothing: what its predicted memory needs, so that small trials share one."""
    at_once: int | None = None
    """Trials that run or wait for room at once; nothing: what the cluster holds now. With more, one that can, grows."""
    storage: str | None = None
    """Optuna's storage: a database's URL, which several drivers may share; nothing: FPT_RAY_STORAGE, else a journal
    in workdir."""
    warm_start: str | None = None
    """An earlier study in the same storage, or of the same workdir, whose front is tried first."""
    confirm: int | None = None
    """Train so many of the best trials again with new seeds, and read the test split for them alone; nothing: none."""
    repeats: int = 5
    """With --confirm: new seeds of each."""


# --- the study ------------------------------------------------------------------------------------------------


def run_study(command: Command) -> None:
    """Preloads what is missing, searches, scores the front on the test split, reports.

    Raises:
        ConfigError: the space, the images, the stores or the machine do not fit; before anything is trained.
    """
    space = with_fixed(load_space(command.space), command.set)
    if (command.images is None) == (not command.features):
        raise ConfigError("give either --images or --features")
    check_confirmation(command)
    check_points(space)
    name = command.study or command.space.stem
    check_study_name(name)
    num_trials = command.num_trials or space.num_trials
    workdir = absolute(command.workdir)
    study_uri = f"{workdir}/studies/{name}"
    folder = own_folder(study_uri)
    uri = tracking_uri(command.tracking_uri, workdir)
    location = storage_location(command, workdir, name)
    with ray_session(local=command.local, dashboard=command.workers_per_trial > 1), one_driver(location):
        packing, room = plan_packing(command.workers_per_trial, command.cpus_per_worker, command.gpus_per_worker)
        stores = open_stores(command, space, workdir)
        study = open_study(space, name, location, resume=command.resume)
        warm_start(command, space, study, workdir)
        open_tracking(uri)
        client = PatientClient(uri, folder / "mlflow_waiting.jsonl")
        client.settle()
        run = start_or_find(client, name, space, stores, study, resume=command.resume)
        log = StudyLog(client, run, space, num_trials, study_uri)
        try:
            shared = shared_features(space, stores, packing, study_uri)
            search_and_score(command, study, log, shared, command.at_once or room)
            attach_study_pictures(client, run, study, space, folder)
            log.account(stores)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            log.give_up("KILLED" if stopped else "FAILED")
            if stopped:
                say(f"study {name}: stopped after {log.ended} of {log.num_trials} trials; go on with --resume")
            raise
        log.end("FINISHED")
    report(name, tracking_uri=uri, workdir=workdir)


def search_and_score(command: Command, study: optuna.Study, log: StudyLog, shared: Shared, at_once: int) -> None:
    """Searches, repeats what was chosen, and reads the test split: for the front, or for what is confirmed alone."""
    space, num_trials = shared.space, log.num_trials
    search(study, log, shared, num_trials, at_once)
    num_trials += enqueue_chosen(space, study)
    search(study, log, shared, num_trials, at_once)
    if command.confirm is None:
        score_front(log, space, shared.stores)
    else:
        enqueue_confirmed(space, study, command.confirm, command.repeats)
        search(study, log, shared, num_trials, at_once)
    score_confirmed(log, space, shared.stores)


def check_confirmation(command: Command) -> None:
    """ConfigError if nothing could be confirmed, or run, with these numbers."""
    for name, number in (("confirm", command.confirm), ("repeats", command.repeats), ("at_once", command.at_once)):
        if number is not None and number < 1:
            raise ConfigError(f"--{name} is {number}; give 1 or more")


def check_points(space: SearchSpace) -> None:
    """ConfigError if some value of the space cannot be built on its backbone."""
    if space.sampler == "grid":
        for proposal in space.grid():
            check_trial(space.trial(proposal))
        return
    middle = paper_point(space)
    for row in space.rows:
        for value in (row.low, row.high) if row.choices is None and row.step is None else row.values():
            check_trial(space.trial({**middle, row.name: value}))


def open_stores(command: Command, space: SearchSpace, workdir: str) -> tuple[Store, ...]:
    """The feature stores of the space: those given, or those of the images, preloaded where they are missing."""
    if command.features:
        stores = tuple(open_store(uri) for uri in command.features)
    else:
        stores = tuple(preload(str(command.images), wide, workdir) for wide in space.stores())
    for wide in space.stores():
        store_for(wide, stores)
    return stores


def storage_location(command: Command, workdir: str, study: str) -> str:
    """Where a study is stored: the URL that was given, else its own journal file.

    The URL is given on the command line or, with its password, by the environment.
    """
    return command.storage or os.environ.get("FPT_RAY_STORAGE") or f"{workdir}/studies/{study}/optuna.log"


def warm_start(command: Command, space: SearchSpace, study: optuna.Study, workdir: str) -> None:
    """Enqueues the front of an earlier study, once, when this one is new."""
    if command.warm_start is None or command.resume:
        return
    other = load_study(command.warm_start, storage_location(command, workdir, command.warm_start))
    taken = enqueue_front(space, study, other)
    say(
        f"warm start: {taken} of {len(other.best_trials)} points of the front of {command.warm_start} lie in this space"
    )


def search(study: optuna.Study, log: StudyLog, shared: Shared, num_trials: int, at_once: int) -> None:
    """Runs trials until the study has its number of ended ones, and those that wait to confirm others."""
    log.num_trials = num_trials
    missing = max(0, num_trials - finished_trials(study)) + confirmations_waiting(study)
    if missing == 0:
        return
    space = shared.space
    # Tune hands these to its trials in a runtime environment, which Ray logs and lists. Workers have their nodes' own.
    class_cache.ENV_VARS_TO_PROPAGATE -= _KEYS
    trainable = tune.with_parameters(run_trial, shared=shared)
    system, path = filesystem(shared.workdir)
    tuner = tune.Tuner(
        tune.with_resources(trainable, lambda values: tune.PlacementGroupFactory([shared.resources(values)])),
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(space, study, shared.costs, log.refused),
            scheduler=None if space.early_stopping == "none" else FairStopping(space),
            num_samples=missing,
            max_concurrent_trials=at_once,
            reuse_actors=shared.packing.workers == 1,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:12]}",  # a clock that is set back gives a time twice
            storage_path=path,
            storage_filesystem=system,
            callbacks=[log],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            # A trial tells its own errors; what Tune sees is a worker that died, and goes on from its checkpoint.
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            verbose=0,
        ),
    )
    try:
        with disk_full_as_error(shared.workdir):
            tuner.fit()
    except TuneError as error:  # its text is the traceback of what a callback, the searcher or the storage raised
        with failure_as_error(shared.workdir):
            raise error.__context__ if isinstance(error.__context__, ConfigError | OSError) else error from None
    log.client.settle()


def main() -> None:
    """Parse, run."""
    run_study(tyro.cli(Command, description=__doc__, use_underscores=True))
