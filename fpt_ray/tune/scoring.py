"""The test split, read once when a search has ended: for the front's members, or for what was confirmed alone.

Trials are scored on workers, at once, each with the share of a host that it was trained with.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pickle import UnpicklingError
from typing import Any, TypeVar

import numpy as np
import ray
from jaxtyping import Float

from fpt_ray.cluster import run_on_workers
from fpt_ray.config.identity import digest_of
from fpt_ray.config.space import SearchSpace
from fpt_ray.config.trial import TrialConfig, override
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import Features
from fpt_ray.features.serving import store_for, trial_identity
from fpt_ray.metrics.intervals import bootstrap, interval
from fpt_ray.metrics.scores import Scores, scores
from fpt_ray.models.hardware import Hardware, hardware_here
from fpt_ray.models.weights import anchored
from fpt_ray.report.confirmation import confirming, reference
from fpt_ray.report.front import front_of
from fpt_ray.report.predictions import predictions_text
from fpt_ray.report.tested import as_json, of_seeds
from fpt_ray.tracking.records import CHECKPOINT, TrialRecord, broken_by, counted
from fpt_ray.train.best import predictions_of_best
from fpt_ray.train.checkpoint import Checkpoint, check_identity, load_checkpoint
from fpt_ray.train.evaluation import picked_by
from fpt_ray.train.reporting import check_arithmetic
from fpt_ray.tune.worker import Shared

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialScores:
    """What a trial reached on the test split."""

    run_id: str
    metrics: Mapping[str, float]
    """Of the trial: means over its seeds and their standard deviations, intervals."""
    seed_scores: tuple[float, ...]
    """One a seed, in order: of the score that picks the best trials."""
    details: str = ""
    """All that is said of the test split, as ``report.tested`` stores it."""
    predictions: str = ""
    """What is said of each of its images, as ``report.predictions`` stores it."""


def shown_trials(records: Sequence[TrialRecord], space: SearchSpace) -> list[TrialRecord]:
    """The trials whose test score a search shows: of the front's members, or of all rows of a grid."""
    if space.sampler == "grid":
        return counted(records, space.constraints, (space.score,))
    return front_of(records, space.objectives, space.constraints)


def score_shown(records: Sequence[TrialRecord], shared: Shared) -> Iterator[TrialScores]:
    """Test scores of the trials that are shown and have none yet, as they come. Nothing reads test data before.

    Rows of a grid with several seeds have 95 % intervals over images and seeds, and of their difference from the first.

    Raises:
        ConfigError: a checkpoint or the store cannot be read.
    """
    shown, score = shown_trials(records, shared.space), shared.space.score.removeprefix("val_")
    missing = [record for record in shown if not _is_scored(record, shared)]
    if shared.space.sampler != "grid" or shared.space.repeats == 1 or not missing:
        for _, found in on_workers(_scores, missing, shared):
            yield found
        return
    first = min(shown, key=lambda record: record.number)
    read = list({record.run_id: record for record in (first, *missing)}.values())
    asked, kept, reference = {record.run_id for record in missing}, [], None
    for run_id, found in on_workers(partial(_resampled, over_seeds=True), read, shared):
        if run_id == first.run_id:
            reference = found
        if run_id in asked:
            kept.append(found)
        while kept and reference is not None:  # each says something of every test image: none is kept for long
            yield _with_difference(kept.pop(0), reference, score)


def on_workers(
    function: Callable[[TrialConfig, Features, Checkpoint, str], Found], records: Sequence[TrialRecord], shared: Shared
) -> Iterator[tuple[str, Found]]:
    """(a trial's run, what the function says of the trial), as they come.

    The function, and the stores with their tables, are put where all workers find them once, not with each call.
    """
    calls, shares, asked = {}, {}, (ray.put(function),)
    stores: dict[str, tuple[Any]] = {}
    for record in records:
        seed = int(record.params["training.seed"])  # of one that confirms another, not the space's
        trial = override(shared.space.trial(record.values), {"training.seed": seed})
        shares[record.run_id] = shared.packing.worker(trial, shared.costs(trial)["peak_memory_bytes"])
        store, identity = store_for(trial, shared.stores), digest_of(trial_identity(trial, shared.stores))
        trial = replace(trial, backbone=anchored(trial.backbone, shared.weights_root))
        if store.uri not in stores:
            stores[store.uri] = (ray.put(store),)
        given = asked, record, trial, stores[store.uri], identity, shared.packing.hardware
        calls[record.run_id] = partial(_of_saved, *given)
    return run_on_workers(calls, shares)


def _of_saved(
    function: tuple[Any],
    record: TrialRecord,
    trial: TrialConfig,
    store: tuple[Any],
    identity: str,
    planned: Hardware,
) -> Any:
    """What a function says of a trial's checkpoint; ConfigError if that is of another trial or store.

    Function and store are references; in tuples, since Ray replaces bare ones by their values. DeviceError where this
    worker would compute in another type than the trial was trained in.
    """
    check_arithmetic(trial, hardware_here(), planned)
    try:
        saved = load_checkpoint(record.checkpoint)
    except (OSError, EOFError, RuntimeError, KeyError, UnpicklingError) as error:
        where = record.tags.get(CHECKPOINT, "nowhere")
        raise ConfigError(
            f"trial {record.number}: its checkpoint cannot be read ({where}: {type(error).__name__}: {error}); put the "
            "working directory back where the trial was run, or train it again in another study"
        ) from None
    check_identity(saved, identity, record.checkpoint)
    call: Any = ray.get(function[0])
    return call(trial, ray.get(store[0]), saved, record.run_id)


def _is_scored(record: TrialRecord, shared: Shared) -> bool:
    return shared.space.score.replace("val_", "test_") in record.metrics


def _scores(trial: TrialConfig, store: Features, saved: Checkpoint, run_id: str) -> TrialScores:
    return _resampled(trial, store, saved, run_id).scores


def _over_seeds(found: Sequence[Scores], run_id: str, picks: str) -> TrialScores:
    """Means over a trial's seeds, and their standard deviations."""
    metrics = {}
    for name in found[0].values:
        values = [scores[name] for scores in found]
        metrics[f"test_{name}"] = statistics.fmean(values)
        if len(values) > 1:
            metrics[f"test_{name}_std"] = statistics.stdev(values)
    return TrialScores(run_id=run_id, metrics=metrics, seed_scores=tuple(scores[picks] for scores in found))


def score_confirmed(records: Sequence[TrialRecord], shared: Shared) -> list[TrialScores]:
    """Test scores of the trials that confirm others: mean over the new seeds, and 95 % intervals.

    The intervals are of that mean, and of its difference from the best of them by validation score. Where nothing new
    was confirmed, nothing is read; nor of those that break a limit by their new seeds.

    Raises:
        ConfigError: a checkpoint or the store cannot be read.
    """
    score = shared.space.score.removeprefix("val_")
    confirmed = [record for record in confirming(records, score) if not broken_by(record, shared.space.constraints)]
    if all(_is_scored(record, shared) for record in confirmed):
        return []
    best = reference(confirmed, score)
    resampled = dict(on_workers(_resampled, confirmed, shared))
    return [_with_difference(resampled[record.run_id], resampled[best.run_id], score) for record in confirmed]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Resampled:
    """A trial's test scores, the bootstrap samples of its score, and the labels these rest on."""

    scores: TrialScores
    samples: Float[np.ndarray, " R"]
    labels: np.ndarray


def _resampled(
    trial: TrialConfig, store: Features, saved: Checkpoint, run_id: str, over_seeds: bool = False
) -> _Resampled:
    said, labels = predictions_of_best(trial, store, "test", saved)
    target, picks = store.target, picked_by(trial, store.target)
    each = [scores(one, labels, target.classes, target.task) for one in said]
    own_seed = int(saved.identity[:8], 16) if over_seeds else None
    drawn = bootstrap([said], labels, target.scores, target.task, seed_of_seeds=own_seed)
    samples = {name: one[0] for name, one in drawn.items()}
    found = replace(
        _over_seeds(each, run_id, picks),
        details=as_json(of_seeds(each, samples, target.classes)),
        predictions=predictions_text(target, store.splits["test"].hashes, labels, said),
    )
    return _Resampled(scores=found, samples=samples[picks], labels=labels)


def _with_interval(own: _Resampled, picks: str) -> TrialScores:
    low, high = interval(own.samples)
    return replace(own.scores, metrics={**own.scores.metrics, f"test_{picks}_low": low, f"test_{picks}_high": high})


def _with_difference(own: _Resampled, best: _Resampled, picks: str) -> TrialScores:
    """Scores with their interval, and that of their difference from the best's; not where stores hold other images."""
    found = _with_interval(own, picks)
    if own.scores.run_id == best.scores.run_id or not _same_images(own, best):
        return found
    low, high = interval(own.samples - best.samples)
    return replace(found, metrics={**found.metrics, "difference_low": low, "difference_high": high})


def _same_images(own: _Resampled, best: _Resampled) -> bool:
    floats = own.labels.dtype.kind == "f"
    return np.array_equal(own.labels, best.labels, equal_nan=floats)
