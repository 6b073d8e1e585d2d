"""What a study aims at and keeps to: the numbers of a trial that may be objectives, and limits on them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from fpt_ray.config.tasks import FALLING, SCORES

Mode = Literal["max", "min"]

OBJECTIVES: Mapping[str, Mode] = {
    **{f"val_{name}": "min" if name in FALLING else "max" for names in SCORES.values() for name in names},
    "ppe": "max",
    "pme": "max",
    "param_ratio": "min",
    "memory_ratio": "min",
    "peak_memory_bytes": "min",
    "train_seconds": "min",
}
KNOWN_BEFORE = ("param_ratio", "memory_ratio", "peak_memory_bytes", "learnable_parameters", "feature_bytes")
"""What a proposal costs, known without training it; ``feature_bytes`` are those it reads of an image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """What a number of a trial must keep to."""

    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        ends = (("at least", self.low), ("at most", self.high))
        return " and ".join(f"{word} {end:.6g}" for word, end in ends if end is not None)

    def excess(self, value: float) -> float:
        """By how much a value breaks the limit, as a share of it; 0 or less where it keeps to it; infinite for NaN."""
        over = -math.inf if self.high is None else (value - self.high) / abs(self.high or 1)
        under = -math.inf if self.low is None else (self.low - value) / abs(self.low or 1)
        return math.inf if math.isnan(value) else max(over, under)


def broken_limits(constraints: Mapping[str, Limit], metrics: Mapping[str, float]) -> dict[str, float]:
    """{name: the trial's number} of the constraints that a trained trial breaks; NaN where a number is missing.

    What is known before training is judged then, so that a trained trial need not have it among its numbers.
    """
    broken = {}
    for name, limit in constraints.items():
        value = metrics.get(name, math.nan)
        if not limit.excess(value) <= 0 and not (math.isnan(value) and name in KNOWN_BEFORE):
            broken[name] = value
    return broken


def no_costs_of(score: str) -> str:
    """Why there are no PPE and PME of a score, and what to take."""
    return (
        f"there are no ppe and pme of {score}, which may be negative and would gain by its cost; take val_{score} with "
        "param_ratio or memory_ratio"
    )
