"""How far probabilities may be believed: temperature scaling, and what is left of the error of calibration."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar

_BINS = 15
_LARGEST = 20.0
"""Of a temperature and of its inverse: a model that is always right asks for 0, one that knows nothing for infinity."""
_LEAST = 1e-12
"""Of a probability whose logarithm is taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """How well the probabilities of some images agree with their classes; less is better."""

    log_loss: float
    brier: float
    """Sum over the classes of the squared distance from 0 or 1, mean over the images (Brier 1950): 0..2."""
    ece: float
    """Expected calibration error of the predicted class, 15 bins of equal width (Guo et al. 2017, Eq. 3)."""


def calibration(probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> Calibration:
    """All of it, of images whose probabilities add up to 1."""
    truth = np.eye(probabilities.shape[1])[labels]
    return Calibration(
        log_loss=_log_loss(_logarithm(probabilities), labels),
        brier=float(np.mean(np.sum((probabilities - truth) ** 2, axis=1))),
        ece=_ece(probabilities, labels),
    )


def temperature(probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> float:
    """The temperature by which logits are to be divided for the least log loss on these images (Guo et al. 2017).

    Probabilities serve as well as logits: their logarithm differs from these by a number an image.
    """
    logits = _logarithm(probabilities)
    bound = np.log(_LARGEST)
    found = minimize_scalar(
        lambda log: _log_loss(_log_softmax(logits / np.exp(log)), labels), bounds=(-bound, bound), method="bounded"
    )
    return float(np.exp(found.x))


def tempered(probabilities: Float[np.ndarray, "... C"], temperature: float) -> Float[np.ndarray, "... C"]:
    """The probabilities whose logits are divided by a temperature; which class is the most probable stays."""
    return np.exp(_log_softmax(_logarithm(probabilities) / temperature))


def temperatures(said: Float[np.ndarray, "N C"], labels: np.ndarray, task: str) -> tuple[float, ...]:
    """One for classes or grades, one for each of several labels, none for values (tasks of ``config.tasks``)."""
    if task == "regression":
        return ()
    if task != "multilabel":
        return (temperature(said, labels),)
    return tuple(temperature(*pair) for pair in _by_label(said, labels))


def calibrated(said: Float[np.ndarray, "... C"], by: Sequence[float], task: str) -> Float[np.ndarray, "... C"]:
    """What a network says, by its ``temperatures``."""
    if task == "regression":
        return said
    if task != "multilabel":
        return tempered(said, by[0])
    parts = [tempered(np.stack([1 - one, one], axis=-1), t)[..., 1] for one, t in zip(_columns(said), by, strict=True)]
    return np.stack(parts, axis=-1)


def calibrations(said: Float[np.ndarray, "N C"], labels: np.ndarray, task: str) -> Calibration | None:
    """Of several labels the means over these; of values there is none."""
    if task == "regression":
        return None
    if task != "multilabel":
        return calibration(said, labels)
    found = [asdict(calibration(*pair)) for pair in _by_label(said, labels)]
    return Calibration(**{name: float(np.mean([one[name] for one in found])) for name in found[0]})


def _by_label(
    said: Float[np.ndarray, "N L"], labels: Float[np.ndarray, "N L"]
) -> Iterator[tuple[Float[np.ndarray, "M 2"], Int[np.ndarray, " M"]]]:
    """Each label as two classes, of the images of which it is known."""
    for one, known in zip(_columns(said), labels.T, strict=True):
        there = ~np.isnan(known)
        yield np.stack([1 - one, one], axis=-1)[there], known[there].astype(np.int64)


def _columns(said: Float[np.ndarray, "... C"]) -> list[np.ndarray]:
    return list(np.moveaxis(said, -1, 0))


def reliability(
    probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]
) -> list[tuple[int, float, float]]:
    """(images, mean confidence, share that is right) of every bin of confidence that is not empty."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return [
        (int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
        for inside in (bins == number for number in range(_BINS))
        if inside.any()
    ]


def _ece(probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> float:
    gaps = [(count, abs(right - sure)) for count, sure, right in reliability(probabilities, labels)]
    return sum(count * gap for count, gap in gaps) / len(labels)


def _log_loss(log_probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> float:
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def _logarithm(probabilities: Float[np.ndarray, "... C"]) -> Float[np.ndarray, "... C"]:
    return np.log(np.maximum(probabilities.astype(np.float64), _LEAST))


def _log_softmax(logits: Float[np.ndarray, "... C"]) -> Float[np.ndarray, "... C"]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
