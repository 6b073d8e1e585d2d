"""Where the rows of trials are read from: Ray's shared memory, one copy a host, or the store's own shards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayTaskError

from fpt_ray.cluster import computing_hosts
from fpt_ray.config.space import SearchSpace
from fpt_ray.config.trial import TrialConfig
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import Features
from fpt_ray.features.places import GroupsAtHand, ShardFiles, read_shard_rows
from fpt_ray.features.rows import Rows
from fpt_ray.features.serving import Stores, need_slice, store_for, trial_slice
from fpt_ray.features.spec import Slice

SHARED_MEMORY_SHARE = 0.6
"""Of the object store's memory, what features may fill; beyond it they are streamed."""
_SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Where the rows of trials are read from."""

    shared: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    """{store's URI: {shard: a reference to its rows in Ray's shared memory}}; without it, they are streamed."""


def fits_in_memory(size_bytes: int) -> bool:
    """Whether features of that size may be held in Ray's shared memory, of which every host needs a copy."""
    smallest = min((host.get("object_store_memory", 0.0) for host in computing_hosts()), default=0.0)
    return size_bytes < SHARED_MEMORY_SHARE * smallest


def share_rows(features: Features, cut: Slice, splits: Sequence[str] = _SPLITS) -> dict[int, Any]:
    """{shard: a reference to its rows of these splits, at a slice, in Ray's shared memory}; a task a shard.

    Ray Data's own reader gives tables whose bands would be put together at every step; see docs/decisions.md.

    Raises:
        StoreError: a shard is damaged or not of this store.
        StorageError: S3 fails.
    """
    read: Any = ray.remote(_read_and_count).options(num_returns=2)
    whole = ray.put(features)
    found = {
        shard: read.remote(features.shard_uri(shard), whole, cut, rows)
        for shard, rows in features.rows_by_shard(splits).items()
    }
    try:
        ray.get([count for count, _ in found.values()])
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, ConfigError) else error from None
    return {shard: rows for shard, (_, rows) in found.items()}


def _read_and_count(uri: str, features: Features, cut: Slice, wanted: np.ndarray) -> tuple[int, Any]:
    """A task: how many rows it has read, for the driver, and the rows, which stay where they are."""
    rows = read_shard_rows(uri, features, cut, wanted)
    return len(wanted), rows


def share_features(space: SearchSpace, stores: Stores) -> Reading:
    """Reads what the trials of a space need once, if it fits into Ray's shared memory, and says so.

    Raises:
        StoreError: a file is damaged or not of its store.
        StorageError: S3 fails.
    """
    cuts: dict[str, Slice] = {}
    for need in space.stores():
        store = store_for(need.trials()[0], stores)
        cut = need_slice(need, store.spec)
        cuts[store.uri] = cuts[store.uri].with_other(cut) if store.uri in cuts else cut
    used = [store for store in stores if store.uri in cuts]
    size = sum(store.slice_bytes(cuts[store.uri], _SPLITS) for store in used)
    fits = fits_in_memory(size)
    say(f"features: {size / 1e9:.2f} GB, {'read once into shared memory' if fits else 'streamed by every trial'}")
    return Reading(shared={store.uri: share_rows(store, cuts[store.uri]) for store in used} if fits else {})


def share_trial(trial: TrialConfig, features: Features) -> Reading:
    """The same for one trial."""
    cut = trial_slice(trial, features.spec)
    fits = fits_in_memory(features.slice_bytes(cut, _SPLITS))
    say(f"features: {'read once into shared memory' if fits else 'streamed from Parquet'}")
    return Reading(shared={features.uri: share_rows(features, cut)} if fits else {})


def trial_rows(
    trial: TrialConfig, features: Features, split: str, reading: Reading, share: range | None = None
) -> Rows:
    """A split, or a worker's share of it, as this trial reads it; nothing else is fetched to this host."""
    cut, shared = trial_slice(trial, features.spec), reading.shared.get(features.uri)
    share = range(features.num_rows(split)) if share is None else share
    if shared is None:
        return Rows(ShardFiles(features, cut), features, split, cut).within(share)
    wanted = np.unique(features.splits[split].shards[share.start : share.stop]).tolist()
    groups = ray.get([shared[shard] for shard in wanted])
    return Rows(GroupsAtHand(dict(zip(wanted, groups, strict=True))), features, split, cut).within(share)
