"""Where the rows of a trial are read from: Ray's shared memory, one copy a host, or the store's own files."""

from collections.abc import Mapping, Sequence
from typing import Any

import ray
import ray.data
from ray.data.dataset import MaterializedDataset
from ray.exceptions import RayTaskError

from fpt_ray.cluster import computing_hosts
from fpt_ray.config.space import SearchSpace
from fpt_ray.config.trial import TrialConfig, image_resolution
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.features.rows import Rows, rows_from_files, rows_from_tables
from fpt_ray.features.serving import Stores, store_for, trial_slice
from fpt_ray.features.shards import read_shard
from fpt_ray.features.store import Store

SharedTables = Mapping[str, Sequence[Any]]
"""{split: references to Arrow tables in Ray's shared memory}."""
SHARED_MEMORY_SHARE = 0.6
"""Of the object store's memory, what features may fill; beyond it they are streamed."""
_SPLITS = ("train", "val")


def fits_in_memory(size_bytes: int) -> bool:
    """Whether features of that size may be held in Ray's shared memory, of which every host needs a copy."""
    smallest = min((host.get("object_store_memory", 0.0) for host in computing_hosts()), default=0.0)
    return size_bytes < SHARED_MEMORY_SHARE * smallest


def read_split(store: Store, split: str, columns: list[str]) -> MaterializedDataset:
    """A split's columns in Ray's shared memory, read once, in the order of its rows; a task a file.

    Ray Data's own reader does not look at Parquet's page checksums.

    Raises:
        StoreError: a file is damaged or not of this store.
        StorageError: S3 fails.
    """
    read = ray.remote(read_shard)
    places = zip(store.shard_uris(split), store.row_ranges(split), strict=True)
    try:
        tables: Any = [read.remote(uri, columns, store.spec, rows) for uri, rows in places]
        return ray.data.from_arrow_refs(tables)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, ConfigError) else error from None


def share_features(space: SearchSpace, stores: Stores) -> dict[str, SharedTables]:
    """Reads what the trials of a space need once, if it fits into Ray's shared memory, and says so.

    Returns {store's URI: its tables}; nothing where every trial streams.

    Raises:
        StoreError: a file is damaged or not of its store.
        StorageError: S3 fails.
    """
    columns: dict[str, list[str]] = {}
    for wide in space.stores():
        store = store_for(wide, stores)
        wanted = store.columns(trial_slice(wide, store))
        columns[store.uri] = list(dict.fromkeys([*columns.get(store.uri, []), *wanted]))
    used = [store for store in stores if store.uri in columns]
    size = sum(store.column_bytes(columns[store.uri], _SPLITS) for store in used)
    fits = fits_in_memory(size)
    tables: dict[str, SharedTables] = {}
    for store in used if fits else ():
        splits = {split: read_split(store, split, columns[store.uri]) for split in _SPLITS}
        tables[store.uri] = {split: dataset.to_arrow_refs() for split, dataset in splits.items()}
    how = "read once into shared memory" if fits else "streamed from Parquet by every trial"
    say(f"features: {size / 1e9:.2f} GB, {how}")
    return tables


def trial_rows(trial: TrialConfig, store: Store, split: str, tables: SharedTables | None) -> Rows:
    """A split as this trial sees it: views of the host's shared tables, or streamed where there are none."""
    cut = trial_slice(trial, store)
    if tables is None:
        return rows_from_files(store, split, cut, image_resolution(trial))
    return rows_from_tables(ray.get(list(tables[split])), store.spec, cut, image_resolution(trial))
