"""The Pareto front of points."""

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
    left = np.lexsort(-gains.T[::-1])
    left = left[~np.isnan(gains[left]).any(axis=1)]
    while len(left):  # the best in the first objective, and of those in the next, is dominated by none
        front[left[0]] = True
        others, gain = gains[left[1:]], gains[left[0]]
        as_bad = (others <= gain).all(axis=1)
        left = left[1:][~(as_bad & (others < gain).any(axis=1))]
    return front
