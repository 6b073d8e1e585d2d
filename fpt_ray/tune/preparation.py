"""What a study needs before it begins: options and points that can be run, its storage, first points."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from fpt_ray.config.dotted import flatten
from fpt_ray.config.space import POINT, SearchRow, SearchSpace
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.models.methods import check_trial
from fpt_ray.models.weights import check_packable
from fpt_ray.search.attributes import has_begun
from fpt_ray.search.optuna_study import load_study
from fpt_ray.search.queue import enqueue_front, paper_point
from fpt_ray.tracking.models import check_model_name
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.resources import Crowd

_TOGETHER_OF_A_GRID = 8
_BATCH_SIZE = "training.batch_size"


def check_options(options: StudyOptions, space: SearchSpace) -> None:
    """ConfigError if nothing could be searched, confirmed or run with these options."""
    for name, number in (
        ("num_trials", options.num_trials),
        ("confirm", options.confirm),
        ("repeats", options.repeats),
        ("at_once", options.at_once),
        ("together", options.together),
        ("workers_per_trial", options.workers_per_trial),
    ):
        if number is not None and number < 1:
            raise ConfigError(f"{name} is {number}; give 1 or more", fields=(name,))
    if options.workers_per_trial > 1:
        _check_shares(space, options.workers_per_trial)
    for name, share in (("cpus_per_worker", options.cpus_per_worker), ("gpus_per_worker", options.gpus_per_worker)):
        if share is not None and share <= 0:
            raise ConfigError(f"{name} is {share:g}; give more than 0, or leave it out", fields=(name,))
    if options.evidence < 0:
        raise ConfigError(f"evidence is {options.evidence}; give the number of images, 0 or more", fields=("evidence",))
    if options.register is not None:
        check_model_name(options.register)
    if options.with_backbone:
        for need in space.stores():
            check_packable(need.trial.backbone)
    if options.warm_start is not None and space.rungs:
        problem = f"warm_start is {options.warm_start}, but the rungs of the space have first points of their own"
        raise ConfigError(problem, fields=("warm_start",))


def _check_shares(space: SearchSpace, workers: int) -> None:
    """ConfigError where workers cannot share a batch of the space equally: its trials would all be refused there."""
    sizes = [value for row in space.rows if row.name == _BATCH_SIZE for value in _values(row)]
    for name in space.points or (None,):
        proposal = _proposal_with(space, {} if name is None else {POINT: name}, {})
        sizes.append(space.trial(proposal).training.batch_size)
    for size in sizes:
        if size % workers:
            raise ConfigError(
                f"workers_per_trial is {workers}, which cannot share a batch of {size} equally; give a number that "
                f"divides it, or other values of {_BATCH_SIZE}",
                fields=("workers_per_trial", _BATCH_SIZE),
            )


def crowd_of(options: StudyOptions, space: SearchSpace, room: int | None, device: str) -> Crowd:
    """How many trials run at a time, as it was asked, or by the room that there is and the device of the workers."""
    together = options.together or (_TOGETHER_OF_A_GRID if space.sampler == "grid" else 1)
    spread = options.together is None and device == "cpu"  # processes of a GPU share it, those of cores have their own
    return Crowd(at_once=options.at_once or room, together=together, spread=spread)


def check_points(space: SearchSpace) -> None:
    """ConfigError if some value of the space cannot be built on its backbone."""
    if space.sampler == "grid":
        for proposal in space.grid():
            check_trial(space.trial(proposal))
        return
    for name in space.points or (None,):
        for row in space.rows:
            for value in _values(row):
                proposal = _proposal_with(space, {} if name is None else {POINT: name}, {row.name: value})
                check_trial(space.trial(proposal))


def _values(row: SearchRow) -> Sequence[Any]:
    """All values of a row; of a range without steps its ends."""
    return (row.low, row.high) if row.choices is None and row.step is None else row.values()


def _proposal_with(space: SearchSpace, point: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A proposal in which rows have what is wanted, unless the point rules them out; others are near the paper's."""
    middle, rows = paper_point(space), {row.name: row for row in space.rows}
    chosen, waiting = dict(wanted), [rows[name] for name in wanted]
    while waiting:
        for name, values in waiting.pop().when.items():
            if name in rows and name not in chosen:
                chosen[name] = middle[name] if middle[name] in values else values[0]
                waiting.append(rows[name])
    proposal = dict(point)
    for row in space.rows:
        if row.active(flatten(space.trial(proposal))):
            proposal[row.name] = chosen.get(row.name, middle[row.name])
    return proposal


def storage_location(options: StudyOptions, workdir: str, study: str) -> str:
    """Where a study is stored: a database's URL, or its own journal.

    The URL comes from the command line or, with its password, from the environment.
    """
    return options.storage or os.environ.get("FPT_RAY_STORAGE") or f"{workdir}/studies/{study}/optuna.log"


def earlier_study(options: StudyOptions, workdir: str) -> optuna.Study:
    """The study that another is begun from; ConfigError where there is none."""
    name = options.warm_start or ""
    return load_study(name, storage_location(options, workdir, name))


def warm_start(options: StudyOptions, space: SearchSpace, study: optuna.Study, workdir: str) -> None:
    """Enqueues the front of an earlier study, once: a study that has begun stays as it is, which is said."""
    if options.warm_start is None:
        return
    if has_begun(study):
        say(f"warm start: the study has begun, so that no points of {options.warm_start} are added")
        return
    other = earlier_study(options, workdir)
    taken = enqueue_front(space, study, other)
    say(
        f"warm start: {taken} of {len(other.best_trials)} points of the front of {options.warm_start} lie in this space"
    )
