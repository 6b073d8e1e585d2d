"""What a study's storage remembers of a trial beside its values: Optuna's user attributes, each by one name."""

import math
from collections.abc import Mapping
from typing import Any, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from fpt_ray.config.space import Limit, broken_limits
from fpt_ray.search.messages import Stage

_STAGE, _REPEATS, _CONFIRMS = "stage", "repeats", "of"
_INFEASIBLE, _RESULT, _REASON = "infeasible", "result", "reason"
_PURPOSE = (_STAGE, _REPEATS, _CONFIRMS)


# --- why it is run ------------------------------------------------------------------------------------------------


def purpose(stage: Stage, *, repeats: int | None = None, confirms: int | None = None) -> dict[str, Any]:
    """The attributes of a trial that is enqueued: why, and if it confirms another, with how many seeds and which."""
    found = {_STAGE: stage, _REPEATS: repeats, _CONFIRMS: confirms}
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


def asked_values(trial: FrozenTrial) -> dict[str, Any]:
    """The values of a trial; of one that was enqueued, those, though it may have died before it took them all."""
    return trial.system_attrs.get("fixed_params", trial.params)


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


def counts(trial: FrozenTrial, constraints: Mapping[str, Limit]) -> bool:
    """Whether a trial counts as a result of its study, as ``tracking.records.counted`` has it.

    It was trained to its end, keeps to the constraints, and does not only serve others.
    """
    ended = trial.state == TrialState.COMPLETE and math.isfinite(val_auc(trial))
    return ended and stage_of(trial) == "final" and feasible(trial, constraints)


def val_auc(trial: FrozenTrial) -> float:
    """The validation AUC of a trial's last result; minus infinity where it has none."""
    return result_of(trial).get("val_auc", -math.inf)


# --- counted ------------------------------------------------------------------------------------------------------


def has_begun(study: optuna.Study) -> bool:
    """Whether a study has asked any trial."""
    return any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))


def finished_trials(study: optuna.Study) -> int:
    """Trials that have ended with a result or a reason.

    What was refused before training, or confirms another trial, does not count.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return sum(not is_infeasible(trial) and confirms(trial) is None for trial in trials)


def confirmations_waiting(study: optuna.Study) -> int:
    """Trials that are enqueued to confirm others."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return sum(confirms(trial) is not None for trial in waiting)
