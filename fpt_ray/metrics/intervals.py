"""How sure a test score is: bootstrap over the images of a split, for one model and for the difference of two.

Every resample draws as many images of each class as the split has, with replacement, so that no class disappears. All
models are scored on the same resamples. A model trained with several seeds counts by the mean of its seeds: of all of
them, so that an interval is about which images were at hand, or of as many drawn anew, so that it is about which
seeds, too.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fpt_ray.metrics.resampled import resampled_scores

DRAWS = 2000
LEVEL = 0.95
_AT_ONCE = 250
"""Resamples held in memory together, of few images; of many, as many as make so many numbers:"""
_NUMBERS = 2**22


class Interval(NamedTuple):
    """Both ends of a 95 % interval, in the unit of what it is of."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A value, and both ends of its 95 % interval."""

    value: float
    low: float
    high: float


def interval(samples: Float[np.ndarray, " R"]) -> Interval:
    """The middle 95 % of bootstrap samples (percentile bootstrap, Efron and Tibshirani 1993, chapter 13).

    Resamples in which a score is not defined are left out.
    """
    low, high = np.nanquantile(samples, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(low), float(high))


def resamples(labels: np.ndarray, draws: int, seed: int) -> Iterator[Int[np.ndarray, "R N"]]:
    """How often each image stands in each resample, up to some hundred resamples at a time: 32 MiB, or one.

    Class numbers are resampled class by class; rows of labels and values, which have no classes, as they are.
    """
    generator = np.random.default_rng(seed)
    strata = labels if labels.ndim == 1 and labels.dtype.kind == "i" else np.zeros(len(labels), np.int64)
    members = [np.flatnonzero(strata == one) for one in np.unique(strata)]
    step = max(1, min(_AT_ONCE, _NUMBERS // max(1, len(labels))))
    for start in range(0, draws, step):
        counts = np.zeros((min(step, draws - start), len(labels)), np.int64)
        for rows in members:
            counts[:, rows] = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=len(counts))
        yield counts


def bootstrap(
    models: Sequence[Sequence[Float[np.ndarray, "N C"]]],
    labels: np.ndarray,
    names: Sequence[str] = ("auc",),
    task: str = "multiclass",
    *,
    draws: int = DRAWS,
    seed: int = 0,
    seed_of_seeds: int | None = None,
) -> dict[str, Float[np.ndarray, "M R"]]:
    """{name: the score (as of ``metrics.scores``) of each of M models in each of R resamples}.

    Args:
        models: of each model, what each of its seeds says of the N images.
        labels: of the images.
        names: of the scores.
        task: as in ``config.tasks``.
        draws: the number R of resamples.
        seed: of the resamples.
        seed_of_seeds: every resample draws the seeds of a model, too, with replacement and apart from other models';
            by this seed, which is to be another for models that are resampled elsewhere. Default: none are drawn.
    """
    generators = np.random.default_rng(seed_of_seeds).spawn(len(models))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for counts in resamples(labels, draws, seed):
        found = [[resampled_scores(names, one, labels, counts, task) for one in seeds] for seeds in models]
        drawn = [
            None if seed_of_seeds is None else generator.integers(len(seeds), size=(len(seeds), len(counts)))
            for seeds, generator in zip(models, generators, strict=True)
        ]
        for name in names:
            each = [np.stack([one[name] for one in seeds]) for seeds in found]
            each = [
                one if which is None else np.take_along_axis(one, which, axis=0)
                for one, which in zip(each, drawn, strict=True)
            ]
            parts[name].append(np.stack([one.mean(axis=0) for one in each]))
    return {name: np.concatenate(part, axis=1) for name, part in parts.items()}
