"""What several models that answer as one gain over one of them, on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fpt_ray.metrics.intervals import Estimate, bootstrap, interval
from fpt_ray.metrics.scores import scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """A score of all together, and of one alone."""

    together: float
    alone: float
    difference: Estimate
    """Of the first from the second, with its 95 % interval: both on the same resamples of the same images."""


def gains(
    together: Float[np.ndarray, "N C"],
    alone: Float[np.ndarray, "N C"],
    labels: np.ndarray,
    classes: Sequence[str],
    names: Sequence[str],
    task: str,
) -> dict[str, Gain]:
    """{score: what is gained in it}; the arguments are those of ``metrics.scores.scores``.

    Raises:
        MetricError: the images do not have what scores need.
    """
    ours, theirs = (scores(said, labels, classes, task) for said in (together, alone))
    drawn = bootstrap([[together], [alone]], labels, names, task)
    return {
        name: Gain(
            together=ours[name],
            alone=theirs[name],
            difference=Estimate(ours[name] - theirs[name], *interval(drawn[name][0] - drawn[name][1])),
        )
        for name in names
    }
