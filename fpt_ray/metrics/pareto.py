"""The Pareto front of points, and its hyper-volume."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float


def pareto_front(points: Float[np.ndarray, "M K"], modes: Sequence[Literal["max", "min"]]) -> Bool[np.ndarray, " M"]:
    """Which of M points no other one dominates: is as good in all K objectives and better in one.

    Equal points are kept or dropped together. A point with a NaN is not on the front and dominates nothing.
    """
    signs = np.asarray([1.0 if mode == "max" else -1.0 for mode in modes])
    gains = points * signs
    front = np.zeros(len(gains), dtype=bool)
    for index, gain in enumerate(gains):
        as_good = (gains >= gain).all(axis=1)  # False beside a NaN
        front[index] = as_good[index] and not (as_good & (gains > gain).any(axis=1)).any()
    return front


def hypervolume(gains: Float[np.ndarray, "M K"]) -> float:
    """Volume of the union of the boxes from the origin to each of M points, none negative.

    It is summed over the cells between their coordinates: exact, and for tens of points.
    """
    edges = [np.unique([0.0, *column]) for column in gains.T]
    cells = np.zeros([len(edge) - 1 for edge in edges], bool)
    for point in gains:
        cells[tuple(slice(0, np.searchsorted(edge, value)) for edge, value in zip(edges, point, strict=True))] = True
    sizes = np.ix_(*(np.diff(edge) for edge in edges))
    return float((cells * np.prod(np.broadcast_arrays(*sizes), axis=0)).sum())
