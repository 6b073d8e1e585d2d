"""Whether what was looked at matters: patches are deleted or inserted, the most attended first.

After RISE (Petsiuk, Das and Saenko, BMVC 2018, arXiv 1806.07421), which asks the same of any map of importance.
Deletion paints patches over with the image's mean colour; insertion shows them on an image that is blurred by a
Gaussian as wide as a patch, so that no sharp edges tell anything. All is computed anew from the changed pixels: the
LPM's tokens, which of them are kept, and the low-resolution image that a side network reads. If the order is right, the
answer falls early in deletion (a small area) and comes early in insertion (a large one). Only the order counts, and
changed images are unlike those that were learnt from (Gomez et al., arXiv 2201.13291): an area says little by itself,
and more beside those of random orders.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageFilter

from fpt_ray.predict.classifier import Classifier

SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""Of the patches that are deleted or inserted: dense where the attended ones are."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Curves:
    """The calibrated probability of a class (of regression the value) at each of ``SHARES``."""

    deletion: Float[np.ndarray, " K"]
    insertion: Float[np.ndarray, " K"]
    random_deletion: Float[np.ndarray, "R K"]
    """In so many random orders of all patches."""
    random_insertion: Float[np.ndarray, "R K"]

    def areas(self) -> dict[str, float]:
        """{name: the area below a curve, over 0..1; of random orders the mean}."""
        return {one.name: float(area(getattr(self, one.name)).mean()) for one in dataclasses.fields(self)}


def area(values: Float[np.ndarray, "*R K"]) -> Float[np.ndarray, "*R"]:
    """The area below curves at ``SHARES``: their mean height."""
    return np.asarray(np.trapezoid(values, SHARES, axis=-1))


def curves_of(
    classifier: Classifier,
    square: UInt8[np.ndarray, "R R 3"],
    attended: Float[np.ndarray, "side side"],
    column: int,
    num_random: int,
) -> Curves:
    """Deletion and insertion of an image's patches.

    Args:
        classifier: what says something of the changed images.
        square: the image as the LPM sees it.
        attended: what decides the order. Patches that are paid alike, such as all that no head keeps, come at random.
        column: the class, label or value that is followed.
        num_random: the number of random orders, at least one; their seeds are 0, 1, ...
    """
    side = len(attended)
    grey = np.broadcast_to(square.mean(axis=(0, 1)).round().astype(np.uint8), square.shape)
    blur = ImageFilter.GaussianBlur(len(square) / side)
    blurred = np.array(Image.fromarray(square).filter(blur))
    ends = classifier.answers(np.stack([square, grey, blurred])).probabilities[:, column]

    def followed(order: Int[np.ndarray, " patches"], below: np.ndarray, above: np.ndarray) -> np.ndarray:
        images = np.stack([composed(below, above, order[: round(share * len(order))], side) for share in SHARES[1:-1]])
        return classifier.answers(images).probabilities[:, column]

    def both(order: Int[np.ndarray, " patches"]) -> tuple[np.ndarray, np.ndarray]:
        deletion = [ends[0], *followed(order, square, grey), ends[1]]
        insertion = [ends[2], *followed(order, blurred, square), ends[0]]
        return np.array(deletion, np.float64), np.array(insertion, np.float64)

    own = both(by_attention(attended))
    drawn = [both(np.random.default_rng(seed).permutation(side * side)) for seed in range(num_random)]
    deletions, insertions = zip(*drawn, strict=True)
    return Curves(
        deletion=own[0],
        insertion=own[1],
        random_deletion=np.stack(deletions),
        random_insertion=np.stack(insertions),
    )


def by_attention(attended: Float[np.ndarray, "side side"]) -> Int[np.ndarray, " patches"]:
    """The patches, the most attended first; ties in an order that is drawn once and for all."""
    values = attended.ravel()
    return np.lexsort((np.random.default_rng(0).permutation(len(values)), -values))


def composed(
    below: UInt8[np.ndarray, "R R 3"], above: UInt8[np.ndarray, "R R 3"], patches: Int[np.ndarray, " _"], side: int
) -> UInt8[np.ndarray, "R R 3"]:
    """An image with some of its patches out of another one."""
    chosen = np.zeros(side * side, bool)
    chosen[patches] = True
    pixels = len(below) // side
    mask = chosen.reshape(side, side).repeat(pixels, axis=0).repeat(pixels, axis=1)
    return np.where(mask[..., None], above, below)
