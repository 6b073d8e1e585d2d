"""A study in Optuna's storage: opened or resumed, its first points, what is left of it after its driver died.

Optuna's storage is the truth of a search. It is a journal, a local file or on S3, written by one driver at a time, or
any database that Optuna's RDB storage takes, which several drivers may share.
"""

import json
import math
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.trial import TrialState

from fpt_ray.config import ConfigError, TrialConfig, flatten
from fpt_ray.journal import JournalFile, S3Journal
from fpt_ray.metrics import pareto_front
from fpt_ray.space import POINT, SearchRow, SearchSpace
from fpt_ray.storage import is_s3
from fpt_ray.terminal import without_secrets

STAGE = "stage"
"""Attribute of a trial: "choose" while values are chosen on the validation split, "final" for what tables show,
"confirm" for what is trained again with new seeds."""
REPEATS, OF = "repeats", "of"
"""Attributes of a trial that confirms another: how many new seeds it trains, and the number of the other one."""
INFEASIBLE = "infeasible"
"""Attribute of a trial that broke a constraint before it was trained."""
RESULT = "result"
"""Attribute of a trial: its last numbers, whether it is complete or not."""
_HEARTBEAT_SECONDS = 30


def open_storage(location: str) -> BaseStorage:
    """A journal by its path or s3:// location, or a database by its URL (dialect://...), which holds many studies.

    Raises:
        ConfigError: the database cannot be reached; the message leaves its password out.
    """
    if is_s3(location):
        return JournalStorage(S3Journal(location))
    if not _is_database(location):
        Path(location).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFile(location))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats are marked so since Optuna 3
            return RDBStorage(location, heartbeat_interval=_HEARTBEAT_SECONDS)
    except Exception as error:  # SQLAlchemy and the database's driver raise what they like
        problem = f"the database at {without_secrets(location)} cannot be opened ({type(error).__name__})"
        raise ConfigError(f"--storage or FPT_RAY_STORAGE: {problem}") from None


def _is_database(location: str) -> bool:
    return "://" in location and not is_s3(location)


def open_study(space: SearchSpace, name: str, location: str, *, resume: bool) -> optuna.Study:
    """The study in its storage, new or resumed.

    A new study starts with the paper's configuration, or the point of the space nearest to it; a grid with all its
    points. In a resumed one, trials that a dead driver left running are closed and asked again.

    Raises:
        ConfigError: the study exists and is not to be resumed, or the other way round.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    there = "://" in location or Path(location).exists()
    storage = open_storage(location) if there or not resume else None
    found = storage is not None and name in optuna.get_all_study_names(storage)
    if found != resume:
        state, remedy = ("exists", "continue it with --resume") if found else ("is not there", "leave out --resume")
        raise ConfigError(f"study {name!r} {state} ({without_secrets(location)}); {remedy}, or choose another --study")
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        sampler=make_sampler(space, 0),
        directions=["maximize" if mode == "max" else "minimize" for mode in space.objectives.values()],
        load_if_exists=resume,
    )
    if resume:
        _ask_again(study, shared=_is_database(location))
    if space.sampler == "grid":
        _enqueue_grid(space, study)
    elif not study.get_trials(deepcopy=False):
        study.enqueue_trial(dict(paper_point(space)))
    return study


def _enqueue_grid(space: SearchSpace, study: optuna.Study) -> None:
    """Enqueues the points of a grid that are not there: all, or those that a driver lost as it died."""
    known = [_asked(trial) for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]
    for proposal in space.grid():
        if proposal not in known:
            study.enqueue_trial(proposal, user_attrs={STAGE: "choose" if space.choose else "final"})


def _asked(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """The values of a trial; of one that was enqueued, those, though it may have died before it took them all."""
    return trial.system_attrs.get("fixed_params", trial.params)


def val_auc(trial: optuna.trial.FrozenTrial) -> float:
    """The validation AUC of a trial's last result; minus infinity where it has none."""
    return trial.user_attrs.get(RESULT, {}).get("val_auc", -math.inf)


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
    if "://" in location or Path(location).exists():
        storage = open_storage(location)
        if name in optuna.get_all_study_names(storage):
            return optuna.load_study(study_name=name, storage=storage)
    raise ConfigError(f"study {name!r} is not there ({without_secrets(location)}); give the name of an earlier study")


def enqueue_front(space: SearchSpace, study: optuna.Study, other: optuna.Study) -> int:
    """Enqueues the front of an earlier study, as far as its values lie in this space; returns how many points."""
    names = {row.name for row in space.rows}
    points: list[dict[str, Any]] = []
    for trial in other.best_trials:
        if names <= set(trial.params) and trial.params not in points:  # a confirmed point stands there twice
            points.append(trial.params)
    inside = [point for point in points if all(row.holds(point[row.name]) for row in space.rows)]
    for point in inside:
        study.enqueue_trial({name: point[name] for name in names}, skip_if_exists=True)
    return len(inside)


def enqueue_chosen(space: SearchSpace, study: optuna.Study) -> int:
    """Enqueues the best of each group of grid points that differ in chosen rows only, to be repeated.

    Returns how many there are in all, those of an interrupted session included. A group none of whose points came to a
    result is enqueued with its first point, so that a table shows why it is empty.
    """
    if not space.choose:
        return 0
    best: dict[str, optuna.trial.FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        if trial.user_attrs.get(STAGE) == "choose":
            key = json.dumps({name: value for name, value in trial.params.items() if name not in space.choose})
            best[key] = max(best.get(key, trial), trial, key=val_auc)
    known = [_asked(trial) for trial in _final(study)]
    for trial in best.values():
        if trial.params not in known:
            study.enqueue_trial(trial.params, user_attrs={STAGE: "final"})
    return len(best)


def _final(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.user_attrs.get(STAGE) == "final" and trial.state != TrialState.FAIL]


def enqueue_confirmed(space: SearchSpace, study: optuna.Study, most: int, repeats: int) -> list[int]:
    """Enqueues the best trials by validation AUC to be trained again with new seeds; returns the numbers of the new.

    With several objectives they are of the front, with one they are the best of all finished ones. Those that were
    confirmed before, or are enqueued for it, are left as they are.
    """
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if trial.user_attrs.get(STAGE, "final") == "final"
        and all(excess <= 0 for excess in trial.constraints.values())
        and math.isfinite(val_auc(trial))
    ]
    if len(space.objectives) > 1 and trials:
        points = np.array([trial.values for trial in trials], np.float64)
        on_front = pareto_front(points, tuple(space.objectives.values()))
        trials = [trial for trial, is_on in zip(trials, on_front, strict=True) if is_on]
    trials.sort(key=lambda trial: (-val_auc(trial), trial.number))
    best: dict[str, optuna.trial.FrozenTrial] = {}
    for trial in trials:
        best.setdefault(json.dumps(trial.params, sort_keys=True), trial)
    known = [
        _asked(trial)
        for trial in study.get_trials(deepcopy=False)
        if OF in trial.user_attrs and trial.state != TrialState.FAIL
    ]
    new = [trial for trial in list(best.values())[:most] if trial.params not in known]
    for trial in new:
        study.enqueue_trial(trial.params, user_attrs={STAGE: "confirm", REPEATS: repeats, OF: trial.number})
    return [trial.number for trial in new]


def confirmations_waiting(study: optuna.Study) -> int:
    """Trials that are enqueued to confirm others."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return sum(OF in trial.user_attrs for trial in waiting)


def finished_trials(study: optuna.Study) -> int:
    """Trials that have ended with a result or a reason; what was refused before training, or confirms another trial,
    does not count."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return sum(INFEASIBLE not in trial.user_attrs and OF not in trial.user_attrs for trial in trials)


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
            kept = {name: trial.user_attrs[name] for name in (STAGE, REPEATS, OF) if name in trial.user_attrs}
            study.enqueue_trial(_asked(trial), user_attrs={STAGE: "final", **kept})


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


def paper_point(space: SearchSpace) -> Mapping[str, Any]:
    """The paper's configuration (section 4.2.1) as a point of the space; a value out of range moves to the nearest."""
    paper = flatten(TrialConfig())
    first = {POINT: next(iter(space.points))} if space.points else {}
    return first | {row.name: _nearest(row, paper[row.name]) for row in space.rows}


def _nearest(row: SearchRow, value: Any) -> Any:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if row.choices is not None:
        if value in row.choices or not numeric:
            return value if value in row.choices else row.choices[0]
        return min(row.choices, key=lambda choice: abs(choice - value))  # type: ignore[operator]
    assert row.low is not None
    assert row.high is not None
    if row.step is not None:
        return min(row.values(), key=lambda choice: abs(choice - value))
    return min(max(value, row.low), row.high)
