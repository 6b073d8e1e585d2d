"""A search in rungs: cheap methods come first, and what they find leads the dear ones.

Within a rung the study's sampler proposes as in a study of its own, over the rung's part of the space and from the
trials of that rung alone: the best learning rate of a probe says nothing of a side network's. What the rungs below have
found comes in by the rung's first points and by the values that it keeps to. Proposals are enqueued, so that a driver
that dies loses none, and whichever driver asks next takes them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from fpt_ray.config.rungs import Rung
from fpt_ray.config.space import SearchSpace
from fpt_ray.display.terminal import say
from fpt_ray.search.attributes import counts, is_infeasible, purpose, rung_of, val_score
from fpt_ray.search.optuna_study import directions, keeping_to, make_sampler, propose, proposed_before
from fpt_ray.search.queue import paper_point


def rung_to_ask(space: SearchSpace, study: optuna.Study) -> int | None:
    """The rung of the next trial; None while a rung below it still runs. Beyond all of them it is the last one's."""
    for number, rung in enumerate(space.rungs):
        own = _of_rung(study, number)
        if sum(not is_infeasible(trial) for trial in own) < rung.num_trials or number == len(space.rungs) - 1:
            return number
        if not all(trial.state.is_finished() for trial in own):
            return None
    return None


def left_in_rung(space: SearchSpace, study: optuna.Study) -> int:
    """How many trials of the rung that is due are to be asked yet."""
    number = rung_to_ask(space, study)
    if number is None:
        return 0
    own = sum(not is_infeasible(trial) for trial in _of_rung(study, number))
    return max(0, space.rungs[number].num_trials - own)


def enqueue_next(
    space: SearchSpace, study: optuna.Study, fixed: Mapping[str, Any] | None = None, *, at_random: bool
) -> None:
    """Enqueues a trial of the rung that is due; none while the rung below it runs, or where one waits.

    Unless it is one of the rung's first points, it keeps to the fixed values.
    """
    number = rung_to_ask(space, study)
    if number is None or study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        return
    rung, own = space.rungs[number], _of_rung(study, number)
    found = best_below(space, study, number)
    part = narrowed(space, rung, found)
    if not own:
        _say_rung(space, number, found)
    asked = len(study.get_trials(deepcopy=False))
    sampler = RandomSampler(seed=asked) if at_random else make_sampler(part, asked)
    paper = paper_point(part)
    first = [{**paper, **values} for values in found.values()] or [paper]
    point = first[len(own)] if len(own) < len(first) and not at_random else None
    values = _drawn(part, own, keeping_to(fixed, sampler), point)
    study.enqueue_trial(values, user_attrs=purpose("final", rung=number))


def best_below(space: SearchSpace, study: optuna.Study, number: int) -> Mapping[int, dict[str, Any]]:
    """{trial: the values of the rows that a rung narrows} of the best trials below it, no two of the same values."""
    rung = space.rungs[number]
    below = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if rung_of(trial) in range(number) and counts(trial, space) and set(rung.narrow) <= set(trial.params)
    ]
    found: dict[int, dict[str, Any]] = {}
    for trial in sorted(below, key=lambda trial: (-val_score(trial, space), trial.number)):
        values = {name: trial.params[name] for name in rung.narrow}
        if rung.narrow and values not in found.values() and len(found) < rung.best:
            found[trial.number] = values
    return found


def narrowed(space: SearchSpace, rung: Rung, found: Mapping[int, Mapping[str, Any]]) -> SearchSpace:
    """The part of a space that a rung searches, by what the rungs below have found."""
    kept: dict[str, tuple[Any, ...]] = {name: (value,) for name, value in rung.fixed.items()}
    for name in rung.narrow if found else ():
        kept[name] = tuple(dict.fromkeys(values[name] for values in found.values()))
    rows = tuple(
        dataclasses.replace(row, low=None, high=None, step=None, log=False, choices=kept[row.name])
        if row.name in kept
        else row
        for row in space.rows
    )
    return dataclasses.replace(space, rows=rows, num_trials=rung.num_trials, rungs=())


def _drawn(
    part: SearchSpace, own: list[FrozenTrial], sampler: BaseSampler, point: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What a sampler proposes that knows a rung's trials alone, or a point as far as its rows are active."""
    study = optuna.create_study(directions=directions(part), sampler=sampler)
    for trial in own:
        if trial.state.is_finished():
            study.add_trial(_within(part, trial))
    if point is not None:
        study.enqueue_trial(dict(point))
    return propose(part, study.ask())


def _within(part: SearchSpace, trial: FrozenTrial) -> FrozenTrial:
    """A trial that has ended, as one of a study that searches this part of the space alone."""
    known = proposed_before(part, trial.params)
    return create_trial(
        state=trial.state,
        values=trial.values,
        params=known.params,
        distributions=known.distributions,
        constraints=trial.constraints,
    )


def _of_rung(study: optuna.Study, number: int) -> list[FrozenTrial]:
    """The trials of a rung that are asked, run, or have ended with a result or a reason."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if rung_of(trial) == number and trial.state != TrialState.FAIL]


def _say_rung(space: SearchSpace, number: int, found: Mapping[int, Mapping[str, Any]]) -> None:
    rung = space.rungs[number]
    say(f"rung {number + 1} of {len(space.rungs)}: {rung}; {rung.num_trials} trials")
    for trial, values in found.items():
        say(f"  from trial {trial}: {', '.join(f'{name} {value}' for name, value in values.items())}")
    if rung.narrow and not found:
        say(f"  no trial below it has {', '.join(rung.narrow)} and a result, so that nothing is narrowed")
