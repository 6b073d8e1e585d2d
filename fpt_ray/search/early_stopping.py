"""Stopping trials early without pushing a search of several objectives towards large models.

ASHA and the median rule compare trials by one score. By it alone they stop small networks, which learn less and would
have stood on the front for being small. Here a trial is compared only with trials that cost no more than it does, in
every cost that is an objective: a small one competes with small ones, a large one with all below it. Without cost
objectives these are the usual rules. Ray's schedulers know one metric, so that the rules stand here.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from typing_extensions import override

from fpt_ray.config.objectives import OBJECTIVES, broken_limits
from fpt_ray.config.space import SearchSpace
from fpt_ray.search.messages import EpochReport, unpack_message, unpack_proposal

REDUCTION = 3
"""Of ASHA: a rung lets one in so many go on, and the next is so many times as far."""
_ENOUGH = 3
"""Trials to compare with before one is stopped."""


def rungs(kind: str, grace_epochs: int, epochs: int) -> Iterator[int]:
    """The epochs, counted from 1, at which trials are compared; the last is never one."""
    epoch = grace_epochs
    while epoch < epochs:
        yield epoch
        epoch = epoch * REDUCTION if kind == "asha" else epoch + 1


def falls_behind(
    kind: str, score: float, costs: Sequence[float], others: Sequence[tuple[float, Sequence[float]]]
) -> bool:
    """Whether a trial is to be stopped: its score is below the comparable trials' upper third (ASHA) or median.

    ``others`` are (score, costs) at the same epoch; comparable are those that cost no more in any respect.
    """
    comparable = [other for other, paid in others if all(a <= b for a, b in zip(paid, costs, strict=True))]
    if len(comparable) < _ENOUGH:
        return False
    share = 1 - 1 / REDUCTION if kind == "asha" else 0.5
    return score < float(np.quantile([*comparable, score] if kind == "asha" else comparable, share))


class FairStopping(FIFOScheduler):
    """Tune's scheduler for one study: first come, first served, and stopped by the rules above on the first seed."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.kind, self.grace_epochs = space.early_stopping, space.grace_epochs
        costs = [name for name, mode in space.objectives.items() if mode == "min"]
        self.cost_names = [name for name in costs if name != "train_seconds" and not name.startswith("val_")]
        # What a broken limit of it says at an epoch, it says at the end: scores still rise, costs do not fall.
        scores = ("ppe", "pme", *(name for name in OBJECTIVES if name.startswith("val_")))
        self.constraints = {name: limit for name, limit in space.constraints.items() if name not in scores}
        self.epochs = space.widest("training.epochs")
        self.seen: dict[int, list[tuple[float, list[float]]]] = {
            epoch: [] for epoch in rungs(self.kind, self.grace_epochs, self.epochs)
        }

    @override
    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stops a trial that falls behind at a rung."""
        report = unpack_message(result)
        if not isinstance(report, EpochReport) or unpack_proposal(trial.config).stage == "confirm":
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP if self.stops(report) else TrialScheduler.CONTINUE

    def stops(self, report: EpochReport) -> bool:
        """Whether a trial that reports this falls behind at a rung; it is one to compare with from then on.

        Its first seed says so, whether the others train after it or with it. One that has ended does neither: what
        takes a single epoch would be compared with the first of others.
        """
        first = report.seeds[0]
        others = None if first.repeat or report.finished else self.seen.get(first.epoch)
        if others is None or broken_limits(self.constraints, report.metrics):
            return False
        score, costs = float(first.val_score), [float(report.metrics[name]) for name in self.cost_names]
        stop = falls_behind(self.kind, score, costs, others)
        others.append((score, costs))
        return stop
