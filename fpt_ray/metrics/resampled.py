"""The scores of ``metrics.scores`` in many resamples at once, from how often each image stands in each of them."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int

from fpt_ray.metrics.columns import AT, RANKING, Column, ranked
from fpt_ray.metrics.scores import HALF, predicted

_ROUNDING = 1e-9


def resampled_scores(
    names: Sequence[str], said: Float[np.ndarray, "N C"], labels: np.ndarray, counts: Int[np.ndarray, "R N"], task: str
) -> dict[str, Float[np.ndarray, " R"]]:
    """{name: the score in each resample}; NaN where it is not defined there.

    Args:
        names: of the scores.
        said: as of ``metrics.scores.score``.
        labels: as of the same.
        counts: how often each image stands in each of R resamples.
        task: as in ``config.tasks``.
    """
    if task == "regression":
        return _of_values(said[:, 0].astype(np.float64), labels.astype(np.float64), counts)
    found: dict[str, Float[np.ndarray, " R"]] = {}
    if any(name in RANKING for name in names):
        found |= _ranking(ranked(said, labels), counts)
    if task == "multilabel":
        return found | {"f1": _label_f1(ranked(said, labels), counts)}
    if any(name not in RANKING for name in names):
        found |= _of_classes(labels, predicted(said, task), said.shape[1], counts)
    return found


def _mean_there(parts: Iterator[Float[np.ndarray, " R"]]) -> Float[np.ndarray, " R"]:
    """The mean over what is defined, in each resample."""
    stacked = np.stack(list(parts))
    there = ~np.isnan(stacked)
    with np.errstate(invalid="ignore"):
        return np.where(there, stacked, 0.0).sum(axis=0) / there.sum(axis=0)


# --- ranking ------------------------------------------------------------------------------------------------------


def _ranking(found: Sequence[Column], counts: Int[np.ndarray, "R N"]) -> dict[str, Float[np.ndarray, " R"]]:
    parts = [_of_column(column, counts[:, column.rows]) for column in found]
    return {name: _mean_there(part[name] for part in parts) for name in RANKING}


def _of_column(column: Column, counts: Int[np.ndarray, "R M"]) -> dict[str, Float[np.ndarray, " R"]]:
    """Images of one score are a group; all follows from sums over the groups, without a matrix of pairs.

    The AUC is the share of pairs (positive, negative) in the right order, ties counted half.
    """
    order = np.argsort(column.scores, kind="stable")
    starts = np.flatnonzero(np.diff(column.scores[order], prepend=-np.inf) > 0)
    ups = np.add.reduceat(counts[:, order] * column.positive[order], starts, axis=1)
    downs = np.add.reduceat(counts[:, order] * ~column.positive[order], starts, axis=1)
    below = np.cumsum(downs, axis=1) - downs / 2
    right, wrong = (np.cumsum(part[:, ::-1], axis=1) for part in (ups, downs))  # from the highest threshold on
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = right / right[:, -1:], 1 - wrong / wrong[:, -1:]
        steps, precision = np.diff(sensitivity, prepend=0), right / np.maximum(right + wrong, 1)
        return {
            "auc": (ups * below).sum(axis=1) / (ups.sum(axis=1) * downs.sum(axis=1)),
            "average_precision": (steps * precision).sum(axis=1) + 0 * specificity[:, -1],
            "sensitivity_at_90": _best(sensitivity, specificity),
            "specificity_at_90": _best(specificity, sensitivity),
        }


def _best(wanted: Float[np.ndarray, "R T"], given: Float[np.ndarray, "R T"]) -> Float[np.ndarray, " R"]:
    """The highest value of one over the thresholds, and beyond all of them, at which the other is high enough."""
    found = np.where(given >= AT - _ROUNDING, wanted, 0.0).max(axis=1)
    return found + 0 * given[:, -1] + 0 * wanted[:, -1]  # NaN where there is none of a kind


def _label_f1(found: Sequence[Column], counts: Int[np.ndarray, "R N"]) -> Float[np.ndarray, " R"]:
    def of_one(column: Column) -> Float[np.ndarray, " R"]:
        guesses, own = column.scores >= HALF, counts[:, column.rows]
        hits, said, there = (own @ part for part in (guesses & column.positive, guesses, column.positive))
        with np.errstate(invalid="ignore"):
            return np.where((there > 0) & (there < own.sum(axis=1)), 2 * hits / (said + there), np.nan)

    return _mean_there(of_one(column) for column in found)


# --- of predicted classes, and of values --------------------------------------------------------------------------


def _of_classes(
    labels: Int[np.ndarray, " N"], guesses: Int[np.ndarray, " N"], num_classes: int, counts: Int[np.ndarray, "R N"]
) -> dict[str, Float[np.ndarray, " R"]]:
    size, each = counts.sum(axis=1), np.eye(num_classes)
    there, said = counts @ each[labels], counts @ each[guesses]
    hits = counts @ (each[labels] * (labels == guesses)[:, None])
    # Quadratic weights need sums alone: over pairs of an image's class and another's guess, as chance would have it.
    squares = (counts @ labels**2 + counts @ guesses**2) / size
    by_chance = squares - 2 * (counts @ labels) * (counts @ guesses) / size**2
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "accuracy": hits.sum(axis=1) / size,
            "balanced_accuracy": _mean_there(iter((hits / there).T)),
            "f1": _mean_there(iter(np.where(there > 0, 2 * hits / (said + there), np.nan).T)),
            "kappa": 1 - (counts @ (labels - guesses) ** 2 / size) / by_chance,
            "mae": counts @ np.abs(labels - guesses) / size,
        }


def _of_values(
    guesses: Float[np.ndarray, " N"], values: Float[np.ndarray, " N"], counts: Int[np.ndarray, "R N"]
) -> dict[str, Float[np.ndarray, " R"]]:
    middle = np.median(values)  # of large values, sums of squares say nothing else
    guesses, values = guesses - middle, values - middle
    size, drawn = counts.sum(axis=1), counts > 0
    several = np.where(drawn, values, -np.inf).max(axis=1) > np.where(drawn, values, np.inf).min(axis=1)
    spread = np.where(several, counts @ values**2 / size - (counts @ values / size) ** 2, np.nan)
    ranks = [_ranks(kind, counts) for kind in (values, guesses)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "r2": 1 - (counts @ (values - guesses) ** 2 / size) / spread,
            "spearman": _rank_correlation(ranks[0], ranks[1], counts),
            "mae": counts @ np.abs(values - guesses) / size,
        }


def _ranks(values: Float[np.ndarray, " N"], counts: Int[np.ndarray, "R N"]) -> Float[np.ndarray, "R N"]:
    """The rank of each image in each resample, equal values sharing the mean of theirs."""
    _, group = np.unique(values, return_inverse=True)
    sizes = np.stack([np.bincount(group, one) for one in counts])
    return (np.cumsum(sizes, axis=1) - sizes + (sizes + 1) / 2)[:, group]


def _rank_correlation(
    values: Float[np.ndarray, "R N"], guesses: Float[np.ndarray, "R N"], counts: Int[np.ndarray, "R N"]
) -> Float[np.ndarray, " R"]:
    """Of ranks; 0 where all guesses are equal and values are not, as ``metrics.scores`` has it."""
    size = counts.sum(axis=1, keepdims=True)
    values, guesses = (part - (counts * part).sum(axis=1, keepdims=True) / size for part in (values, guesses))
    spread, guessed = (counts * values**2).sum(axis=1), (counts * guesses**2).sum(axis=1)
    found = (counts * values * guesses).sum(axis=1) / np.sqrt(spread * guessed)
    return np.where((guessed == 0) & (spread > 0), 0.0, found)
