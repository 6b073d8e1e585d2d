"""The class tokens of a store's images, by which the images of a bundle are known."""

import numpy as np
from jaxtyping import Float

from fpt_ray.config.trial import TrialConfig, needs_lpm
from fpt_ray.features.joining import Features
from fpt_ray.features.places import ShardFiles
from fpt_ray.features.rows import Rows
from fpt_ray.features.spec import Slice
from fpt_ray.metrics.familiarity import Familiarity, fitted_familiarity

_IMAGES = 8192
"""Of a split that are read at most. Rows stand in the order of their content's hashes, so the first are any."""
_AT_ONCE = 256


def familiarity_of(trial: TrialConfig, store: Features) -> Familiarity | None:
    """What tells images like the training images from others, measured on the validation images.

    None where a new image's class token is not at hand: of methods that train the LPM itself, and of a side network
    alone, for which a pass through the LPM would cost many times what the network does.

    Raises:
        StoreError: the store cannot be read.
    """
    if not needs_lpm(trial):
        return None
    return fitted_familiarity(_tokens(store, "train"), _tokens(store, "val"))


def _tokens(store: Features, split: str) -> Float[np.ndarray, "N D"]:
    cut = Slice(blocks=(), num_kept=0, low_resolutions=(), summaries=True)
    rows = Rows(ShardFiles(store, cut), store, split, cut)
    found = []
    for first in range(0, min(len(rows), _IMAGES), _AT_ONCE):
        summaries = rows.take(range(first, min(first + _AT_ONCE, len(rows), _IMAGES))).summaries
        assert summaries is not None
        found.append(summaries[:, -1, 0].float().numpy())  # the class token that the last block puts out
    return np.concatenate(found)
