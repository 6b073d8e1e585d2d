"""How good a trial is, and at what price: scores of predictions by their names, PPE and PME (Eq. 9 and 10).

A prediction is a row of class or label probabilities, or a value; tasks have the names of ``config.tasks``.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats
from sklearn import metrics as sklearn_metrics

from fpt_ray.errors import ConfigError
from fpt_ray.metrics.columns import RANKING, Column, columns, ranked

HALF = 0.5
"""A label is predicted from this probability on."""


class MetricError(ConfigError):
    """A score is not defined for these predictions and labels."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scores:
    """How well predictions agree with the labels of one split."""

    values: Mapping[str, float]
    """By their names: see ``score``."""
    per_class: Mapping[str, Mapping[str, float]]
    """Of each class or label: ``images`` that are of it, the scores that rank it, and ``precision``, ``recall`` and
    ``f1`` of what is predicted. What is not defined is left out."""
    confusion: Int[np.ndarray, "C C"] | None
    """Images by true (row) and predicted (column) class; None where there are no classes."""

    def __getitem__(self, name: str) -> float:
        return self.values[name]


def score(
    name: str,
    said: Float[np.ndarray, "N C"],
    labels: np.ndarray,
    classes: Sequence[str],
    task: str = "multiclass",
) -> float:
    """One score of one split.

    - ``auc`` (section 4.2.2), ``average_precision``, ``sensitivity_at_90`` (at 90 % specificity) and
      ``specificity_at_90``: of class 1 where there are two, else the mean of one against the rest, or over labels. A
      class or label that has no image, or every image, is left out of the mean. Each is ranked by its own column, so
      that rows need not sum to 1 exactly.
    - ``accuracy``, ``balanced_accuracy``, ``f1`` (means over the classes that are there), ``kappa`` (quadratic weights:
      classes are taken as grades, in their order) and, of grades, ``mae`` in grades: of what is ``predicted``.
    - ``r2``, ``spearman`` and ``mae`` of values.

    Args:
        name: of the score.
        said: class or label probabilities, or values as one column.
        labels: class numbers; rows of 0, 1 and NaN (not known); or values.
        classes: names of the columns.
        task: as in ``config.tasks``.

    Raises:
        MetricError: nothing has both kinds of images, there are fewer than two classes, a prediction is not finite, or
            all values are the same.
    """
    _check(said, labels, classes, task)
    return _score(name, said, labels, task)


def _score(name: str, said: Float[np.ndarray, "N C"], labels: np.ndarray, task: str) -> float:
    if task == "regression":
        return _OF_VALUES[name](labels, said[:, 0])
    if name in RANKING:
        return _mean(RANKING[name](column.positive, column.scores) for column in ranked(said, labels))
    if task == "multilabel":
        return _mean(_f1(column.positive, column.scores >= HALF) for column in ranked(said, labels))
    return _OF_CLASSES[name](labels, predicted(said, task), np.arange(said.shape[1]))


def auc(probabilities: Float[np.ndarray, "N C"], labels: np.ndarray, classes: Sequence[str]) -> float:
    """``score`` of the name ``auc``, of classes."""
    return score("auc", probabilities, labels, classes)


def scores(
    said: Float[np.ndarray, "N C"], labels: np.ndarray, classes: Sequence[str], task: str = "multiclass"
) -> Scores:
    """All scores of one split, and those of each class; see ``score``."""
    _check(said, labels, classes, task)
    values = {name: _score(name, said, labels, task) for name in names_of(task)}
    if task == "regression":
        return Scores(values=values, per_class={}, confusion=None)
    of_classes = task != "multilabel"
    guesses = predicted(said, task) if of_classes else said >= HALF
    return Scores(
        values=values,
        per_class={
            classes[column.number]: _of_class(
                column, guesses == column.number if of_classes else guesses[column.rows, column.number]
            )
            for column in columns(said, labels)
        },
        confusion=sklearn_metrics.confusion_matrix(labels, guesses, labels=np.arange(len(classes)))
        if of_classes
        else None,
    )


def names_of(task: str) -> tuple[str, ...]:
    """The names of a task's scores."""
    if task == "regression":
        return tuple(_OF_VALUES)
    predicting = {"multilabel": ("f1",), "ordinal": tuple(_OF_CLASSES)}
    return (*RANKING, *predicting.get(task, tuple(name for name in _OF_CLASSES if name != "mae")))


def predicted(probabilities: Float[np.ndarray, "N C"], task: str) -> Int[np.ndarray, " N"]:
    """The class of each image: the most probable one, of equal ones the first.

    Of grades it is the median: the number of grades that are passed with a probability above one half, as in Shi et
    al., arXiv 2111.08851.
    """
    if task != "ordinal":
        return probabilities.argmax(axis=1)
    passed = 1 - probabilities.cumsum(axis=1)[:, :-1]
    return (passed > HALF).sum(axis=1)


# --- one score ----------------------------------------------------------------------------------------------------


def _mean(found: Iterable[float]) -> float:
    parts = list(found)
    return math.fsum(parts) / len(parts)


def _accuracy(labels: np.ndarray, guesses: np.ndarray, _known: np.ndarray) -> float:
    return float(sklearn_metrics.accuracy_score(labels, guesses))


def _balanced_accuracy(labels: np.ndarray, guesses: np.ndarray, _known: np.ndarray) -> float:
    there = np.unique(labels)
    return float(sklearn_metrics.recall_score(labels, guesses, labels=there, average="macro", zero_division=0.0))  # type: ignore[arg-type]


def _macro_f1(labels: np.ndarray, guesses: np.ndarray, _known: np.ndarray) -> float:
    there = np.unique(labels)
    return float(sklearn_metrics.f1_score(labels, guesses, labels=there, average="macro", zero_division=0.0))  # type: ignore[arg-type]


def _kappa(labels: np.ndarray, guesses: np.ndarray, known: np.ndarray) -> float:
    return float(sklearn_metrics.cohen_kappa_score(labels, guesses, labels=known, weights="quadratic"))


def _grades_off(labels: np.ndarray, guesses: np.ndarray, _known: np.ndarray) -> float:
    return float(np.abs(labels - guesses).mean())


def _f1(positive: np.ndarray, guesses: np.ndarray) -> float:
    return float(sklearn_metrics.f1_score(positive, guesses, zero_division=0.0))  # type: ignore[arg-type]


def _spearman(values: np.ndarray, guesses: np.ndarray) -> float:
    """0 where all guesses are the same: they tell no order."""
    return 0.0 if np.ptp(guesses) == 0 else float(stats.spearmanr(values, guesses)[0])  # type: ignore[arg-type]


_OF_CLASSES: Mapping[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "f1": _macro_f1,
    "kappa": _kappa,
    "mae": _grades_off,
}
_OF_VALUES: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "r2": lambda values, guesses: float(sklearn_metrics.r2_score(values, guesses)),
    "spearman": _spearman,
    "mae": lambda values, guesses: float(sklearn_metrics.mean_absolute_error(values, guesses)),
}


def _of_class(column: Column, guesses: Bool[np.ndarray, " N"]) -> dict[str, float]:
    positive = column.positive
    hits, said, there = int((guesses & positive).sum()), int(guesses.sum()), int(positive.sum())
    found = {"images": float(there)}
    if column.has_both:
        found |= {name: function(positive, column.scores) for name, function in RANKING.items()}
    if said:
        found["precision"] = hits / said
    if there:
        found |= {"recall": hits / there, "f1": 2 * hits / (said + there)}
    return found


# --- what is refused ----------------------------------------------------------------------------------------------


def _check(said: Float[np.ndarray, "N C"], labels: np.ndarray, classes: Sequence[str], task: str) -> None:
    if task in ("multiclass", "binary", "ordinal") and len(classes) < 2:
        raise MetricError(f"classes are {tuple(classes)}; at least two are needed")
    if said.shape != (len(labels), len(classes)):
        raise MetricError(f"predictions have the shape {said.shape}; expected ({len(labels)}, {len(classes)})")
    if not np.isfinite(said).all():
        rows = np.flatnonzero(~np.isfinite(said).all(axis=1))
        raise MetricError(
            f"{len(rows)} of {len(labels)} images have a prediction that is not finite; the model diverged"
        )
    if task == "regression":
        if len(labels) < 2 or np.ptp(labels) == 0:
            raise MetricError(f"{classes[0]!r} has one value in all {len(labels)} images; a split needs several")
        return
    if labels.ndim == 1 and len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise MetricError(f"labels are {labels.min()}..{labels.max()}; they must be 0..{len(classes) - 1}")
    if not ranked(said, labels):
        raise MetricError(
            f"no class or label has both images that are of it and images that are not, among {len(labels)} images and "
            f"{', '.join(map(repr, classes[:5]))}; nothing can be scored on this split"
        )


# --- what it cost -------------------------------------------------------------------------------------------------


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
