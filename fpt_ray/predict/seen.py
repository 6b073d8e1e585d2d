"""Squared images and what the frozen LPM makes of them, once, for every network that reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8

from fpt_ray.config.trial import SUMMARY_METHODS, TrialConfig, needs_lpm, reads_images, reads_low_resolution
from fpt_ray.features.rows import Batch
from fpt_ray.features.spec import StoreSpec
from fpt_ray.images.picture import smaller
from fpt_ray.models.importance import Extracted
from fpt_ray.predict.stored import Stored, merged
from fpt_ray.preload.batches import extract_batches

_AT_ONCE = 16
"""Images that a network sees at once; the LPM is given all, and takes as many as keep its device busy."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Seen:
    """Some squared images, as many as a network sees at once."""

    images: UInt8[np.ndarray, "B R R 3"]
    spec: StoreSpec
    """What the features hold."""
    features: Extracted | None
    """None where no LPM looked at them."""

    def batch(self, trial: TrialConfig, spec: StoreSpec) -> Batch:
        """The images as rows of a store of this spec, which is no wider than what was seen, give them to a trial."""
        labels = torch.zeros(len(self.images), dtype=torch.int64)
        if reads_images(trial):
            return Batch(low_res=torch.from_numpy(self.images), keys=None, values=None, labels=labels)
        low_res = None
        if reads_low_resolution(trial):
            low_res = torch.from_numpy(np.concatenate([smaller(one, spec.low_resolutions) for one in self.images]))
        if not needs_lpm(trial):
            return Batch(low_res=low_res, keys=None, values=None, labels=labels)
        assert self.features is not None
        if trial.method in SUMMARY_METHODS:
            assert self.features.summaries is not None
            summaries = self.features.summaries.permute(2, 0, 1, 3).contiguous()
            return Batch(low_res=None, keys=None, values=None, labels=labels, summaries=summaries)
        at = [self.spec.blocks.index(block) for block in spec.blocks]
        keys, values = (kind[at, :, :, : spec.num_kept] for kind in (self.features.keys, self.features.values))
        return Batch(low_res=low_res, keys=keys, values=values, labels=labels)

    @property
    def class_tokens(self) -> Float[np.ndarray, "B D"]:
        """What the LPM's last block puts out for each image."""
        assert self.features is not None
        assert self.features.summaries is not None
        return self.features.summaries[-1, 0].float().numpy()


def seen_by(
    lpm: Any,
    images: UInt8[np.ndarray, "N R R 3"],
    spec: StoreSpec,
    stores: Sequence[Stored] = (),
    hashes: Sequence[str] = (),
) -> Sequence[Seen]:
    """Squared images, some at a time, with what an LPM makes of all of them at once.

    Args:
        lpm: None: none looks at them.
        images: squared.
        spec: what the LPM is asked for.
        stores: such as serve the spec; what one has is read from it.
        hashes: with stores, the SHA-256 (hex) of each image's file.
    """
    if lpm is None or not len(images):
        whole = None
    elif not stores:
        whole = extract_batches(lpm, images, spec)
    else:
        whole = _read_or_made(lpm, images, spec, stores, hashes)
    cuts = [slice(first, first + _AT_ONCE) for first in range(0, len(images), _AT_ONCE)]
    return [Seen(images=images[at], spec=spec, features=None if whole is None else _cut(whole, at)) for at in cuts]


def _cut(whole: Extracted, at: slice) -> Extracted:
    """The features of some of the images, as views."""
    assert whole.summaries is not None
    return Extracted(whole.keys[:, at], whole.values[:, at], whole.tokens[:, at], whole.summaries[:, :, at])


def _read_or_made(
    lpm: Any, images: UInt8[np.ndarray, "B R R 3"], spec: StoreSpec, stores: Sequence[Stored], hashes: Sequence[str]
) -> Extracted:
    lacks, parts = np.arange(len(images)), []
    for stored in stores:
        there = stored.places([hashes[at] for at in lacks.tolist()]) >= 0
        has, lacks = lacks[there], lacks[~there]
        if len(has):
            parts.append((has, stored.features([hashes[int(at)] for at in has], spec)))
    if len(lacks):
        parts.append((lacks, extract_batches(lpm, images[lacks], spec)))
    return merged(parts, len(images))
