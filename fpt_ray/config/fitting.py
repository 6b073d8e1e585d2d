"""What a task asks of configurations and spaces: which scores and losses there are of it."""

from collections.abc import Iterable
from dataclasses import replace

import yaml

from fpt_ray.config.dotted import flatten
from fpt_ray.config.objectives import no_costs_of
from fpt_ray.config.space import POINT, SearchSpace
from fpt_ray.config.tasks import SCORES, SHARES, Target
from fpt_ray.config.trial import TrialConfig, override
from fpt_ray.errors import ConfigError

_VAL = "val_"
_OF_ONE_CLASS = ("binary", "multiclass", "ordinal")
"""Tasks of which an image has one class."""
_OPTIONS = {
    "loss.weights": ("none", (*_OF_ONE_CLASS, "multilabel")),
    "loss.focal_gamma": (0.0, (*_OF_ONE_CLASS, "multilabel")),
    "training.sampling": ("shuffled", _OF_ONE_CLASS),
}
"""{field: (its value without the option, the tasks that have it)}."""


def fitted(trial: TrialConfig, target: Target) -> TrialConfig:
    """The trial with the score that picks its best epoch, by its name.

    Raises:
        ConfigError: its score or its loss is not of the task.
    """
    values = flatten(trial)
    for name, (without, tasks) in _OPTIONS.items():
        if values[name] != without and target.task not in tasks:
            raise ConfigError(f"{name} is {values[name]!r}, which the task {target.task} has not; take {without!r}")
    asked = trial.training.select_by
    if asked not in ("auto", *target.scores):
        raise ConfigError(
            f"training.select_by is {asked!r}, no score of the task {target.task}; {_take(target.scores)}"
        )
    return override(trial, {"training.select_by": target.scores[0] if asked == "auto" else asked})


def check_batch(trial: TrialConfig, num_train: int) -> None:
    """ConfigError if there are fewer training images than a step of the trial takes."""
    size = trial.training.batch_size
    if trial.method != "knn" and size > num_train:
        raise ConfigError(
            f"training.batch_size is {size}, but there are {num_train} training images; take no more than these"
        )


def check_batches(space: SearchSpace, num_train: int) -> None:
    """``check_batch`` of the smallest batch that a space has: where that is too large, no trial of it can be trained.

    Of a space with ``knn``, which takes no step, some can.
    """
    rows = [row for row in space.rows if row.name == "training.batch_size"]
    sizes = [size for row in rows for size in (row.choices or (row.low,)) if isinstance(size, int)]
    trials = [space.trial({POINT: point} if point else {}) for point in space.points or ("",)]
    methods = {*space.values_of("method"), *(trial.method for trial in trials)}
    smallest = min([*(trial.training.batch_size for trial in trials), *sizes])
    if "knn" not in methods:
        check_batch(override(trials[0], {"training.batch_size": smallest}), num_train)


def fitted_space(space: SearchSpace, target: Target) -> SearchSpace:
    """The space with the score that picks the best epoch of all its trials, by its name.

    A space that says no objective has this score as its own.

    Raises:
        ConfigError: a score or a loss that it asks for is not of the task.
    """
    found = fitted(space.base(), target)
    for point in space.points:
        fitted(space.trial({POINT: point}), target)
    for row in space.rows:
        without, tasks = _OPTIONS.get(row.name, (None, (target.task,)))
        values = row.choices if row.choices is not None else (row.low, row.high)
        if target.task not in tasks and set(values) != {without}:
            raise ConfigError(f"space.{row.name}: the task {target.task} has it not; leave the row out")
    fixed = {**space.fixed, "training.select_by": found.training.select_by}
    space = replace(space, fixed=fixed)
    if "objectives" not in (yaml.safe_load(space.text) or {}):
        space = replace(space, objectives={space.score: "max"})
    _check_scores("objectives", space.objectives, target)
    _check_scores("constraints", space.constraints, target)
    for name in (*space.objectives, *space.constraints):
        if name in ("ppe", "pme") and found.training.select_by not in SHARES:
            raise ConfigError(f"{name}: {no_costs_of(found.training.select_by)}")
    return space


def _check_scores(where: str, names: Iterable[str], target: Target) -> None:
    known = [_VAL + name for name in target.scores]
    for name in names:
        if name.startswith(_VAL) and name not in known:
            raise ConfigError(f"{where}: {name} is no score of the task {target.task}; {_take(known)}")


def also_scored(space: SearchSpace) -> tuple[str, ...]:
    """The scores of the validation split that its objectives and constraints name beside the one that picks."""
    known = {name for names in SCORES.values() for name in names}
    asked = dict.fromkeys((*space.objectives, *space.constraints))
    return tuple(name.removeprefix(_VAL) for name in asked if name != space.score and name.removeprefix(_VAL) in known)


def _take(names: Iterable[str]) -> str:
    return f"take one of {', '.join(names)}"
