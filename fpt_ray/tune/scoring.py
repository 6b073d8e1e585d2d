"""The test split, read once when a search has ended: for the front's members, or for what was confirmed alone."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from fpt_ray.config.space import SearchSpace
from fpt_ray.features.serving import Stores, store_for
from fpt_ray.metrics.intervals import bootstrap_aucs, interval
from fpt_ray.metrics.scores import auc
from fpt_ray.report.confirmation import confirming, reference
from fpt_ray.report.front import front_of
from fpt_ray.tracking.records import TrialRecord, counted
from fpt_ray.train.best import predictions_of_best, scores_of_best
from fpt_ray.train.checkpoint import load_checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialScores:
    """What a trial reached on the test split."""

    run_id: str
    metrics: Mapping[str, float]
    """Of the trial: means over its seeds and their standard deviations, intervals."""
    seed_aucs: tuple[float, ...]
    """One a seed, in order."""


def shown_trials(records: Sequence[TrialRecord], space: SearchSpace) -> list[TrialRecord]:
    """The trials whose test score a search shows: of the front's members, or of all rows of a grid."""
    if space.sampler == "grid":
        return counted(records, space.constraints)
    return front_of(records, space.objectives, space.constraints)


def score_shown(records: Sequence[TrialRecord], space: SearchSpace, stores: Stores) -> list[TrialScores]:
    """Test scores of the trials that are shown and have none yet. Nothing reads test data before."""
    return [_scores(record, space, stores) for record in shown_trials(records, space) if not _is_scored(record)]


def _is_scored(record: TrialRecord) -> bool:
    return "test_auc" in record.metrics


def _scores(record: TrialRecord, space: SearchSpace, stores: Stores) -> TrialScores:
    trial = space.trial(record.values)
    found = scores_of_best(trial, store_for(trial, stores), "test", load_checkpoint(record.checkpoint))
    metrics = {}
    for name in ("auc", "accuracy", "kappa"):
        values = [getattr(scores, name) for scores in found]
        metrics[f"test_{name}"] = statistics.fmean(values)
        if len(values) > 1:
            metrics[f"test_{name}_std"] = statistics.stdev(values)
    return TrialScores(run_id=record.run_id, metrics=metrics, seed_aucs=tuple(scores.auc for scores in found))


def score_confirmed(records: Sequence[TrialRecord], space: SearchSpace, stores: Stores) -> list[TrialScores]:
    """Test scores of the trials that confirm others: mean over the new seeds, and 95 % intervals.

    The intervals are of that mean, and of its difference from the best of them by validation AUC. Where nothing new was
    confirmed, nothing is read.
    """
    confirmed = confirming(records)
    if all(_is_scored(record) for record in confirmed):
        return []
    best = reference(confirmed)
    resampled = {record.run_id: _resampled(record, space, stores) for record in confirmed}
    return [_with_difference(resampled[record.run_id], resampled[best.run_id]) for record in confirmed]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Resampled:
    """A trial's test scores, the bootstrap samples of its AUC, and the labels these rest on."""

    scores: TrialScores
    samples: Float[np.ndarray, " R"]
    labels: Int[np.ndarray, " N"]


def _resampled(record: TrialRecord, space: SearchSpace, stores: Stores) -> _Resampled:
    trial = space.trial(record.values)
    store = store_for(trial, stores)
    probabilities, labels = predictions_of_best(trial, store, "test", load_checkpoint(record.checkpoint))
    aucs = [auc(one, labels, store.classes) for one in probabilities]
    samples = bootstrap_aucs([probabilities], labels)[0]
    low, high = interval(samples)
    metrics = {"test_auc": statistics.fmean(aucs), "test_auc_low": low, "test_auc_high": high}
    if len(aucs) > 1:
        metrics["test_auc_std"] = statistics.stdev(aucs)
    scores = TrialScores(run_id=record.run_id, metrics=metrics, seed_aucs=tuple(aucs))
    return _Resampled(scores=scores, samples=samples, labels=labels)


def _with_difference(own: _Resampled, best: _Resampled) -> TrialScores:
    """Scores with the interval of their difference from the best's; without it where the stores hold other images."""
    if own is best or not np.array_equal(own.labels, best.labels):
        return own.scores
    low, high = interval(own.samples - best.samples)
    metrics = {**own.scores.metrics, "difference_low": low, "difference_high": high}
    return TrialScores(run_id=own.scores.run_id, metrics=metrics, seed_aucs=own.scores.seed_aucs)
