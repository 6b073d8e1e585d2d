"""A study in Optuna's storage: opened or resumed, its first points, what is left of it after its driver died.

Optuna's storage is the truth of a search. It is a journal, a local file or on S3, written by one driver at a time, or
any database that Optuna's RDB storage takes, which several drivers may share.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import BaseTrial, FixedTrial

from fpt_ray.config.dotted import flatten
from fpt_ray.config.identity import Identity
from fpt_ray.config.space import POINT, SearchRow, SearchSpace
from fpt_ray.display.terminal import without_secrets
from fpt_ray.errors import ConfigError
from fpt_ray.search.drivers import close_all, close_lost, may_be_shared, open_database
from fpt_ray.search.identity import begin, check_same_question
from fpt_ray.search.journal import journal_file, open_journal
from fpt_ray.search.queue import enqueue_grid, paper_point
from fpt_ray.storage.files import is_location


def open_storage(location: str) -> BaseStorage:
    """A journal by its path or s3:// location, or a database by its URL (dialect://...), which holds many studies.

    Raises:
        ConfigError: the database cannot be reached; the message leaves its password out.
    """
    if is_location(location):
        return JournalStorage(open_journal(location))
    try:
        return open_database(location)
    except ConfigError:
        raise
    except Exception as error:  # SQLAlchemy and the database's driver raise what they like
        problem = f"the database at {without_secrets(location)} cannot be opened ({type(error).__name__})"
        raise ConfigError(f"storage or FPT_RAY_STORAGE: {problem}", fields=("storage",)) from None


def _may_be_there(location: str) -> bool:
    """Whether to look for a study: a file would be made by looking, and what lies elsewhere answers for itself."""
    file = journal_file(location)
    return file is None or file.exists()


def is_begun(name: str, location: str) -> bool:
    """Whether a study of this name is in its storage.

    Raises:
        ConfigError: the database cannot be reached.
    """
    return _may_be_there(location) and name in optuna.get_all_study_names(open_storage(location))


def open_study(
    space: SearchSpace, name: str, location: str, *, resume: bool, identity: Identity | None = None
) -> optuna.Study:
    """The study in its storage, new or resumed.

    A new study starts with the paper's configuration, or the point of the space nearest to it; a grid with all its
    points; one with rungs as ``search.ladder`` says. In a resumed one, trials that a dead driver left running are
    closed and asked again. ``identity`` is all that decides what the study answers. Default: the space's, where no
    features are read.

    Raises:
        ConfigError: the study exists and is not to be resumed, or the other way round; or it was begun with another
            identity.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(location) if _may_be_there(location) or not resume else None
    found = storage is not None and name in optuna.get_all_study_names(storage)
    if storage is None or found != resume:
        raise _not_opened(name, location, found=found)
    identity = space.identity() if identity is None else identity
    if resume:
        study = optuna.load_study(storage=storage, study_name=name, sampler=make_sampler(space, 0))
        check_same_question(study, identity)
        (close_lost if may_be_shared(location) else close_all)(study)
    else:
        study = _begun(space, name, location, storage)
        begin(study, identity)
    if space.sampler == "grid":
        enqueue_grid(space, study)
    elif not space.rungs and not study.get_trials(deepcopy=False):
        study.enqueue_trial(dict(paper_point(space)))
    return study


def _not_opened(name: str, location: str, *, found: bool) -> ConfigError:
    state, remedy = ("exists", "resume it") if found else ("is not there", "start it without resume")
    problem = f"study {name!r} {state} ({without_secrets(location)}); {remedy}, or choose another name"
    return ConfigError(problem, fields=("resume", "study") if found else ("study",))


def _begun(space: SearchSpace, name: str, location: str, storage: BaseStorage | None) -> optuna.Study:
    """A new study; ConfigError where another driver has begun it meanwhile."""
    try:
        return optuna.create_study(
            storage=storage,
            study_name=name,
            sampler=make_sampler(space, 0),
            directions=directions(space),
        )
    except optuna.exceptions.DuplicatedStudyError:
        raise _not_opened(name, location, found=True) from None


def load_study(name: str, location: str) -> optuna.Study:
    """A finished or running study, to read from; ConfigError where there is none."""
    if _may_be_there(location):
        storage = open_storage(location)
        if name in optuna.get_all_study_names(storage):
            return optuna.load_study(study_name=name, storage=storage)
    raise ConfigError(f"study {name!r} is not there ({without_secrets(location)}); give the name of an earlier study")


def directions(space: SearchSpace) -> list[StudyDirection]:
    """The objectives' modes in Optuna's words."""
    return [StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE for mode in space.objectives.values()]


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


def keeping_to(fixed: Mapping[str, Any] | None, sampler: BaseSampler) -> BaseSampler:
    """A sampler that keeps to some values, {dotted name: value}, and proposes the others."""
    if fixed is None:
        return sampler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return PartialFixedSampler(dict(fixed), sampler)


def propose(space: SearchSpace, trial: BaseTrial) -> dict[str, Any]:
    """The proposal's values, {dotted name: value}; rows whose condition does not hold are left out."""
    proposal: dict[str, Any] = {}
    if space.points:
        proposal[POINT] = trial.suggest_categorical(POINT, list(space.points))
    values: dict[str, Any] = flatten(space.trial(proposal))
    for row in space.rows:
        if row.active(values):
            proposal[row.name] = values[row.name] = _suggest(row, trial)
    return proposal


def proposed_before(space: SearchSpace, values: Mapping[str, Any]) -> FixedTrial:
    """A trial of values that this space once proposed. Which rows are active they say, where to ask takes long."""
    known = FixedTrial(dict(values))
    if space.points:
        known.suggest_categorical(POINT, list(space.points))
    for row in space.rows:
        if row.name in values:
            _suggest(row, known)
    return known


def _suggest(row: SearchRow, trial: BaseTrial) -> Any:
    if row.choices is not None:
        return trial.suggest_categorical(row.name, row.choices)
    assert row.low is not None
    assert row.high is not None
    if isinstance(row.low, int):
        return trial.suggest_int(row.name, row.low, int(row.high), step=int(row.step or 1), log=row.log)
    return trial.suggest_float(row.name, row.low, row.high, step=row.step, log=row.log)
