"""What a study needs before it begins: options and points that can be run, its storage, first points."""

import os
from collections.abc import Mapping
from typing import Any

import optuna

from fpt_ray.config.dotted import flatten
from fpt_ray.config.space import POINT, SearchSpace
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.models.methods import check_trial
from fpt_ray.models.weights import check_packable
from fpt_ray.search.optuna_study import load_study
from fpt_ray.search.queue import enqueue_front, paper_point
from fpt_ray.tracking.models import check_model_name
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.resources import Crowd

_TOGETHER_OF_A_GRID = 8


def check_options(options: StudyOptions, space: SearchSpace) -> None:
    """ConfigError if nothing could be searched, confirmed or run with these options."""
    for name, number in (
        ("confirm", options.confirm),
        ("repeats", options.repeats),
        ("at_once", options.at_once),
        ("together", options.together),
        ("workers_per_trial", options.workers_per_trial),
    ):
        if number is not None and number < 1:
            raise ConfigError(f"{name} is {number}; give 1 or more", fields=(name,))
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
            for value in (row.low, row.high) if row.choices is None and row.step is None else row.values():
                proposal = _proposal_with(space, {} if name is None else {POINT: name}, {row.name: value})
                check_trial(space.trial(proposal))


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


def warm_start(options: StudyOptions, space: SearchSpace, study: optuna.Study, workdir: str) -> None:
    """Enqueues the front of an earlier study, once, when this one is new."""
    if options.warm_start is None or options.resume:
        return
    other = load_study(options.warm_start, storage_location(options, workdir, options.warm_start))
    taken = enqueue_front(space, study, other)
    say(
        f"warm start: {taken} of {len(other.best_trials)} points of the front of {options.warm_start} lie in this space"
    )
