"""A study in Optuna's storage: opened or resumed, its first points, what is left of it after its driver died.

Optuna's storage is the truth of a search. It is a journal, a local file or on S3, written by one driver at a time, or
any database that Optuna's RDB storage takes, which several drivers may share.
"""

import threading
import time
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.trial import TrialState

from fpt_ray.config.identity import Identity
from fpt_ray.config.space import SearchSpace
from fpt_ray.display.terminal import without_secrets
from fpt_ray.errors import ConfigError
from fpt_ray.search.attributes import asked_values, purpose_of
from fpt_ray.search.identity import begin, check_same_question
from fpt_ray.search.journal import journal_file, open_journal
from fpt_ray.search.queue import enqueue_grid, paper_point
from fpt_ray.storage.files import is_location

_HEARTBEAT_SECONDS = 30


def open_storage(location: str) -> BaseStorage:
    """A journal by its path or s3:// location, or a database by its URL (dialect://...), which holds many studies.

    Raises:
        ConfigError: the database cannot be reached; the message leaves its password out.
    """
    if is_location(location):
        return JournalStorage(open_journal(location))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats are marked so since Optuna 3
            return RDBStorage(location, heartbeat_interval=_HEARTBEAT_SECONDS)
    except Exception as error:  # SQLAlchemy and the database's driver raise what they like
        problem = f"the database at {without_secrets(location)} cannot be opened ({type(error).__name__})"
        raise ConfigError(f"storage or FPT_RAY_STORAGE: {problem}", fields=("storage",)) from None


def _may_be_there(location: str) -> bool:
    """Whether to look for a study: a file would be made by looking, and what lies elsewhere answers for itself."""
    file = journal_file(location)
    return file is None or file.exists()


def open_study(
    space: SearchSpace, name: str, location: str, *, resume: bool, identity: Identity | None = None
) -> optuna.Study:
    """The study in its storage, new or resumed.

    A new study starts with the paper's configuration, or the point of the space nearest to it; a grid with all its
    points. In a resumed one, trials that a dead driver left running are closed and asked again. ``identity`` is all
    that decides what the study answers. Default: the space's, where no features are read.

    Raises:
        ConfigError: the study exists and is not to be resumed, or the other way round; or it was begun with another
            identity.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(location) if _may_be_there(location) or not resume else None
    found = storage is not None and name in optuna.get_all_study_names(storage)
    if found != resume:
        state, remedy = ("exists", "resume it") if found else ("is not there", "start it without resume")
        problem = f"study {name!r} {state} ({without_secrets(location)}); {remedy}, or choose another name"
        raise ConfigError(problem, fields=("resume", "study") if found else ("study",))
    identity = space.identity() if identity is None else identity
    if not resume:
        directions = ["maximize" if mode == "max" else "minimize" for mode in space.objectives.values()]
        study = optuna.create_study(
            storage=storage, study_name=name, sampler=make_sampler(space, 0), directions=directions
        )
        begin(study, identity)
    else:
        study = optuna.load_study(storage=storage, study_name=name, sampler=make_sampler(space, 0))
        check_same_question(study, identity)
        _ask_again(study, shared=not is_location(location))
    if space.sampler == "grid":
        enqueue_grid(space, study)
    elif not study.get_trials(deepcopy=False):
        study.enqueue_trial(dict(paper_point(space)))
    return study


def keep_alive(study: optuna.Study, trials: Mapping[str, optuna.Trial]) -> None:
    """Says every half a minute, from a thread, that these trials run, so that no other driver takes them for dead.

    Optuna does so itself within ``Study.optimize`` only. A journal file has one driver and needs none of it.
    """
    storage: Any = study._storage
    storage = getattr(storage, "_backend", storage)
    if not isinstance(storage, RDBStorage):
        return

    def beat() -> None:
        while True:
            for trial in list(trials.values()):
                storage.record_heartbeat(trial._trial_id)
            time.sleep(_HEARTBEAT_SECONDS)

    threading.Thread(target=beat, daemon=True, name="heartbeat").start()


def load_study(name: str, location: str) -> optuna.Study:
    """A finished or running study, to read from; ConfigError where there is none."""
    if _may_be_there(location):
        storage = open_storage(location)
        if name in optuna.get_all_study_names(storage):
            return optuna.load_study(study_name=name, storage=storage)
    raise ConfigError(f"study {name!r} is not there ({without_secrets(location)}); give the name of an earlier study")


def _ask_again(study: optuna.Study, *, shared: bool) -> None:
    """Closes what a dead driver left running. Where several drivers share a study, only what has lost its heartbeat."""
    before = {trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,))}
    if shared:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)
    else:
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        if trial.number not in before:
            study.enqueue_trial(asked_values(trial), user_attrs=purpose_of(trial))


def make_sampler(space: SearchSpace, num_asked: int) -> BaseSampler:
    """Optuna's sampler of that name; a third of the trials, at most ten, are drawn at random first.

    Its seed follows from the space's and from how many trials the storage holds, so that the same state of a study
    makes the same proposal, whichever driver asks.
    """
    startup = max(2, min(10, space.num_trials // 3))
    seed = space.seed * 1_000_003 + num_asked
    samplers: Mapping[str, Any] = {
        "tpe": lambda: TPESampler(seed=seed, n_startup_trials=startup),
        "nsga2": lambda: NSGAIISampler(seed=seed, population_size=max(4, startup)),
        "gp": lambda: GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False),
        "random": lambda: RandomSampler(seed=seed),
        "grid": lambda: RandomSampler(seed=seed),  # every proposal is enqueued
    }
    return samplers[space.sampler]()
