"""What the searcher and a trial's worker say to each other: a proposal, a result, why a trial came to nothing."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeGuard

from fpt_ray.config.space import SearchSpace
from fpt_ray.config.trial import TrialConfig

STAGE = "stage"
"""Attribute of a trial: "choose" while values are chosen on the validation split, "final" for what tables show,
"confirm" for what is trained again with new seeds."""
REPEATS, OF = "repeats", "of"
"""Attributes of a trial that confirms another: how many new seeds it trains, and the number of the other one."""
INFEASIBLE = "infeasible"
"""Attribute of a trial that broke a constraint before it was trained."""
RESULT = "result"
"""Attribute of a trial: its last numbers, whether it is complete or not."""

NUMBER = "number"
"""Key beside the proposed values: the trial's number in the study."""
SEEDS = "seeds"
"""Key beside the proposed values: how many seeds the trial trains, one after the other."""
FIRST_SEED = "first_seed"
"""Key beside the proposed values: the first of these seeds, counted from the configuration's."""
FINISHED = "finished"
"""Key of a result: training has ended as planned, the result's values are final."""
REASON = "reason"
OUT_OF_MEMORY = "out_of_memory_bytes"
"""Key of a result: a GPU's memory was not enough, and what had been allocated of it."""
HALT = "halt"
"""Key of a result: why the search cannot go on, which is no fault of the trial's."""
RESTARTS = 2
"""Times a trial is begun again after its worker died."""
DIED = (
    f"its worker died {RESTARTS + 1} times: most likely the system killed it because the host's memory ran out, or its "
    "hosts were taken away"
)
"""Why a trial came to nothing that Tune gave up: what goes wrong within a trial, the trial tells itself."""


def plain_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """A proposal without what stands beside its values."""
    return {name: value for name, value in config.items() if name not in (NUMBER, SEEDS, FIRST_SEED, STAGE, OF)}


def seeded_trial(space: SearchSpace, config: Mapping[str, Any]) -> TrialConfig:
    """The trial that a proposal stands for, with the first seed it trains."""
    trial = space.trial(plain_values(config))
    return replace(trial, training=replace(trial.training, seed=trial.training.seed + config[FIRST_SEED]))


def why_not(result: Mapping[str, Any], error: bool, space: SearchSpace) -> str | None:
    """Why a trial's result does not count as complete; None if it does."""
    if error:
        return DIED
    for name in space.objectives:
        if not is_finite(result.get(name)):
            return f"{name} is {result.get(name)}"
    return None if result.get(FINISHED) else "stopped before its last epoch"


_FINAL_METRICS = (
    "val_auc",
    "val_auc_std",
    "best_epoch",
    "epochs",
    "ppe",
    "pme",
    "param_ratio",
    "memory_ratio",
    "learnable_parameters",
    "peak_memory_bytes",
    "measured_peak_memory_bytes",
    "train_seconds",
    "fit_seconds",
    "data_seconds",
)


def final_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a trial's last result that stay with it; what is missing or not finite is left out."""
    return {name: float(value) for name in _FINAL_METRICS if is_finite(value := result.get(name))}


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether a result holds a number that can be told."""
    return isinstance(value, (int, float)) and math.isfinite(value)
