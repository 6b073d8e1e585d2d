"""How good a trial is, and at what price: scores of predictions, PPE and PME (Eq. 9 and 10)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from fpt_ray.errors import ConfigError


class MetricError(ConfigError):
    """A score is not defined for these predictions and labels."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scores:
    """How well predicted classes agree with the labels of one split; all in 0..1, kappa in -1..1."""

    auc: float
    """As ``auc``."""
    accuracy: float
    macro_f1: float
    """Mean over the classes of F1; a class that is never predicted counts 0."""
    kappa: float
    """Cohen's kappa with quadratic weights: classes are taken as grades, in their order."""
    confusion: Int[np.ndarray, "C C"]
    """Images by true (row) and predicted (column) class."""


def auc(probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"], classes: Sequence[str]) -> float:
    """Area under the ROC curve (section 4.2.2): of class 1 where there are two, else the mean of one against the rest.

    Each class is ranked by its own column, so the rows need not sum to 1 exactly.

    Raises:
        MetricError: a class has no image, there are fewer than two classes, or a probability is not finite.
    """
    _check(probabilities, labels, classes)
    positives = [1] if len(classes) == 2 else range(len(classes))
    areas = [_area(probabilities[:, c], labels == c) for c in positives]
    return math.fsum(areas) / len(areas)


def _area(found: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]) -> float:
    """The share of pairs (positive, negative) in the right order, ties counted half, by the ranks (Mann and Whitney).

    An epoch of a probe takes a few hundredths of a second, and scikit-learn's scores as much as a third of that.
    """
    _, group, sizes = np.unique(found, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[group]  # from 1; of equal ones, their mean
    positives = int(positive.sum())
    right = float(ranks[positive].sum()) - positives * (positives + 1) / 2
    return right / (positives * (len(found) - positives))


def scores(probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"], classes: Sequence[str]) -> Scores:
    """All scores of one split; the predicted class is the most probable one, of equal ones the first.

    Raises:
        MetricError: as ``auc``.
    """
    area, count = auc(probabilities, labels, classes), len(classes)
    predicted = probabilities.argmax(axis=1)
    confusion = np.bincount(labels * count + predicted, minlength=count * count).reshape(count, count)
    truly, asserted, right = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    grades = np.arange(count)
    apart = (grades[:, None] - grades) ** 2
    by_chance = float((apart * np.outer(truly, asserted)).sum()) / len(labels)
    return Scores(
        auc=area,
        accuracy=float(right.sum()) / len(labels),
        macro_f1=float(np.mean(2 * right / (truly + asserted))),
        kappa=1 - float((apart * confusion).sum()) / by_chance,
        confusion=confusion,
    )


def _check(probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"], classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise MetricError(f"classes are {tuple(classes)}; at least two are needed")
    if probabilities.shape != (len(labels), len(classes)):
        raise MetricError(
            f"probabilities have the shape {probabilities.shape}; expected ({len(labels)}, {len(classes)})"
        )
    if not np.isfinite(probabilities).all():
        rows = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
        raise MetricError(
            f"{len(rows)} of {len(labels)} images have a probability that is not finite; the model diverged"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise MetricError(f"labels are {labels.min()}..{labels.max()}; they must be 0..{len(classes) - 1}")
    absent = [name for c, name in enumerate(classes) if not (labels == c).any()]
    if absent:
        names = ", ".join(map(repr, absent))
        raise MetricError(f"no image of class {names} among {len(labels)}; every split needs every class")


def ppe(score: float, param_ratio: float) -> float:
    """Performance-parameter-efficiency (Eq. 9), in the unit of the score.

    Args:
        score: 0..1.
        param_ratio: r, learnable parameters over all parameters, 0..1.
    """
    return score * math.exp(-math.log10(param_ratio + 1))


def pme(score: float, memory_ratio: float) -> float:
    """Performance-memory-efficiency (Eq. 10), in the unit of the score.

    Args:
        score: 0..1.
        memory_ratio: m, training memory over that of fine-tuning the whole LPM, 0 or more.
    """
    return score * math.exp(-math.log10(memory_ratio + 1))
