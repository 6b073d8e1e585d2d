"""Which store serves a trial, which part of it the trial reads, and so which question the trial's numbers answer."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fpt_ray.config.space import SearchSpace
from fpt_ray.config.trial import BackboneConfig, TrialConfig, flatten, reads_images
from fpt_ray.errors import ConfigError
from fpt_ray.features.spec import Slice, column_widths
from fpt_ray.features.store import Store
from fpt_ray.models.backbone import backbone_shape, kept_tokens, uses_bfloat16
from fpt_ray.models.hardware import Hardware

_WIDTH = ("depth", "num_kept")
"""How much a store holds: of a wider one, a trial reads the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stores:
    """Feature stores, and the weights that the backbones of trials have."""

    stores: tuple[Store, ...]
    weights: Mapping[BackboneConfig, str]
    """{backbone: digest of its weights}; see ``models.weights.known_weights``."""
    hardware: Hardware
    """What trials are trained on, by which ``training.precision: auto`` is decided."""

    def __iter__(self) -> Iterator[Store]:
        return iter(self.stores)


def store_for(trial: TrialConfig, stores: Stores) -> Store:
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
            if value != (beside := _determining(other)[name]):
                raise ConfigError(
                    f"two feature stores serve this trial, and {name} is {value!r} in {serving[0].uri}, {beside!r} in "
                    f"{other.uri}; give one of them"
                )
    return serving[0]


def _determining(store: Store) -> dict[str, Any]:
    """The fields of a store that a trial's numbers depend on."""
    return {name: value for name, value in dataclasses.asdict(store.spec).items() if name not in _WIDTH}


def _lacks(trial: TrialConfig, store: Store, weights: Mapping[BackboneConfig, str]) -> str:
    spec, features, shape = store.spec, trial.features, backbone_shape(trial.backbone.name)
    same = [
        ("backbone.name", trial.backbone.name, spec.backbone),
        ("features.mean", features.mean or shape.mean, spec.mean),
        ("features.std", features.std or shape.std, spec.std),
    ]
    if reads_images(trial):
        if spec.depth or spec.low_resolution != features.resolution:
            held = f"features of {spec.resolution} px" if spec.depth else f"images of {spec.low_resolution} px"
            return f"{trial.method} reads images of {features.resolution} px, {store.uri} holds {held}"
        return _differs(same, store.uri)
    kept = kept_tokens(shape.num_tokens(features.resolution), features.token_ratio)
    same += [
        ("features.resolution", features.resolution, spec.resolution),
        ("features.importance", features.importance, spec.importance),
        ("features.dtype", features.dtype, spec.dtype),
        ("backbone.weights (SHA-256)", weights[trial.backbone], spec.weights_digest),
    ]
    if features.precision != "auto":
        same.append(("features.precision", features.precision, spec.precision))
    at_most = (
        ("side.depth", trial.side.depth, spec.depth),
        ("features.token_ratio", kept, spec.num_kept),
        ("side.resolution", trial.side.resolution, spec.low_resolution),
    )
    if lack := _differs(same, store.uri):
        return lack
    for name, asked, held in at_most:
        if asked > held:
            return f"{name} asks for {asked}, {store.uri} holds at most {held}; preload a wider store"
    return ""


def _differs(same: list[tuple[str, Any, Any]], uri: str) -> str:
    for name, asked, held in same:
        if asked != held:
            return f"{name} is {asked!r}, {uri} holds {held!r}; preload another store"
    return ""


def trial_identity(trial: TrialConfig, stores: Stores) -> dict[str, Any]:
    """{field: value} of all that determines a trial's numbers: its configuration, weights, features and image table."""
    values = {name: value for name, value in flatten(trial).items() if name != "backbone.weights"}
    values["training.precision"] = _arithmetic(trial, stores)
    store = {f"store.{name}": value for name, value in _determining(store_for(trial, stores)).items()}
    return {**values, **store, "weights": stores.weights[trial.backbone]}


def _arithmetic(trial: TrialConfig, stores: Stores) -> str:
    return "bfloat16" if uses_bfloat16(trial.training.precision, stores.hardware) else "float32"


def study_identity(space: SearchSpace, stores: Stores) -> dict[str, Any]:
    """{field: value} of all that decides what a study answers: its space, stores and weights."""
    identity = space.identity()
    for number, wide in enumerate(space.stores()):
        found = trial_identity(wide, stores)
        identity |= {f"{name} ({number})": value for name, value in found.items() if name.startswith("store.")}
    identity["training.precision: auto"] = _arithmetic(TrialConfig(), stores)
    backbones = enumerate(space.backbones())
    return identity | {f"weights ({number})": stores.weights[backbone] for number, backbone in backbones}


def trial_slice(trial: TrialConfig, store: Store) -> Slice:
    """The part of the store's columns this trial reads; a side network without prompts reads no keys or values."""
    if reads_images(trial):
        return Slice(depth=0, num_kept=0)
    kept = kept_tokens(store.spec.num_tokens, trial.features.token_ratio)
    return Slice(depth=trial.side.depth if trial.side.num_prompts else 0, num_kept=kept)


def feature_bytes(trial: TrialConfig, store: Store) -> int:
    """Bytes that a trial reads of one image, in an epoch."""
    columns = store.columns(trial_slice(trial, store))
    return sum(column_widths(store.spec).get(column, 8) for column in columns)
