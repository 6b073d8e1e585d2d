"""What a study's storage remembers of a trial beside its values: Optuna's user attributes, each by one name."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from fpt_ray.config.objectives import Limit, broken_limits
from fpt_ray.config.space import SearchSpace
from fpt_ray.search.messages import Proposal, Stage

_STAGE, _REPEATS, _CONFIRMS, _RUNG, _TURN = "stage", "repeats", "of", "rung", "turn"
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_INFEASIBLE, _RESULT, _REASON = "infeasible", "result", "reason"
_FIXED = "fixed_params"
"""Optuna's own name."""
_PURPOSE = (_STAGE, _REPEATS, _CONFIRMS, _RUNG)


# --- why it is run ------------------------------------------------------------------------------------------------


def purpose(
    stage: Stage, *, repeats: int | None = None, confirms: int | None = None, rung: int | None = None
) -> dict[str, Any]:
    """The attributes of a trial that is enqueued: why, and of which rung.

    If it confirms another, with how many seeds and which.
    """
    found = {_STAGE: stage, _REPEATS: repeats, _CONFIRMS: confirms, _RUNG: rung}
    return {name: value for name, value in found.items() if value is not None}


def purpose_of(trial: FrozenTrial) -> dict[str, Any]:
    """The same of a trial that is there, for one that takes its place."""
    return purpose("final") | {name: trial.user_attrs[name] for name in _PURPOSE if name in trial.user_attrs}


def stage_of(trial: FrozenTrial | optuna.Trial) -> Stage:
    """Why a trial is run; one that the sampler proposed is final."""
    return cast(Stage, trial.user_attrs.get(_STAGE, "final"))


def repeats_of(trial: FrozenTrial | optuna.Trial) -> int:
    """New seeds of a trial that confirms another."""
    return trial.user_attrs[_REPEATS]


def confirms(trial: FrozenTrial | optuna.Trial) -> int | None:
    """The number of the trial that this one confirms; None where it confirms none."""
    return trial.user_attrs.get(_CONFIRMS)


def rung_of(trial: FrozenTrial) -> int | None:
    """The rung that a trial belongs to, from 0; None in a search without rungs."""
    return trial.user_attrs.get(_RUNG)


def proposal_of(
    trial: optuna.Trial, values: Mapping[str, Any], space: SearchSpace, costs: Mapping[str, float]
) -> Proposal:
    """A trial's values with its stage and seeds; one that confirms another takes seeds the search has not used.

    Seeds are counted from that of the trial itself.
    """
    stage, confirming = stage_of(trial), stage_of(trial) == "confirm"
    unused = space.unused_seed - space.trial(values).training.seed if confirming else 0
    return Proposal(
        number=trial.number,
        values=values,
        stage=stage,
        seeds=repeats_of(trial) if confirming else 1 if stage == "choose" else space.repeats,
        first_seed=unused,
        confirms=confirms(trial) if confirming else None,
        costs=costs,
    )


def turn_attributes() -> dict[str, Any]:
    """The attributes of a trial by which a driver waits its turn; it is never trained."""
    return {_TURN: True}


def is_turn(trial: FrozenTrial) -> bool:
    """Whether a driver waits its turn by this trial."""
    return _TURN in trial.user_attrs


def was_enqueued(trial: FrozenTrial) -> bool:
    """Whether a trial's values were given; else the sampler drew them."""
    return _FIXED in trial.system_attrs


def asked_values(trial: FrozenTrial) -> dict[str, Any]:
    """The values of a trial; of one that was enqueued, those, though it may have died before it took them all."""
    return trial.system_attrs.get(_FIXED, trial.params)


# --- what became of it --------------------------------------------------------------------------------------------


def remember_reason(trial: optuna.Trial, reason: str) -> None:
    """Keeps why a trial came to no result."""
    trial.set_user_attr(_REASON, reason)


def remember_infeasible(trial: optuna.Trial, costs: Mapping[str, float]) -> None:
    """Keeps what a trial would have cost that broke a constraint before it was trained."""
    trial.set_user_attr(_INFEASIBLE, dict(costs))


def remember_result(trial: optuna.Trial, metrics: Mapping[str, float]) -> None:
    """Keeps a trial's last numbers, whether it is complete or not."""
    trial.set_user_attr(_RESULT, dict(metrics))


def reason_of(trial: FrozenTrial) -> str | None:
    """Why a trial came to no result."""
    return trial.user_attrs.get(_REASON)


def is_infeasible(trial: FrozenTrial) -> bool:
    """Whether a trial broke a constraint before it was trained."""
    return _INFEASIBLE in trial.user_attrs


def result_of(trial: FrozenTrial) -> Mapping[str, float]:
    """A trial's last numbers; none where it had none."""
    return trial.user_attrs.get(_RESULT, {})


def feasible(trial: FrozenTrial, constraints: Mapping[str, Limit]) -> bool:
    """Whether a trial that was trained keeps to all constraints, those of its end in the storage included."""
    stored = all(excess <= 0 for excess in trial.constraints.values())
    return stored and not broken_limits(constraints, result_of(trial))


def counts(trial: FrozenTrial, space: SearchSpace) -> bool:
    """Whether a trial counts as a result of its study, as ``tracking.records.counted`` has it.

    It was trained to its end, keeps to the constraints, and does not only serve others.
    """
    ended = trial.state == TrialState.COMPLETE and math.isfinite(val_score(trial, space))
    return ended and stage_of(trial) == "final" and feasible(trial, space.constraints)


def val_score(trial: FrozenTrial, space: SearchSpace) -> float:
    """What picks the best of trials (``SearchSpace.score``) in a trial's last result; minus infinity without one."""
    return result_of(trial).get(space.score, -math.inf)


# --- counted ------------------------------------------------------------------------------------------------------


def has_begun(study: optuna.Study) -> bool:
    """Whether a study has asked any trial."""
    trials = study.get_trials(deepcopy=False)
    return any(trial.state != TrialState.WAITING and not is_turn(trial) for trial in trials)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How far the drivers of a study have come, all together."""

    finished: int
    """Trials of the search that have ended with a result or a reason."""
    running: int
    """Trials of the search that run."""
    elsewhere: int
    """Trials of whatever purpose that run in other drivers."""
    waiting: int
    """Trials of whatever purpose that are enqueued."""
    follow_ups: int
    """Of these, such as follow the search: they confirm other trials, or repeat what was chosen."""


def standing(study: optuna.Study, space: SearchSpace, own: Collection[int] = ()) -> Standing:
    """How far a study has come; ``own`` are the numbers of this driver's running trials."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if not is_turn(trial)]
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
    return Standing(
        finished=sum(_is_of_search(trial, space) for trial in trials if trial.state in _ENDED),
        running=sum(_is_of_search(trial, space) for trial in running),
        elsewhere=sum(trial.number not in own for trial in running),
        waiting=len(waiting),
        follow_ups=sum(_follows(trial, space) for trial in waiting),
    )


def is_needed(study: optuna.Study, space: SearchSpace, number: int, num_trials: int) -> bool:
    """Whether a trial follows the search, or is one of so many that it is to have.

    Numbers are given one after the other, so that of several drivers none counts its own trial too low: together they
    run no trial too many.
    """
    trials = study.get_trials(deepcopy=False)
    owed = [trial for trial in trials[:number] if trial.state != TrialState.FAIL and _is_of_search(trial, space)]
    return _follows(trials[number], space) or len(owed) < num_trials


def _is_of_search(trial: FrozenTrial, space: SearchSpace) -> bool:
    return not (is_infeasible(trial) or is_turn(trial) or _follows(trial, space))


def _follows(trial: FrozenTrial, space: SearchSpace) -> bool:
    return confirms(trial) is not None or (bool(space.choose) and stage_of(trial) == "final")


def finished_trials(study: optuna.Study) -> int:
    """Trials that have ended with a result or a reason, those that repeat what was chosen among them.

    What was refused before training, or confirms another trial, does not count.
    """
    trials = study.get_trials(deepcopy=False, states=_ENDED)
    return sum(not is_infeasible(trial) and confirms(trial) is None for trial in trials)


def trained_values(study: optuna.Study) -> list[dict[str, Any]]:
    """The values of every trial that has ended, in whatever driver, and was not refused before training."""
    trials = study.get_trials(deepcopy=False, states=_ENDED)
    return [trial.params for trial in trials if not is_infeasible(trial)]


def confirmations_waiting(study: optuna.Study) -> int:
    """Trials that are enqueued to confirm others."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return sum(confirms(trial) is not None for trial in waiting)
