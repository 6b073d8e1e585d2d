"""How far probabilities may be believed: temperature scaling, and what is left of the error of calibration.

Several labels are as many pairs of classes, each on the images of which the label is known; values have neither.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import expit

from fpt_ray.metrics.intervals import DRAWS, Estimate, interval, resamples
from fpt_ray.metrics.scores import predicted

BINS = 15
"""Of equal width, over the probability of the predicted class."""
_LARGEST = 20.0
"""Of a temperature and of its inverse: a model that is always right asks for 0, one that knows nothing for infinity."""
_LEAST = 1e-12
"""Of a probability whose logarithm is taken."""


class _Classes(NamedTuple):
    """Probabilities that add up to 1, and the classes of the images."""

    probabilities: Float[np.ndarray, "M C"]
    labels: Int[np.ndarray, " M"]
    rows: Bool[np.ndarray, " N"]
    """Which of all images these are."""


class Bin(NamedTuple):
    """The images of which a model is about as sure as of each other."""

    images: int
    confidence: float
    """Mean probability of the predicted class."""
    right: int
    """Images that are of it."""


# --- temperatures -------------------------------------------------------------------------------------------------


def fitted_temperatures(said: Float[np.ndarray, "N C"], labels: np.ndarray, task: str) -> tuple[float, ...]:
    """The temperatures by which logits are to be divided for the least log loss on these images (Guo et al. 2017).

    One for classes or grades, one for each of several labels, none for values. Probabilities serve as well as logits:
    their logarithm differs from these by a number an image. Of grades it divides the log odds that each is passed.

    Args:
        said: as of ``metrics.scores.score``.
        labels: as of the same.
        task: as in ``config.tasks``.
    """
    return tuple(_temperature(part, task) for part in _as_classes(said, labels, task))


def calibrated(
    said: Float[np.ndarray, "... C"], temperatures: Sequence[float], task: str
) -> Float[np.ndarray, "... C"]:
    """What a network says, its logits divided by temperatures; ``metrics.scores.predicted`` stays the same."""
    if task == "regression":
        return said
    if task != "multilabel":
        return np.exp(_log_divided(said, temperatures[0], task))
    pairs = zip(np.moveaxis(said, -1, 0), temperatures, strict=True)
    each = [np.exp(_log_divided(np.stack([1 - one, one], axis=-1), by, task)) for one, by in pairs]
    return np.stack([one[..., 1] for one in each], axis=-1)


def _temperature(part: _Classes, task: str) -> float:
    if not part.rows.any() or (task == "multilabel" and len(np.unique(part.labels)) < 2):
        return 1.0  # of a label that all known images have, or none, the loss falls without end as answers grow sure
    bound = np.log(_LARGEST)
    found = minimize_scalar(
        lambda log: _log_losses(_log_divided(part.probabilities, np.exp(log), task), part.labels).mean(),
        bounds=(-bound, bound),
        method="bounded",
    )
    return float(np.exp(found.x))


def _log_divided(probabilities: Float[np.ndarray, "... C"], by: float, task: str) -> Float[np.ndarray, "... C"]:
    """Logarithms of what becomes of probabilities. Those of grades would get other medians by a softmax."""
    if task != "ordinal":
        return _log_softmax(_logarithm(probabilities) / by)
    below = np.tri(probabilities.shape[-1])[:-1].T  # C x C-1: which grades are at most the k-th
    odds = _logarithm(probabilities @ (1 - below)) - _logarithm(probabilities @ below)
    return _logarithm(np.diff(expit(-odds / by), prepend=0.0, append=1.0, axis=-1))


# --- errors -------------------------------------------------------------------------------------------------------


def calibration_errors(
    said: Float[np.ndarray, "N C"], labels: np.ndarray, counts: Int[np.ndarray, "R N"], task: str
) -> dict[str, Float[np.ndarray, " R"]]:
    """{name: the error in each resample}, of several labels the mean over these; nothing of values. Less is better.

    - ``log_loss``;
    - ``brier``: sum over the classes of the squared distance from 0 or 1, mean over the images (Brier 1950): 0..2;
    - ``ece``: expected calibration error of the predicted class, 15 bins of equal width (Guo et al. 2017, Eq. 3).

    ``counts`` says how often each image stands in each resample.
    """
    known = [part for part in _as_classes(said, labels, task) if part.rows.any()]
    found = [_errors(part, counts[:, part.rows], task) for part in known]
    return {name: np.mean([one[name] for one in found], axis=0) for name in found[0]} if found else {}


def estimated_errors(
    models: Sequence[Float[np.ndarray, "N C"]], labels: np.ndarray, task: str, *, draws: int = DRAWS
) -> list[dict[str, Estimate]]:
    """The ``calibration_errors`` of each model with their intervals; all are resampled alike."""
    once = np.ones((1, len(labels)), np.int64)
    values = [calibration_errors(said, labels, once, task) for said in models]
    if not values[0]:
        return [{} for _ in models]
    parts = [[calibration_errors(said, labels, c, task) for said in models] for c in resamples(labels, draws, 0)]
    return [
        {
            name: Estimate(float(value[0]), *interval(np.concatenate([part[at][name] for part in parts])))
            for name, value in own.items()
        }
        for at, own in enumerate(values)
    ]


def reliability(said: Float[np.ndarray, "N C"], labels: np.ndarray, task: str) -> list[Bin]:
    """The bins of confidence that are not empty, rising; several labels count together, values have none."""
    if task == "regression":
        return []
    each = [_confidence(part, task) for part in _as_classes(said, labels, task)]
    confidence, right, bins = (np.concatenate(parts) for parts in zip(*each, strict=True))
    return [
        Bin(int(inside.sum()), float(confidence[inside].mean()), int(right[inside].sum()))
        for inside in (bins == number for number in range(BINS))
        if inside.any()
    ]


def _errors(part: _Classes, counts: Int[np.ndarray, "R M"], task: str) -> dict[str, Float[np.ndarray, " R"]]:
    truth, size = np.eye(part.probabilities.shape[1])[part.labels], counts.sum(axis=1)
    confidence, right, bins = _confidence(part, task)
    gaps = np.eye(BINS)[bins] * (right - confidence)[:, None]
    with np.errstate(invalid="ignore"):  # a label may be known of no image of a resample
        return {
            "log_loss": counts @ _log_losses(_logarithm(part.probabilities), part.labels) / size,
            "brier": counts @ np.sum((part.probabilities - truth) ** 2, axis=1) / size,
            "ece": np.abs(counts @ gaps).sum(axis=1) / size,
        }


def _confidence(
    part: _Classes, task: str
) -> tuple[Float[np.ndarray, " M"], Bool[np.ndarray, " M"], Int[np.ndarray, " M"]]:
    """The probability of each image's predicted class, whether it is right, and the number of its bin."""
    called = predicted(part.probabilities, task)
    confidence = part.probabilities[np.arange(len(called)), called]
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return confidence, called == part.labels, bins


def _log_losses(log_probabilities: Float[np.ndarray, "M C"], labels: Int[np.ndarray, " M"]) -> np.ndarray:
    return -log_probabilities[np.arange(len(labels)), labels]


# --- several labels, and logarithms -------------------------------------------------------------------------------


def _as_classes(said: Float[np.ndarray, "N C"], labels: np.ndarray, task: str) -> Iterator[_Classes]:
    """What is said, as classes: once; of several labels, each as two; of values, nothing."""
    if task == "multilabel":
        for one, known in zip(said.T, labels.T, strict=True):
            rows = ~np.isnan(known)
            yield _Classes(np.stack([1 - one, one], axis=-1)[rows], known[rows].astype(np.int64), rows)
    elif task != "regression":
        yield _Classes(said, labels, np.ones(len(labels), bool))


def _logarithm(probabilities: Float[np.ndarray, "... C"]) -> Float[np.ndarray, "... C"]:
    return np.log(np.maximum(probabilities.astype(np.float64), _LEAST))


def _log_softmax(logits: Float[np.ndarray, "... C"]) -> Float[np.ndarray, "... C"]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
