"""A feature store as a whole: generations of manifests, each put once; ``index`` has where the rows lie.

``manifest-00003.json`` lists the shards of generations 1 to 3, with checksums, and the index files that say in which of
them each image lies. Images are added by another generation; nothing that is there changes.
"""

import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from fpt_ray import __version__
from fpt_ray.features.index import Index, IndexEntry, read_index_files, write_index_file
from fpt_ray.features.shards import ShardEntry
from fpt_ray.features.spec import SCHEMA_VERSION, StoreError, StoreSpec, spec_from
from fpt_ray.storage.errors import ExistsError
from fpt_ray.storage.files import absolute, exists, list_files, read_bytes, write_once

MANIFEST = re.compile(r"manifest-(\d{5})\.json")
OLD_MANIFEST = "manifest.json"
_INDEX_FILES = 16
"""So many index files are read to open a store; one more, and they become one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """A store as its latest manifest tells it."""

    uri: str
    spec: StoreSpec
    generation: int
    """From 1; 0: nothing has been stored yet."""
    shards: tuple[ShardEntry, ...]
    indexes: tuple[IndexEntry, ...]
    removed: tuple[str, ...]
    """Paths that this generation or an earlier one has taken out, to be removed."""

    @property
    def num_rows(self) -> int:
        """Images that it holds."""
        return sum(index.rows for index in self.indexes)

    def shard_uri(self, shard: int) -> str:
        """The file of a shard, by its number."""
        return f"{self.uri}/{self.shards[shard].path}"


# --- opening --------------------------------------------------------------------------------------------------


def open_store(uri: str) -> Store:
    """Opens a store: its latest manifest is read, and every shard must be there in its full size. No shard is opened.

    Raises:
        StoreError: there is none, or it is damaged or of another schema.
    """
    uri = absolute(uri)
    store = read_manifest(uri)
    sizes = {file.path: file.bytes for file in list_files(uri)}
    for shard in store.shards:
        found = sizes.get(shard.path)
        if found != shard.bytes:
            fault = "is missing" if found is None else f"has {found} bytes, the manifest says {shard.bytes}"
            raise StoreError(f"{uri}/{shard.path} {fault}; delete the store and preload again")
    return store


def check_same(found: StoreSpec, asked: StoreSpec, uri: str) -> None:
    """StoreError that names the first field in which a store differs from what is asked."""
    for item in dataclasses.fields(StoreSpec):
        has, wants = getattr(found, item.name), getattr(asked, item.name)
        if has != wants:
            raise StoreError(f"{uri}: {item.name} is {has!r}, asked is {wants!r}; preload a store for what is asked")


def latest_generation(uri: str) -> int:
    """The number of the latest manifest; 0: there is none."""
    found = [MANIFEST.fullmatch(file.path) for file in list_files(uri)]
    return max((int(match[1]) for match in found if match), default=0)


def read_manifest(uri: str) -> Store:
    """A store as its latest manifest tells it; no shard is looked at.

    Raises:
        StoreError: there is no manifest, or it cannot be used.
    """
    generation = latest_generation(uri)
    if not generation:
        if exists(f"{uri}/{OLD_MANIFEST}"):
            raise StoreError(f"{uri} has schema_version 1, this program reads {SCHEMA_VERSION}; preload again")
        raise StoreError(f"{uri} is no finished feature store (it has no manifest); run fpt-ray preload")
    path = f"{uri}/manifest-{generation:05d}.json"
    text = read_bytes(path)
    try:
        document = json.loads(text)
        _check_version(document["schema_version"], path)
        store = Store(
            uri=uri,
            spec=spec_from(document["spec"]),
            generation=generation,
            shards=tuple(ShardEntry(**shard) for shard in document["shards"]),
            indexes=tuple(IndexEntry(**index) for index in document["indexes"]),
            removed=tuple(document["removed"]),
        )
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is no manifest ({error}); delete the store and preload again") from None
    for listed in (*store.shards, *store.indexes):
        if not _inside(listed.path):
            raise StoreError(f"{path}: the path {listed.path!r} leaves the store; do not use this store")
    return store


def _check_version(version: int, path: str) -> None:
    if version != SCHEMA_VERSION:
        remedy = "update fpt_ray" if version > SCHEMA_VERSION else "preload again"
        raise StoreError(f"{path}: schema_version is {version}, this program reads {SCHEMA_VERSION}; {remedy}")


def _inside(path: str) -> bool:
    parts = path.split("/")
    return not path.startswith("/") and "\\" not in path and all(part not in ("", ".", "..") for part in parts)


def read_index(store: Store) -> Index:
    """Where every image of a store lies.

    Raises:
        StoreError: a file of the index is damaged.
    """
    return read_index_files(store.uri, store.indexes)


# --- adding ---------------------------------------------------------------------------------------------------


def shard_path(store: Store, hashes: UInt8[np.ndarray, "rows 32"]) -> str:
    """Where a shard of these images goes: its name tells what it holds, and the generation it is for."""
    return f"shards/{store.generation + 1:05d}-{hashlib.sha256(hashes.tobytes()).hexdigest()[:16]}.parquet"


def empty_store(uri: str, spec: StoreSpec) -> Store:
    """A store in which nothing has been stored yet."""
    return Store(uri=uri, spec=spec, generation=0, shards=(), indexes=(), removed=())


def add_shards(store: Store, added: Sequence[tuple[ShardEntry, UInt8[np.ndarray, "_ 32"]]]) -> Store:
    """The next generation of a store, which holds these shards, too; each with the content hashes of its rows.

    If another writer is first, its shards stay, and these come after them.

    Raises:
        StoreError: another writer has changed what the store is.
        OSError, StorageError: nothing was added.
    """
    while True:
        listed = {shard.path for shard in store.shards}
        new = [(entry, hashes) for entry, hashes in added if entry.path not in listed]
        if not new and store.generation:
            return store
        try:
            return _put_generation(store, _grown(store, new))
        except ExistsError:
            store = read_manifest(store.uri)


def _grown(store: Store, new: Sequence[tuple[ShardEntry, np.ndarray]]) -> tuple[Store, Index]:
    """A store with more shards, and the index of what they add."""
    first = len(store.shards)
    hashes = np.concatenate([np.zeros((0, 32), np.uint8), *(found for _, found in new)])
    shards = np.repeat(np.arange(first, first + len(new), dtype=np.int32), [len(found) for _, found in new])
    rows = np.concatenate([np.zeros(0, np.int32), *(np.arange(len(found), dtype=np.int32) for _, found in new)])
    index, known = Index(hashes=hashes, shards=shards, rows=rows).in_order(), read_index(store)
    added = index.beside(known)
    store = replace(store, shards=(*store.shards, *(entry for entry, _ in new)), removed=still_there(store))
    if len(store.indexes) < _INDEX_FILES:
        return store, added
    return replace(store, indexes=()), known.with_other(added)


def replaced(
    store: Store, shards: Sequence[tuple[ShardEntry, UInt8[np.ndarray, "_ 32"]]], removed: Sequence[str]
) -> Store:
    """The next generation of a store, which holds these shards, with the hashes of their rows, in the place of all.

    Raises:
        ExistsError: another writer was first.
    """
    bare = replace(store, shards=(), indexes=(), removed=())
    after, index = _grown(bare, shards)
    return _put_generation(store, (replace(after, removed=tuple(removed)), index))


def still_there(store: Store) -> tuple[str, ...]:
    """What was taken out and not removed yet: a generation that did not name it would take it for new shards."""
    return tuple(path for path in store.removed if exists(f"{store.uri}/{path}"))


def _put_generation(before: Store, grown: tuple[Store, Index]) -> Store:
    """Writes the index file, then the manifest, once: from then on they count."""
    after, index = grown
    generation = before.generation + 1
    entry = write_index_file(before.uri, generation, index)
    indexes = (*after.indexes, entry)
    document = {
        "schema_version": after.spec.schema_version,
        "spec": dataclasses.asdict(after.spec),
        "shards": [dataclasses.asdict(shard) for shard in after.shards],
        "indexes": [dataclasses.asdict(index) for index in indexes],
        "removed": list(after.removed),
        "fpt_ray": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    write_once(f"{before.uri}/manifest-{generation:05d}.json", json.dumps(document, indent=1).encode())
    return replace(after, generation=generation, indexes=indexes)
