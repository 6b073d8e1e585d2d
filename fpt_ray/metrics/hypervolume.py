"""The hyper-volume of points, of all together or as it grows with them, in memory that is that of the points."""

import numpy as np
from jaxtyping import Float

from fpt_ray.metrics.pareto import pareto_front

EXACT_OBJECTIVES = 3
"""Up to here ``volume_history`` is exact. Beyond, one exact volume takes the front's size to the power of K - 1."""
SAMPLES = 2**15
"""Of the volume beyond; its standard error is 0.3 % of the box of all points at most."""


def hypervolume(gains: Float[np.ndarray, "M K"]) -> float:
    """Volume of the union of the boxes from the origin to each of M points, none negative.

    It is exact, and summed slice by slice along the last objective: a slice is as deep as from one point to the next.
    """
    dimensions = gains.shape[1]
    if dimensions == 1:
        return float(gains.max(initial=0.0))
    if dimensions == 2:
        gains = gains[np.argsort(-gains[:, 0], kind="stable")]
        heights = np.maximum.accumulate(gains[:, 1])
        return float(np.sum(gains[:, 0] * np.diff(heights, prepend=0.0)))
    gains = gains[pareto_front(gains, ("max",) * dimensions)]
    gains = gains[np.argsort(-gains[:, -1], kind="stable")]
    depths = gains[:, -1] - np.append(gains[1:, -1], 0.0)
    return float(
        sum(hypervolume(gains[: index + 1, :-1]) * depth for index, depth in enumerate(depths.tolist()) if depth)
    )


def volume_history(gains: Float[np.ndarray, "M K"]) -> list[float]:
    """The hyper-volume of the first 1, 2, ... M points, none negative; from 4 objectives on it is estimated."""
    if gains.shape[1] > EXACT_OBJECTIVES:
        return _sampled_history(gains)
    front, volume, volumes = np.empty((0, gains.shape[1])), 0.0, []
    for gain in gains:
        if gain.min() > 0 and not (front >= gain).all(axis=1).any():
            volume += gain.prod() - hypervolume(np.minimum(front, gain))
            front = np.vstack([front[~(front <= gain).all(axis=1)], gain])
        volumes.append(float(volume))
    return volumes


def _sampled_history(gains: Float[np.ndarray, "M K"]) -> list[float]:
    """The share of random places in the box of all points that lies below one of them; the same each time."""
    box = gains.max(axis=0)
    outside = np.random.default_rng(0).random((SAMPLES, len(box))) * box
    volumes = []
    for gain in gains:
        outside = outside[(outside >= gain).any(axis=1)]
        volumes.append(float((1 - len(outside) / SAMPLES) * box.prod()))
    return volumes
