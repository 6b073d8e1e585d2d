"""A study from start to result: what is missing is preloaded, trials are run, the test split is read once."""

import time
import uuid
from pathlib import Path

import optuna
from ray import tune
from ray.tune.error import TuneError
from ray.tune.execution import class_cache

from fpt_ray.cluster import ask_worker, ray_session
from fpt_ray.config.space_yaml import load_space, with_fixed
from fpt_ray.config.trial import TrialConfig
from fpt_ray.display.terminal import say, without_secrets
from fpt_ray.errors import ConfigError
from fpt_ray.features.serving import Stores, store_for, study_identity
from fpt_ray.images.table import write_table
from fpt_ray.models.hardware import hardware_here
from fpt_ray.predict.logged import log_study_if_possible
from fpt_ray.reading.host_disk import host_disk
from fpt_ray.reading.places import clearing_disks, share_features
from fpt_ray.report.publication import publish
from fpt_ray.report.result import StudyResult, study_result
from fpt_ray.search.attributes import finished_trials, has_begun, trained_values
from fpt_ray.search.drivers import turn
from fpt_ray.search.early_stopping import FairStopping
from fpt_ray.search.identity import study_id
from fpt_ray.search.journal import one_driver
from fpt_ray.search.messages import RESTARTS, unpack_proposal
from fpt_ray.search.optuna_study import open_study
from fpt_ray.search.pictures import draw_study_pictures
from fpt_ray.search.queue import enqueue_chosen, enqueue_confirmed
from fpt_ray.search.searcher import StudySearcher
from fpt_ray.storage.errors import disk_full_as_error
from fpt_ray.storage.files import absolute, failure_as_error, filesystem, own_folder
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.folder import claim_folder
from fpt_ray.tracking.records import TrialRecord
from fpt_ray.tracking.server import tracking_uri
from fpt_ray.tune.accounting import study_ledger
from fpt_ray.tune.bundles import leave_all
from fpt_ray.tune.ends_told import EndsTold
from fpt_ray.tune.evidence import leave_evidence
from fpt_ray.tune.log import StudyLog
from fpt_ray.tune.losses import HostLosses
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.preparation import (
    check_options,
    check_points,
    crowd_of,
    earlier_study,
    storage_location,
    warm_start,
)
from fpt_ray.tune.resources import Crowd, Packing, plan_packing
from fpt_ray.tune.scoring import score_confirmed, score_shown, shown_trials
from fpt_ray.tune.stores import Supply, open_stores
from fpt_ray.tune.study_run import close_as_stored, patient_client, start_or_find, study_with_images, study_with_stores
from fpt_ray.tune.worker import Shared, run_trial

_RECORDS_SECONDS = 60
"""How long another driver that lives may take to tell MLflow of a trial that Optuna's storage has as ended."""
_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}


def run_study(options: StudyOptions) -> StudyResult:
    """Preloads what is missing, searches, scores the front on the test split; returns what came of it.

    Its table and pictures are in the study's folder and on its run in MLflow.

    Raises:
        ConfigError: the space, the images, the stores or the machine do not fit; before anything is trained.
    """
    space = with_fixed(load_space(Path(options.space)), options.set)
    check_options(options, space)
    check_points(space)
    name = options.study or Path(options.space).stem
    tracking.check_study_name(name)
    workdir = absolute(options.workdir)
    study_uri = f"{workdir}/studies/{name}"
    uri = tracking_uri(options.tracking_uri, workdir)
    location = storage_location(options, workdir, name)
    if options.warm_start is not None and not options.resume:
        earlier_study(options, workdir)  # before hours of preloading
    with (
        one_driver(location),
        patient_client(uri, study_uri) as client,
        ray_session(local=options.local, dashboard=options.workers_per_trial > 1),
    ):
        packing, room = plan_packing(
            options.workers_per_trial, options.cpus_per_worker, options.gpus_per_worker, ask_worker(hardware_here)
        )
        supply, stores = open_stores(options, space, workdir, packing.hardware)
        space = supply.space
        study = open_study(space, name, location, resume=options.resume, identity=study_identity(space, stores))
        claim_folder(study_uri, study_id(study), begun=has_begun(study))
        table = f"{study_uri}/images.parquet"
        write_table(supply.table, table)
        warm_start(options, space, study, workdir)
        run, ended = start_or_find(client, name, space, stores, study, resume=options.resume)
        run = study_with_images(client, run, stores.stores[0], options.images, table)
        log = StudyLog(client, run, space, options.num_trials or space.num_trials, study_uri=study_uri, ended=ended)
        with log.closing():
            shared = share(options, study, log, stores, packing)
            crowd = crowd_of(options, space, room, packing.hardware.device)
            shared = search_all(options, study, log, shared, crowd, supply)
            records = score(study, log, shared, front=options.confirm is None)
            leave_all(study, log, shared, records, with_backbone=options.with_backbone)
            with turn(study):
                leave_evidence(study_uri, supply.table, workdir, options.evidence)
            attach_pictures(study, log)
            ledger = study_ledger(space, shared.stores, records)
        log.end("FINISHED", ledger, records)
        result = study_result(log.study, records, ledger, uri, study_uri)
        with turn(study):  # drivers may share the study's folder and its files
            try:
                publish(result)
            except Exception as error:  # hours of searching are not lost for a picture
                why = without_secrets(f"{type(error).__name__}: {error}", uri)
                say(f"study {name}: its report could not be written ({why}); `report` writes it again")
            log_study_if_possible(study_uri, uri, options.register)
    return result


# --- the search -----------------------------------------------------------------------------------------------


def share(options: StudyOptions, study: optuna.Study, log: StudyLog, stores: Stores, packing: Packing) -> Shared:
    """What all trials of a study share; features that are there are brought to where they are read."""
    return Shared(
        space=log.space,
        stores=stores,
        reading=share_features(log.space, stores, options.read, host_disk(options.read_folder, study_id(study))),
        packing=packing,
        study_uri=log.study_uri,
        weights_root=str(Path.cwd()),
    )


def search_all(
    options: StudyOptions, study: optuna.Study, log: StudyLog, shared: Shared, crowd: Crowd, supply: Supply
) -> Shared:
    """Searches, repeats what was chosen, and trains again what is to be confirmed.

    Returns what is shared, with every store that a trial has asked for.
    """
    num_trials = log.num_trials
    with clearing_disks(shared.reading):
        shared = search(study, log, shared, num_trials, crowd, supply)
        if chosen := enqueue_chosen(shared.space, study):
            log.num_trials += chosen
            shared = search(study, log, shared, num_trials, crowd, supply)
        if options.confirm is not None:
            enqueue_confirmed(shared.space, study, options.confirm, options.repeats)
            shared = search(study, log, shared, num_trials, crowd, supply)
    return shared


def search(study: optuna.Study, log: StudyLog, shared: Shared, num_trials: int, crowd: Crowd, supply: Supply) -> Shared:
    """Runs trials until all drivers together have that many, and those that follow; then none runs anywhere.

    A trial whose store is not made waits until those that run have ended; then the store is made, with all cores.
    """
    losses, stopping = HostLosses(), None if shared.space.early_stopping == "none" else FairStopping(shared.space)
    searcher = StudySearcher(
        shared.space,
        study,
        shared.costs,
        log.refused,
        num_trials,
        log.disowned.__setitem__,
        losses.never_ran,
        lambda trial: shared.is_ready(trial),  # with the stores that are made by then
        lambda proposal, left: shared.most_together(proposal, crowd.most_together(left)),
    )
    with searcher.keeping_alive():
        while not searcher.is_done():
            run_trials(searcher, log, losses, stopping, shared, crowd.at_once)
            if searcher.held:
                (held, values), space = searcher.held[0], shared.space
                store = store_for(space.trial(values), shared.stores)
                say(f"trial {held.number} is the first to ask for the store {store.spec.name}, which is made now")
                shared = with_store(space.trial(values), shared, log, supply)
    for values in trained_values(study):  # of other drivers, too, which made the stores of their trials
        shared = with_store(shared.space.trial(values), shared, log, supply)
    log.ended = finished_trials(study)  # those of other drivers among them
    return shared


def with_store(trial: TrialConfig, shared: Shared, log: StudyLog, supply: Supply) -> Shared:
    """What is shared, with the store that serves a trial; it is made, unless it is there."""
    if shared.is_ready(trial):
        return shared
    with log.pause():
        shared = shared.with_stores(supply.made_for(trial, shared.stores), trial)
        log.study = study_with_stores(log.client, log.study, shared.stores)
    return shared


def run_trials(
    searcher: StudySearcher,
    log: StudyLog,
    losses: HostLosses,
    stopping: FairStopping | None,
    shared: Shared,
    at_once: int | None,
) -> None:
    """Runs what the searcher proposes until it proposes nothing more, or a trial whose store is to be made first."""
    # Tune hands these to its trials in a runtime environment, which Ray logs and lists. Workers have their nodes' own.
    class_cache.ENV_VARS_TO_PROPAGATE -= _KEYS
    failures = EndsTold(searcher, log)
    trainable = tune.with_parameters(run_trial, shared=shared)
    system, path = filesystem(shared.study_uri)
    tuner = tune.Tuner(
        tune.with_resources(trainable, lambda config: tune.PlacementGroupFactory([shared.resources(config)])),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=stopping,
            num_samples=-1,  # the searcher ends it
            max_concurrent_trials=at_once,
            reuse_actors=shared.packing.workers == 1,
            # By its number; Tune's own name is made of a proposal's fields, and cut off.
            trial_dirname_creator=lambda trial: f"trial-{unpack_proposal(trial.config).number:04d}",
        ),
        run_config=tune.RunConfig(
            name=f"tune-{uuid.uuid4().hex[:12]}",  # a clock that is set back gives a time twice
            storage_path=path,
            storage_filesystem=system,
            callbacks=[log, losses, failures],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            # A trial tells its own errors; what Tune sees is a worker that died, and goes on from its checkpoint.
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            verbose=0,
        ),
    )
    try:
        with disk_full_as_error(shared.study_uri):
            tuner.fit()
            failures.raise_first()
    except TuneError as error:  # its text is the traceback of what a callback, the searcher or the storage raised
        with failure_as_error(shared.study_uri):
            raise error.__context__ if isinstance(error.__context__, ConfigError | OSError) else error from None
    log.client.settle()


# --- after it -------------------------------------------------------------------------------------------------


def score(study: optuna.Study, log: StudyLog, shared: Shared, *, front: bool) -> list[TrialRecord]:
    """Reads the study's trials and the test split: for the front's members, and for what confirms others.

    Returns all trials with their scores. Without ``front``, only what was confirmed is scored. Of several drivers the
    first scores, and the others find its scores.
    """
    with turn(study):
        wait_for_records(log, study)
        records = score_missing(log, shared, front=front)
        log.client.settle()
    return records


def attach_pictures(study: optuna.Study, log: StudyLog) -> None:
    """Optuna's own, to the study's run."""
    for page in draw_study_pictures(study, log.space, own_folder(log.study_uri)):
        tracking.attach(log.client, log.study.run_id, page)


def wait_for_records(log: StudyLog, study: optuna.Study) -> None:
    """Waits until other drivers have told MLflow how their trials ended; what the dead left open is closed for them."""
    ended = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
    until = time.monotonic() + _RECORDS_SECONDS
    while time.monotonic() < until:
        records = tracking.read_trials(log.client, log.study)
        if all(record.status != "RUNNING" or record.number not in ended for record in records):
            return
        time.sleep(1)
    close_as_stored(log.client, log.study, study)


def score_missing(log: StudyLog, shared: Shared, *, front: bool) -> list[TrialRecord]:
    """The records of all trials with their scores; those that are missing are read from the test split."""
    space = shared.space
    records = tracking.read_trials(log.client, log.study)
    if front:
        for found in score_shown(records, shared):
            records = log.scored([found], records)
        kind = "rows" if space.sampler == "grid" else "front"
        say(f"{kind}: {len(shown_trials(records, space))} of {log.ended} trials, test scores computed once")
    if confirmed := score_confirmed(records, shared):
        records = log.scored(confirmed, records)
        say(f"confirmed: {len(confirmed)} of {log.ended} trials, test split read for these alone")
    return records
