"""Which store serves a trial, which part of it the trial reads, and so which question the trial's numbers answer."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fpt_ray.config.dotted import flatten
from fpt_ray.config.identity import identifying
from fpt_ray.config.preparation import Preparation
from fpt_ray.config.space import SearchSpace, StoreNeed
from fpt_ray.config.trial import (
    SUMMARY_METHODS,
    BackboneConfig,
    TrialConfig,
    image_resolution,
    reads_features,
    reads_images,
    reads_low_resolution,
)
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import Features, row_bytes
from fpt_ray.features.spec import Slice, StoreSpec, store_spec
from fpt_ray.models.backbone import backbone_shape, blocks_read, kept_tokens, uses_bfloat16
from fpt_ray.models.hardware import Hardware

WIDTH = ("blocks", "num_kept", "low_resolutions")
"""How much a store holds: of a wider one, a trial reads the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stores:
    """A table's images in feature stores, and the weights that the backbones of trials have."""

    stores: tuple[Features, ...]
    weights: Mapping[BackboneConfig, str]
    """{backbone: digest of its weights}; see ``models.weights.known_weights``."""
    hardware: Hardware
    """What trials are trained on, by which ``training.precision: auto`` is decided."""

    def __iter__(self) -> Iterator[Features]:
        return iter(self.stores)


def store_for(trial: TrialConfig, stores: Stores) -> Features:
    """The store that serves this trial; of several, that differ in how much they hold, the first.

    Raises:
        ConfigError: none does (the message names the field in which the last one falls short), or several do that
            would give other numbers.
    """
    lacking = [_lacks(trial, store, stores.weights) for store in stores]
    serving = [store for store, lack in zip(stores, lacking, strict=True) if not lack]
    if not serving:
        raise ConfigError(f"no feature store serves this trial: {lacking[-1] if lacking else 'none was given'}")
    for other in serving[1:]:
        for name, value in _determining(serving[0]).items():
            if value != (beside := _determining(other).get(name)):
                raise ConfigError(
                    f"two feature stores serve this trial, and {name} is {value!r} in {serving[0].uri}, {beside!r} in "
                    f"{other.uri}; give one of them"
                )
    return serving[0]


def _determining(store: Features) -> dict[str, Any]:
    """What a trial's numbers depend on: the fields of the store, and the table's images, labels and splits."""
    spec = {name: value for name, value in store.spec.identity.items() if name not in WIDTH}
    fold = {"fold": store.fold} if store.fold else {}  # named beside the digest, which tells folds apart without it
    return {**spec, **fold, "images": store.table_digest}


def holders(need: StoreNeed, stores: Stores) -> list[Features]:
    """The stores that serve some of these trials, as far as they are wide enough; the first that is ends them."""
    found = []
    for store in stores:
        if not _unlike(need.trial, store, stores.weights):
            found.append(store)
            if not any(_lacks(trial, store, stores.weights) for trial in need.trials()):
                break
    return found


def _unlike(trial: TrialConfig, store: Features, weights: Mapping[BackboneConfig, str]) -> str:
    """In what a store, however wide, is another one than a trial's."""
    spec, features, shape = store.spec, trial.features, backbone_shape(trial.backbone.name)
    same = [
        ("backbone.name", trial.backbone.name, spec.backbone),
        ("features.mean", features.mean or shape.mean, spec.mean),
        ("features.std", features.std or shape.std, spec.std),
    ]
    same += [
        (f"features.{item.name}", getattr(features, item.name), getattr(spec, item.name))
        for item in dataclasses.fields(Preparation)
    ]
    if reads_images(trial):
        if spec.blocks:
            return f"{trial.method} reads images, {store.uri} holds features"
        return _differs(same, store.uri)
    same += [
        ("features.importance", features.importance, spec.importance),
        ("features.dtype", features.dtype, spec.dtype),
        ("backbone.weights (SHA-256)", weights[trial.backbone], spec.weights_digest),
    ]
    if features.precision != "auto":
        same.append(("features.precision", features.precision, spec.precision))
    return _differs(same, store.uri)


def _lacks(trial: TrialConfig, store: Features, weights: Mapping[BackboneConfig, str]) -> str:
    """Why a store does not serve a trial."""
    spec, shape = store.spec, backbone_shape(trial.backbone.name)
    if (unlike := _unlike(trial, store, weights)) or reads_images(trial) or trial.method in SUMMARY_METHODS:
        return unlike
    kept = kept_tokens(shape.num_tokens(trial.features.resolution), trial.features.token_ratio)
    if kept > spec.num_kept:
        return f"features.token_ratio asks for {kept}, {store.uri} holds at most {spec.num_kept}; preload a wider store"
    for name, asked, held in (
        ("side.depth and side.blocks", blocks_read(trial.side, shape), spec.blocks),
        ("side.resolution", (trial.side.resolution,) if reads_low_resolution(trial) else (), spec.low_resolutions),
    ):
        if lacking := set(asked) - set(held):
            wanted, there = (", ".join(map(str, sorted(numbers))) or "none" for numbers in (lacking, held))
            return f"{name} ask for {wanted}, {store.uri} holds {there}; preload a store that has them"
    return ""


def _differs(same: list[tuple[str, Any, Any]], uri: str) -> str:
    for name, asked, held in same:
        if asked != held:
            return f"{name} is {asked!r}, {uri} holds {held!r}; preload another store"
    return ""


def trial_identity(trial: TrialConfig, stores: Stores) -> dict[str, Any]:
    """{field: value} of all that determines a trial's numbers: its configuration, weights, features and image table."""
    values = identifying(flatten(trial))
    values["training.precision"] = _arithmetic(trial, stores)
    store = {f"store.{name}": value for name, value in _determining(store_for(trial, stores)).items()}
    return {**values, **store, "weights": stores.weights[trial.backbone]}


def _arithmetic(trial: TrialConfig, stores: Stores) -> str:
    return "bfloat16" if uses_bfloat16(trial.training.precision, stores.hardware) else "float32"


def study_identity(space: SearchSpace, stores: Stores) -> dict[str, Any]:
    """{field: value} of all that decides what a study answers: its space, stores and weights."""
    identity = space.identity()
    for number, need in enumerate(space.stores()):
        found = trial_identity(need.trials()[0], stores)
        identity |= {f"{name} ({number})": value for name, value in found.items() if name.startswith("store.")}
    identity["training.precision: auto"] = _arithmetic(TrialConfig(), stores)
    backbones = enumerate(space.backbones())
    return identity | {f"weights ({number})": stores.weights[backbone] for number, backbone in backbones}


def trial_slice(trial: TrialConfig, spec: StoreSpec) -> Slice:
    """The part of a store that this trial reads.

    A side network without prompts reads no keys or values, a probe no images.
    """
    if trial.method in SUMMARY_METHODS:
        return Slice(blocks=(), num_kept=0, low_resolutions=(), summaries=True)
    low = (image_resolution(trial),) if reads_low_resolution(trial) else ()
    if reads_images(trial) or not reads_features(trial):
        return Slice(blocks=(), num_kept=0, low_resolutions=low)
    blocks = blocks_read(trial.side, backbone_shape(trial.backbone.name))
    kept = kept_tokens(spec.num_tokens, trial.features.token_ratio)
    return Slice(blocks=blocks, num_kept=kept, low_resolutions=low)


def need_slice(need: StoreNeed, spec: StoreSpec) -> Slice:
    """The part of a store that some trials read together."""
    if reads_images(need.trial) or (need.trial.method in SUMMARY_METHODS and not need.images):
        return trial_slice(need.trial, spec)
    asked = store_spec(need)
    blocks = asked.blocks if reads_features(need.trial) else ()
    return Slice(
        blocks=blocks,
        num_kept=asked.num_kept,
        low_resolutions=need.side_resolutions if need.images else (),
        summaries=need.summaries,
    )


def feature_bytes(trial: TrialConfig, store: Features) -> int:
    """Bytes that a trial reads of one image, in an epoch."""
    return row_bytes(store.spec, trial_slice(trial, store.spec))
