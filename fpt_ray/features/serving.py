"""Which store serves a trial, and which part of it the trial reads."""

from collections.abc import Sequence

from fpt_ray.config.trial import TrialConfig, reads_images
from fpt_ray.errors import ConfigError
from fpt_ray.features.spec import Slice, column_widths
from fpt_ray.features.store import Store
from fpt_ray.models.backbone import backbone_shape, kept_tokens


def store_for(trial: TrialConfig, stores: Sequence[Store]) -> Store:
    """The store that serves this trial.

    Raises:
        ConfigError: none does; the message names the field in which the nearest store falls short.
    """
    lacking = ""
    for store in stores:
        lacking = _lacks(trial, store)
        if not lacking:
            return store
    raise ConfigError(f"no feature store serves this trial: {lacking or 'none was given'}")


def _lacks(trial: TrialConfig, store: Store) -> str:
    spec, shape = store.spec, backbone_shape(trial.backbone.name)
    if reads_images(trial):
        if spec.depth or spec.low_resolution != trial.features.resolution:
            held = f"features of {spec.resolution} px" if spec.depth else f"images of {spec.low_resolution} px"
            return f"{trial.method} reads images of {trial.features.resolution} px, {store.uri} holds {held}"
        return "" if spec.backbone == shape.name else f"{store.uri} is normalised for {spec.backbone}"
    kept = kept_tokens(shape.num_tokens(trial.features.resolution), trial.features.token_ratio)
    same = (
        ("backbone.name", trial.backbone.name, spec.backbone),
        ("features.resolution", trial.features.resolution, spec.resolution),
        ("features.importance", trial.features.importance, spec.importance),
        ("features.dtype", trial.features.dtype, spec.dtype),
    )
    at_most = (
        ("side.depth", trial.side.depth, spec.depth),
        ("features.token_ratio", kept, spec.num_kept),
        ("side.resolution", trial.side.resolution, spec.low_resolution),
    )
    for name, asked, held in same:
        if asked != held:
            return f"{name} is {asked!r}, {store.uri} holds {held!r}; preload another store"
    for name, asked, held in at_most:
        if asked > held:
            return f"{name} asks for {asked}, {store.uri} holds at most {held}; preload a wider store"
    return ""


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
