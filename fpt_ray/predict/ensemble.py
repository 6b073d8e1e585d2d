"""Several bundles that answer as one: the mean of their calibrated answers, each frozen LPM asked once an image.

One bundle is the smallest ensemble.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from fpt_ray.config.preparation import Preparation
from fpt_ray.config.trial import needs_lpm
from fpt_ray.errors import ConfigError
from fpt_ray.features.spec import StoreSpec
from fpt_ray.models.device import compute_device
from fpt_ray.models.mapped import put_together, take_apart
from fpt_ray.predict.classifier import Answers, Classifier, averaged, classifier_of
from fpt_ray.predict.seen import seen_by
from fpt_ray.predict.stored import Stored, serves
from fpt_ray.train.bundle import Bundle


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ensemble:
    """Bundles of one target, ready to be applied."""

    members: tuple[Classifier, ...]
    """The best by its validation score first."""
    stores: tuple[Stored, ...] = ()
    """Where features of images may lie already."""

    @property
    def preparations(self) -> tuple[Preparation, ...]:
        """How an image becomes the squares that the members are given."""
        return tuple(dict.fromkeys(member.bundle.spec.preparation for member in self.members))

    @property
    def asked(self) -> list[StoreSpec]:
        """What the LPMs are asked for, once an image each."""
        return [spec for spec, members in _members_by_pass(self.members) if members[0].lpm is not None]

    def answers(
        self, squares: Mapping[Preparation, UInt8[np.ndarray, "N R R 3"]], hashes: Sequence[str] | None = None
    ) -> Answers:
        """What the members say of the same images, squared in each way, in the mean.

        With ``hashes``, the SHA-256 (hex) of the images' files, features that one of the stores has are read from it.

        The spread is over the members; familiarity is the best's that tells it. Operating points were chosen for each
        member alone, so that several have none.
        """
        found: dict[int, Answers] = {}
        for spec, members in _members_by_pass(self.members):
            stores = () if hashes is None else [one for one in self.stores if serves(one.store.spec, spec)]
            seen = seen_by(members[0].lpm, squares[spec.preparation], spec, stores, hashes or ())
            found |= {id(member): member.answers_to(seen) for member in members}
        each = [found[id(member)] for member in self.members]
        if len(each) == 1:
            return each[0]
        target = each[0].target
        mean, spread = averaged(np.stack([one.probabilities for one in each]), target.task)
        known = [one.familiarity for one in each if one.familiarity is not None]
        return Answers(
            target=target,
            probabilities=mean,
            spread=spread,
            familiarity=known[0] if known else None,
            of_best=each[0].probabilities,
        )


def ensemble_of(bundles: Mapping[str, Bundle], device: torch.device | None = None) -> Ensemble:
    """The ensemble of bundles by their folders, the best first; LPMs are loaded once.

    Raises:
        ConfigError: two are of other classes, or as ``classifier_of``.
    """
    (first, best), *others = bundles.items()
    for uri, bundle in others:
        for name in ("task", "classes"):
            here, there = getattr(bundle.target, name), getattr(best.target, name)
            if here != there:
                raise ConfigError(f"ensemble: {name} is {here} in {uri}, {there} in {first}; they cannot answer as one")
    members: list[Classifier] = []
    lpms: dict[tuple[Any, ...], Any] = {}
    for bundle in bundles.values():
        spec = bundle.spec
        key = (spec.backbone, bundle.weights_digest, spec.resolution, spec.precision)
        members.append(classifier_of(bundle, device, lpms.get(key) if needs_lpm(bundle.trial) else None))
        if members[-1].lpm is not None:
            lpms[key] = members[-1].lpm
    return Ensemble(members=tuple(members))


def handed_over(ensemble: Ensemble) -> tuple[Any, ...]:
    """An ensemble as it is put into memory that processes share, for ``taken_over``; each LPM is there once."""
    lpms = {id(member.lpm): member.lpm for member in ensemble.members if member.lpm is not None}
    members = [
        (member.bundle, take_apart(member.model), None if member.lpm is None else id(member.lpm))
        for member in ensemble.members
    ]
    return members, {number: take_apart(lpm) for number, lpm in lpms.items()}, ensemble.stores


def taken_over(handed: tuple[Any, ...]) -> Ensemble:
    """The ensemble on this process's device; on CPUs the LPMs' weights stay in the shared memory, for all of a host."""
    members, apart, stores = handed
    device = compute_device()
    lpms = {number: put_together(*lpm).to(device) for number, lpm in apart.items()}
    networks = (
        Classifier(
            bundle=bundle,
            model=copy.deepcopy(put_together(*model)).to(device),  # what a seed has learnt is written into it
            lpm=None if lpm is None else lpms[lpm],
            device=device,
        )
        for bundle, model, lpm in members
    )
    return Ensemble(members=tuple(networks), stores=stores)


def lpm_passes(bundles: Sequence[Bundle]) -> int:
    """How often an LPM looks at an image, for features of it."""
    return len({_looking(bundle) for bundle in bundles if needs_lpm(bundle.trial)})


def _members_by_pass(members: Sequence[Classifier]) -> list[tuple[StoreSpec, list[Classifier]]]:
    """The members that one look at an image serves, of each look, and what is to be seen for all of them."""
    groups: dict[tuple[StoreSpec, bool], list[Classifier]] = {}
    for member in members:
        groups.setdefault((_looking(member.bundle), member.lpm is not None), []).append(member)
    return [(_widest([member.bundle.spec for member in group]), group) for group in groups.values()]


def _looking(bundle: Bundle) -> StoreSpec:
    """How the LPM looks at an image, whatever is kept of it."""
    return dataclasses.replace(bundle.spec, blocks=(), num_kept=0, low_resolutions=())


def _widest(specs: Sequence[StoreSpec]) -> StoreSpec:
    """The spec that holds what each of these does."""
    blocks = sorted({block for spec in specs for block in spec.blocks})
    return dataclasses.replace(specs[0], blocks=tuple(blocks), num_kept=max(spec.num_kept for spec in specs))
