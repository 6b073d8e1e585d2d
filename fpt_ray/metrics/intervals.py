"""How sure a test AUC is: bootstrap over the images of a split, for one model and for the difference of two.

Every resample draws as many images of each class as the split has, with replacement, so that no class disappears. All
models are scored on the same resamples. A model trained with several seeds counts by the mean AUC of its seeds: of all
of them, so that an interval is about which images were at hand, or of as many drawn anew, so that it is about which
seeds, too.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

DRAWS = 2000
LEVEL = 0.95
_AT_ONCE = 250
"""Resamples held in memory together."""


class Interval(NamedTuple):
    """Both ends of a 95 % interval, in the unit of what it is of."""

    low: float
    high: float


def interval(samples: Float[np.ndarray, " R"]) -> Interval:
    """The middle 95 % of bootstrap samples (percentile bootstrap, Efron and Tibshirani 1993, chapter 13)."""
    low, high = np.quantile(samples, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(low), float(high))


def resamples(labels: Int[np.ndarray, " N"], draws: int, seed: int) -> Iterator[Int[np.ndarray, "R N"]]:
    """How often each image stands in each resample, some hundred resamples at a time."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for start in range(0, draws, _AT_ONCE):
        counts = np.zeros((min(_AT_ONCE, draws - start), len(labels)), np.int64)
        for rows in members:
            counts[:, rows] = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=len(counts))
        yield counts


def bootstrap_aucs(
    models: Sequence[Sequence[Float[np.ndarray, "N C"]]],
    labels: Int[np.ndarray, " N"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    seed_of_seeds: int | None = None,
) -> Float[np.ndarray, "M R"]:
    """The AUC (as ``metrics.auc``) of each of M models in each of R resamples.

    Args:
        models: of each model, the class probabilities that each of its seeds gives to the N images.
        labels: every class has an image.
        draws: the number R of resamples.
        seed: of the resamples.
        seed_of_seeds: every resample draws the seeds of a model, too, with replacement and apart from other models';
            by this seed, which is to be another for models that are resampled elsewhere. Default: none are drawn.
    """
    generators = np.random.default_rng(seed_of_seeds).spawn(len(models))
    parts = []
    for counts in resamples(labels, draws, seed):
        aucs = [np.stack([_aucs(one, labels, counts) for one in seeds]) for seeds in models]
        if seed_of_seeds is not None:
            aucs = [_drawn_again(one, generator) for one, generator in zip(aucs, generators, strict=True)]
        parts.append(np.stack([one.mean(axis=0) for one in aucs]))
    return np.concatenate(parts, axis=1)


def _drawn_again(aucs: Float[np.ndarray, "S R"], generator: np.random.Generator) -> Float[np.ndarray, "S R"]:
    return np.take_along_axis(aucs, generator.integers(len(aucs), size=aucs.shape), axis=0)


def _aucs(
    probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"], counts: Int[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    num_classes = probabilities.shape[1]
    positives = [1] if num_classes == 2 else range(num_classes)
    return np.mean([_areas(probabilities[:, c], labels == c, counts) for c in positives], axis=0)


def _areas(
    scores: Float[np.ndarray, " N"], positive: np.ndarray, counts: Int[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    """The share of pairs (positive, negative) in the right order, ties counted half, in each resample.

    Images of one score are a group; the pairs follow from running sums over the groups, without a pairwise matrix.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)
    ups = np.add.reduceat(counts[:, order] * positive[order], starts, axis=1)
    downs = np.add.reduceat(counts[:, order] * ~positive[order], starts, axis=1)
    below = np.cumsum(downs, axis=1) - downs / 2
    return (ups * below).sum(axis=1) / (ups.sum(axis=1) * downs.sum(axis=1))
