"""What early stopping would have done to a finished study: its validation curves, run again in other orders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from mlflow import MlflowClient

from fpt_ray.config.space import SearchSpace
from fpt_ray.errors import ConfigError
from fpt_ray.metrics.hypervolume import hypervolume
from fpt_ray.report.front import front_of
from fpt_ray.report.result import StudyResult
from fpt_ray.search.early_stopping import FairStopping
from fpt_ray.search.messages import EpochReport, SeedEpoch
from fpt_ray.tracking.names import metric_key
from fpt_ray.tracking.records import TrialRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A trial's best validation AUC so far after each epoch, and what it costs."""

    val_score: tuple[float, ...]
    costs: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopping:
    """Means over the orders."""

    epochs: float
    """Share of all epochs that were trained."""
    front: float
    """Share of the front's members that were trained to their end."""
    volume: float
    """Hyper-volume of the front of what was trained to its end, as a share of the whole study's."""


def recorded_curves(client: MlflowClient, result: StudyResult) -> list[tuple[TrialRecord, Curve]]:
    """The finished trials of a study that was searched without early stopping, in the order they were proposed."""
    found = []
    for record in result.trials:
        history = client.get_metric_history(record.run_id, metric_key("val_auc_epoch"))
        if record.complete and history:
            scores = [one.value for one in sorted(history, key=lambda one: one.step)]
            curve = tuple(float(score) for score in np.maximum.accumulate(scores))
            found.append((record, Curve(val_score=curve, costs=record.metrics)))
    return found


def trained_to_the_end(space: SearchSpace, curves: Sequence[Curve]) -> tuple[list[int], int]:
    """Which of these trials, run one after the other, the space's early stopping lets finish; and epochs spent."""
    scheduler, finished, epochs = FairStopping(space), [], 0
    for index, curve in enumerate(curves):
        for epoch, score in enumerate(curve.val_score, start=1):
            epochs += 1
            if scheduler.stops(_report(epoch, score, curve.costs)):
                break
        else:
            finished.append(index)
    return finished, epochs


def _report(epoch: int, score: float, costs: Mapping[str, float]) -> EpochReport:
    return EpochReport(
        epochs=epoch,
        seeds=(SeedEpoch(repeat=0, epoch=epoch, train_loss=0.0, val_score_epoch=score, val_score=score),),
        epoch_seconds=0.0,
        finished=False,
        metrics={**costs, "val_auc": score},
    )


def stop_early(
    space: SearchSpace, trials: Sequence[tuple[TrialRecord, Curve]], kind: str, *, fair: bool, orders: int
) -> Stopping:
    """``trials`` with early stopping of that kind, in random orders. ``fair`` False: on the validation AUC alone."""
    objectives = space.objectives if fair else {"val_auc": space.objectives["val_auc"]}
    stopping = replace(space, early_stopping=kind, objectives=objectives)
    members = front_of([record for record, _ in trials], space.objectives, space.constraints)
    front = {record.run_id for record in members}
    total = sum(len(curve.val_score) for _, curve in trials)
    signs = [1.0 if mode == "max" else -1.0 for mode in space.objectives.values()]
    gains = np.array([[record.metrics[name] for name in space.objectives] for record, _ in trials]) * signs
    gains -= gains.min(axis=0)  # nothing worse than the worst counts as volume
    whole = hypervolume(gains)
    if not whole:
        raise ConfigError(
            f"{len(trials)} trials span no volume: each is the worst in some objective; give a larger study"
        )
    shares = []
    for seed in range(orders):
        order = np.random.default_rng(seed).permutation(len(trials))
        finished, epochs = trained_to_the_end(stopping, [trials[i][1] for i in order])
        ended = [order[i] for i in finished]
        kept = sum(trials[i][0].run_id in front for i in ended)
        shares.append((epochs / total, kept / len(front), hypervolume(gains[ended]) / whole))
    return Stopping(**dict(zip(("epochs", "front", "volume"), np.mean(shares, axis=0).tolist(), strict=True)))
