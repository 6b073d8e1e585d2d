"""How like the training images another one is: the distance of its class token from theirs, against held-out images'.

The distance is Mahalanobis's from one Gaussian over all classes (as Lee et al. 2018, arXiv 1807.03888, with one for
each). Its covariance is shrunk (Ledoit and Wolf 2004) and cut: the leading directions keep their variance, all others
share the mean of theirs (probabilistic PCA, Tipping and Bishop 1999). So it is small, whatever the images.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from sklearn.covariance import LedoitWolf

UNLIKE = 0.01
"""An image is unlike the training images below this familiarity."""
_DIRECTIONS = 128
_NUMBERS = 240_000
"""Of mean and directions together, so that a bundle's stay below 1 MB: ViTs of more than 1,860 numbers keep fewer."""
_HELD_OUT = 1000
"""Distances that are kept at most: of more images, so many quantiles."""
_LEAST = 1e-9
"""Of a variance, as a share of the largest: of images that are all the same there is none."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Familiarity:
    """A Gaussian of the training images' class tokens, and how far held-out images of the same kind are from it."""

    mean: Float32[np.ndarray, " D"]
    directions: Float32[np.ndarray, "K D"]
    """The leading ones, of unit length, at right angles."""
    variances: Float32[np.ndarray, " K+1"]
    """Along each of them, then along any other."""
    held_out: Float32[np.ndarray, " Q"]
    """Distances of validation images, rising."""

    def distances(self, tokens: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " N"]:
        """Of class tokens from the training images': how many standard deviations."""
        away = tokens.astype(np.float64) - self.mean
        along = away @ self.directions.astype(np.float64).T
        other = np.maximum((away**2).sum(axis=1) - (along**2).sum(axis=1), 0.0)
        return np.sqrt((along**2 / self.variances[:-1]).sum(axis=1) + other / self.variances[-1])

    def of(self, tokens: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " N"]:
        """The share of held-out images that are at least as far from the training images: 0 is farther than all."""
        nearer = np.searchsorted(self.held_out, self.distances(tokens).astype(np.float32), side="left")
        return 1 - nearer / len(self.held_out)

    @property
    def by_chance(self) -> float:
        """The share of images of the same kind that are to be expected below ``UNLIKE``."""
        return max(UNLIKE, 1 / (len(self.held_out) + 1))


def fitted_familiarity(train: Float[np.ndarray, "N D"], held_out: Float[np.ndarray, "M D"]) -> Familiarity:
    """The Gaussian of the class tokens of training images, measured on those of images that it has not seen."""
    found = LedoitWolf().fit(train.astype(np.float64))
    variances, directions = np.linalg.eigh(found.covariance_)  # rising
    variances = np.maximum(variances, max(_LEAST * variances[-1], _LEAST))
    kept = min(_DIRECTIONS, len(variances) - 1, _NUMBERS // len(variances) - 1)
    rest, leading = np.split(variances, [len(variances) - kept])
    gaussian = Familiarity(
        mean=found.location_.astype(np.float32),
        directions=np.ascontiguousarray(directions.T[len(variances) - kept :], np.float32),
        variances=np.append(leading, rest.mean()).astype(np.float32),
        held_out=np.zeros(0, np.float32),
    )
    distances = np.sort(gaussian.distances(held_out))
    if len(distances) > _HELD_OUT:
        distances = np.quantile(distances, np.linspace(0, 1, _HELD_OUT))
    return Familiarity(
        mean=gaussian.mean,
        directions=gaussian.directions,
        variances=gaussian.variances,
        held_out=distances.astype(np.float32),
    )
