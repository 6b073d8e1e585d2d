"""What is measured of the tokens that heads keep, against tokens drawn at random. Pure: arrays in, numbers out.

``kept`` has, for each image and head, which tokens are kept: [images, heads, tokens], true or false.
"""

import math

import numpy as np
from jaxtyping import Bool, Int


def kept_of(tokens: Int[np.ndarray, "images heads ranks"], num_tokens: int) -> Bool[np.ndarray, "images heads tokens"]:
    """The same of token numbers."""
    kept = np.zeros((*tokens.shape[:2], num_tokens), bool)
    np.put_along_axis(kept, tokens, values=True, axis=2)
    return kept


def shared_by_heads(kept: Bool[np.ndarray, "images heads tokens"]) -> float:
    """Of the tokens that a head keeps, the share that another head of the image keeps; NaN for one head.

    At random: the share of all tokens that is kept.
    """
    heads, number = kept.shape[1], kept[0, 0].sum()
    together = kept.sum(axis=1, dtype=np.int64)
    pairs = len(kept) * heads * (heads - 1)
    return float((together * (together - 1)).sum() / (pairs * number)) if pairs else math.nan


def shared_by_images(times: Int[np.ndarray, "heads tokens"], images: int, number: int) -> float:
    """Of the places that a head keeps in an image, the share that it keeps in another one; NaN for one image.

    Args:
        times: in how many images each token is kept.
        images: how many there are.
        number: of the tokens that a head keeps.

    What is high has more to do with where a token stands than with what is there.
    """
    pairs = len(times) * images * (images - 1)
    return float((times.astype(np.int64) * (times - 1)).sum() / (pairs * number)) if pairs else math.nan


def beside_kept(kept: Bool[np.ndarray, "images heads tokens"], num_prefix: int) -> tuple[int, int]:
    """(how many neighbours of kept patches are kept by the same head, how many neighbours these have).

    Neighbours are the up to four patches beside a patch. At random, the share is (T - 1)/(N - 1).
    """
    side = math.isqrt(kept.shape[2] - num_prefix)
    grid = kept[:, :, num_prefix:].reshape(*kept.shape[:2], side, side)
    along, across = grid[:, :, 1:] & grid[:, :, :-1], grid[:, :, :, 1:] & grid[:, :, :, :-1]
    neighbours = np.full((side, side), 4)
    for edge in (neighbours[0], neighbours[-1], neighbours[:, 0], neighbours[:, -1]):
        edge -= 1
    return 2 * int(along.sum() + across.sum()), int((grid * neighbours).sum())


def touched(kept: Bool[np.ndarray, "heads tokens"], patches: Int[np.ndarray, " patches"]) -> Bool[np.ndarray, " heads"]:
    """Which heads keep one of these patches' tokens at least."""
    return np.any(kept[:, patches], axis=1)


def chance_of_touching(num_tokens: int, number: int, patches: int) -> float:
    """The probability that of so many tokens drawn from all, without putting back, one is of these patches."""
    return 1 - math.comb(num_tokens - patches, number) / math.comb(num_tokens, number)
