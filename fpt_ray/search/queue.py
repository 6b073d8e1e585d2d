"""What a study asks first, or again: a grid, an earlier front, chosen points, confirmations."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from fpt_ray.config.dotted import flatten
from fpt_ray.config.space import POINT, SearchRow, SearchSpace
from fpt_ray.config.trial import TrialConfig
from fpt_ray.metrics.pareto import pareto_front
from fpt_ray.search.attributes import asked_values, confirms, counts, feasible, purpose, stage_of, val_score


def enqueue_grid(space: SearchSpace, study: optuna.Study) -> None:
    """Enqueues the points of a grid that are not there: all, or those that a driver lost as it died.

    Those of one shape, which may train as one model, come one after the other.
    """
    trials = study.get_trials(deepcopy=False)
    known = {_key(asked_values(trial)) for trial in trials if trial.state != TrialState.FAIL}
    shapes: dict[str, list[dict[str, Any]]] = {}
    for point in space.grid():
        shapes.setdefault(json.dumps(space.shape_of(point) or point), []).append(point)
    for proposal in itertools.chain(*shapes.values()):
        if _key(proposal) not in known:
            study.enqueue_trial(proposal, user_attrs=purpose("choose" if space.choose else "final"))


def _key(values: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    """Equal for equal values, to be looked up among thousands."""
    return frozenset(values.items())


def enqueue_front(space: SearchSpace, study: optuna.Study, other: optuna.Study) -> int:
    """Enqueues the front of an earlier study, as far as its values lie in this space; returns how many points."""
    points: list[dict[str, Any]] = []
    for trial in other.best_trials:  # Optuna's own front is of feasible trials alone
        point = _as_proposed(space, trial.params)
        if point is not None and point not in points:  # a confirmed point stands there twice
            points.append(point)
    for point in points:
        study.enqueue_trial(point, skip_if_exists=True)
    return len(points)


def _as_proposed(space: SearchSpace, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the space would propose of these values: a point and its active rows; None where one is not of the space."""
    if space.points and values.get(POINT) not in space.points:
        return None
    proposal = {POINT: values[POINT]} if space.points else {}
    for row in space.rows:
        if row.active(flatten(space.trial(proposal))):
            if row.name not in values or not row.holds(values[row.name]):
                return None
            proposal[row.name] = values[row.name]
    return proposal


def enqueue_chosen(space: SearchSpace, study: optuna.Study) -> int:
    """Enqueues the best of each group of grid points that differ in chosen rows only, to be repeated.

    Returns how many there are in all, those of an interrupted session included. A group none of whose points came to a
    result is enqueued with its first point, so that a table shows why it is empty.
    """
    if not space.choose:
        return 0
    best: dict[str, optuna.trial.FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        if stage_of(trial) == "choose":
            key = json.dumps({name: value for name, value in trial.params.items() if name not in space.choose})
            best[key] = max(
                best.get(key, trial), trial, key=lambda one: (feasible(one, space.constraints), val_score(one, space))
            )
    known = {_key(asked_values(trial)) for trial in _final(study)}
    for trial in best.values():
        if _key(trial.params) not in known:
            study.enqueue_trial(trial.params, user_attrs=purpose("final"))
    return len(best)


def _final(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if stage_of(trial) == "final" and trial.state != TrialState.FAIL]


def enqueue_confirmed(space: SearchSpace, study: optuna.Study, most: int, repeats: int) -> list[int]:
    """Enqueues the best trials by validation score to be trained again with new seeds; returns the new ones' numbers.

    With several objectives they are of the front, with one they are the best of all finished ones. Those that were
    confirmed before, or are enqueued for it, are left as they are; trials that differ in their seed alone count as one.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if counts(trial, space)]
    if len(space.objectives) > 1 and trials:
        points = np.array([trial.values for trial in trials], np.float64)
        on_front = pareto_front(points, tuple(space.objectives.values()))
        trials = [trial for trial, is_on in zip(trials, on_front, strict=True) if is_on]
    trials.sort(key=lambda trial: (-val_score(trial, space), trial.number))
    best: dict[str, optuna.trial.FrozenTrial] = {}
    for trial in trials:
        best.setdefault(json.dumps(_but_seed(trial.params), sort_keys=True), trial)
    known = [
        _but_seed(asked_values(trial))
        for trial in study.get_trials(deepcopy=False)
        if confirms(trial) is not None and trial.state != TrialState.FAIL
    ]
    new = [trial for trial in list(best.values())[:most] if _but_seed(trial.params) not in known]
    for trial in new:
        study.enqueue_trial(trial.params, user_attrs=purpose("confirm", repeats=repeats, confirms=trial.number))
    return [trial.number for trial in new]


def _but_seed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "training.seed"}


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


def earlier_twin(study: optuna.Study, trial: optuna.Trial) -> int | None:
    """The number of an earlier trial of the same point and stage that has ended, runs, or waits."""
    trials, stage = study.get_trials(deepcopy=False), stage_of(trial)
    own, params = asked_values(trials[trial.number]), trial.params  # Optuna copies these each time
    for other in trials[: trial.number]:
        same = other.params == params or asked_values(other) in (params, own)
        if same and other.state != TrialState.FAIL and stage_of(other) == stage:
            return other.number
    return None
