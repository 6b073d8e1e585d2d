"""Images that must go: a generation of a store that is without them, and nothing of them left."""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from fpt_ray.features.index import Index
from fpt_ray.features.shards import ShardEntry, damage_as_error, open_shard, shard_hashes, write_shard
from fpt_ray.features.spec import StoreError
from fpt_ray.features.store import Store, open_store, read_index, replaced, shard_path, still_there
from fpt_ray.features.verification import remove_leftovers, unlisted_shards
from fpt_ray.storage.errors import ExistsError, disk_full_as_error


def forget(uri: str, images: Sequence[str]) -> int:
    """Removes images, by their content hashes in hex, from a store; returns how many shards were written anew.

    The shards that hold them are written without them, a manifest without them is put, and then the old shards, index
    files and manifests are removed. A removal that was killed is ended by the next one, or by the next preload.

    Raises:
        StoreError: a hash is none, an image is not in the store, a shard of a preload that is not finished holds it, or
            somebody else changed the store meanwhile.
        FullError: the disk is full.
        StorageError: S3 fails.
    """
    store = open_store(uri)
    for image in images:
        if not re.fullmatch("[0-9a-f]{64}", image):
            raise StoreError(f"images: {image!r} is no SHA-256; give 64 digits, as an image table has them")
    left = still_there(store)
    if store.removed:
        remove_leftovers(store)
    hashes = np.frombuffer(bytes.fromhex("".join(images)), np.uint8).reshape(-1, 32)
    _require_finished(store, hashes)
    at = read_index(store).find(hashes)
    if (at < 0).any():
        done = "what an earlier removal had left is removed" if left else "nothing was removed"
        raise StoreError(f"{uri} does not hold {images[int(np.flatnonzero(at < 0)[0])]}; {done}")
    with disk_full_as_error(uri):
        store, written = _without(store, hashes)
    remove_leftovers(store)
    return written


def _require_finished(store: Store, hashes: np.ndarray) -> None:
    """StoreError if a shard holds one of these images that no manifest lists: the next preload would take it over."""
    gone = _index_of(hashes)
    for path in unlisted_shards(store):
        try:
            found = shard_hashes(f"{store.uri}/{path}", store.spec)
        except StoreError:
            continue  # no preload takes it over
        if (gone.find(found) >= 0).any():
            raise StoreError(
                f"{store.uri}/{path}, which the store does not list, holds such an image: a preload runs, or a preload "
                "or removal was killed; let it end, repeat it, or remove that file, and forget the images then; "
                "nothing was removed"
            )


def _index_of(hashes: np.ndarray) -> Index:
    numbers = np.zeros(len(hashes), np.int32)
    return Index(hashes=hashes, shards=numbers, rows=numbers).in_order()


def _without(store: Store, hashes: np.ndarray) -> tuple[Store, int]:
    """The generation without these images, and how many shards were written for it."""
    known: list[tuple[ShardEntry, np.ndarray]] = []
    written, removed = 0, []
    gone = _index_of(hashes)
    for number, entry in enumerate(store.shards):
        uri = store.shard_uri(number)
        rows = shard_hashes(uri, store.spec)
        kept = np.flatnonzero(gone.find(rows) < 0)
        if len(kept) == len(rows):
            known.append((entry, rows))
            continue
        removed.append(entry.path)
        if len(kept):
            with damage_as_error(uri):
                table = open_shard(uri, store.spec).read().take(pa.array(kept))
            path = shard_path(store, rows[kept])
            known.append((write_shard(f"{store.uri}/{path}", table, store.spec), rows[kept]))
            written += 1
    try:
        return replaced(store, known, removed), written
    except ExistsError:
        raise StoreError(f"{store.uri} was changed by somebody else meanwhile; forget the images again") from None
