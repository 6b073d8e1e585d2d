"""Thresholds of a classifier of two classes: chosen on one split, and what they come to on another."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import roc_curve

YOUDEN, RULE_OUT, RULE_IN = "youden", "sensitivity_90", "specificity_90"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What becomes of images that are called positive from a threshold on; shares in 0..1, None where none is meant."""

    sensitivity: float | None
    """Of the positive images, those that are called so."""
    specificity: float | None
    """Of the negative images, those that are called so."""


def operating_points(scores: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]) -> Mapping[str, float]:
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
    return Rates(
        sensitivity=float(called[positive].mean()) if positive.any() else None,
        specificity=float(1 - called[~positive].mean()) if not positive.all() else None,
    )


def _between(scores: Float[np.ndarray, " N"], least: float) -> float:
    """The middle between the least score that is called positive and the next lower one."""
    if not np.isfinite(least):
        return float(np.nextafter(scores.max(), np.inf))  # none is called positive
    lower = scores[scores < least]
    return float((least + lower.max()) / 2) if len(lower) else float(least)
