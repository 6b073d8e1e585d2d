"""Operating points: thresholds of two classes or of a label, chosen on one split, and what they come to on another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import binomtest
from sklearn.metrics import roc_curve

from fpt_ray.metrics.columns import ranked
from fpt_ray.metrics.intervals import LEVEL, Estimate

YOUDEN, RULE_OUT, RULE_IN = "youden", "sensitivity_90", "specificity_90"


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """From which probability on an image is called positive."""

    name: str
    """As ``chosen_thresholds`` has it; of several labels, with the label's behind it: "youden_edema"."""
    of: str
    """The class or label whose probability is meant."""
    threshold: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What becomes of images that are called positive from a threshold on; shares in 0..1, None where none is meant."""

    sensitivity: Estimate | None
    """Of the positive images, those that are called so."""
    specificity: Estimate | None
    """Of the negative images, those that are not."""


def operating_points(
    said: Float[np.ndarray, "N C"], labels: np.ndarray, classes: Sequence[str], task: str
) -> tuple[OperatingPoint, ...]:
    """The points of the second of two classes, or of each label, chosen on these images; of other tasks there are none.

    A label without both kinds of images has none.

    Args:
        said: as of ``metrics.scores.score``.
        labels: as of the same.
        classes: names of the columns.
        task: as in ``config.tasks``.
    """
    if task not in ("binary", "multilabel"):
        return ()
    return tuple(
        OperatingPoint(
            name=name if task == "binary" else f"{name}_{classes[column.number]}",
            of=classes[column.number],
            threshold=threshold,
        )
        for column in ranked(said, labels)
        for name, threshold in chosen_thresholds(column.scores, column.positive).items()
    )


def rates_at(
    point: OperatingPoint, said: Float[np.ndarray, "N C"], labels: np.ndarray, classes: Sequence[str]
) -> Rates:
    """What a point comes to on some images; of a label, on those of which it is known."""
    at = classes.index(point.of)
    if labels.ndim == 1:
        return rates(said[:, at], labels == at, point.threshold)
    known = ~np.isnan(labels[:, at])
    return rates(said[known, at], labels[known, at] == 1, point.threshold)


def chosen_thresholds(scores: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]) -> Mapping[str, float]:
    """{name: the threshold from which on an image is called positive}, chosen on these images.

    Youden's J (1950), the largest sum of sensitivity and specificity; at least 90 % sensitivity (to rule out) with the
    most specificity; at least 90 % specificity (to rule in) with the most sensitivity.

    A threshold lies in the middle between two scores, so that rounding decides nothing.
    """
    fall_out, sensitivity, thresholds = roc_curve(positive, scores, drop_intermediate=False)
    specificity = 1 - fall_out
    chosen = {
        YOUDEN: int(np.argmax(sensitivity + specificity)),
        RULE_OUT: int(np.argmax(sensitivity >= 0.9)),  # the curve's first: the most specific
        RULE_IN: int(np.flatnonzero(specificity >= 0.9)[-1]),
    }
    return {name: _between(scores, float(thresholds[at])) for name, at in chosen.items()}


def rates(scores: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"], threshold: float) -> Rates:
    """What a threshold comes to on some images."""
    called = scores >= threshold
    return Rates(sensitivity=_share(called[positive]), specificity=_share(~called[~positive]))


def _share(there: Bool[np.ndarray, " N"]) -> Estimate | None:
    """The share of images with Wilson's interval (1927), which holds near 0 and 1, too; None of no images."""
    if not len(there):
        return None
    ends = binomtest(int(there.sum()), len(there)).proportion_ci(LEVEL, method="wilson")
    return Estimate(float(there.mean()), float(ends.low), float(ends.high))


def _between(scores: Float[np.ndarray, " N"], least: float) -> float:
    """The middle between the least score that is called positive and the next lower one."""
    if not np.isfinite(least):
        return float(np.nextafter(scores.max(), np.inf))  # none is called positive
    lower = scores[scores < least]
    return float((least + lower.max()) / 2) if len(lower) else float(least)
