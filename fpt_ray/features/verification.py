"""What is wrong with a store: every shard read once and held against its manifest; and which stores there are."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fpt_ray.features.index import Index
from fpt_ray.features.shards import HASH, check_schema, damage_as_error, hash_array, parquet_file
from fpt_ray.features.spec import StoreError, StoreSpec
from fpt_ray.features.store import MANIFEST, OLD_MANIFEST, Store, read_index, read_manifest
from fpt_ray.images.columns import SPLITS
from fpt_ray.storage.files import abort_uploads, exists, filesystem, list_files, read_bytes, remove
from fpt_ray.storage.protocol import File

_THREADS = 4
_NAME = r"(\d{5})-[0-9a-f]{16}\.parquet"
_OLD_SHARD = re.compile(rf"({'|'.join(SPLITS)})/part-\d{{5}}\.parquet$")
_SHARD = re.compile(rf"shards/{_NAME}$")
_INDEX = re.compile(rf"index/{_NAME}$")
_TEMPORARY = re.compile(rf"((shards|index)/\.{_NAME}|\.{MANIFEST.pattern})\.[0-9a-f]{{32}}\.tmp")


# --- one store ------------------------------------------------------------------------------------------------


def store_faults(store: Store) -> Iterator[str]:
    """A line for everything in the shards that is not as the manifest, the index and the schema say."""
    index = read_index(store)
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(lambda shard: _shard_faults(store, index, shard), range(len(store.shards))):
            yield from found


def _shard_faults(store: Store, index: Index, number: int) -> list[str]:
    shard, uri = store.shards[number], store.shard_uri(number)
    if not exists(uri):
        return [f"{uri} is missing"]
    content = read_bytes(uri)
    faults = []
    if len(content) != shard.bytes:
        faults.append(f"{uri} has {len(content)} bytes, the manifest says {shard.bytes}")
    if sha256(content).hexdigest() != shard.sha256:
        faults.append(f"{uri} was changed since it was written: its SHA-256 is another than the manifest's")
    try:
        with damage_as_error(uri):
            file = parquet_file(pa.BufferReader(content))
            check_schema(file.schema_arrow, store.spec, uri)
            table = file.read()
            faults += _row_faults(table, index, number, uri)
            faults += _cell_faults(table, store.spec, uri)
    except StoreError as error:
        faults.append(str(error))
    return faults


def _row_faults(table: pa.Table, index: Index, number: int, uri: str) -> Iterator[str]:
    hashes, inside = hash_array(table[HASH]), index.shards == number
    rows = index.rows[inside]
    if len(rows) and rows.max() >= len(hashes):
        yield f"{uri} holds {len(hashes)} rows, the index knows {rows.max() + 1}"
    elif not np.array_equal(hashes[rows], index.hashes[inside]):
        yield f"{uri} holds other images than the index says"
    if (index.find(hashes) < 0).any():
        yield f"{uri} holds images that the index does not know"


def _cell_faults(table: pa.Table, spec: StoreSpec, uri: str) -> Iterator[str]:
    for name in table.schema.names:
        if table[name].null_count:
            yield f"{uri}: {name} has {table[name].null_count} gaps"
        elif name.startswith(("keys", "values", "summaries")) and (bad := _not_finite(table[name], spec)):
            images = [table[HASH][at].as_py().hex()[:12] for at in bad[:3]]
            yield f"{uri}: {name} holds NaN or infinite values in {len(bad)} rows ({', '.join(images)})"


def _not_finite(column: pa.ChunkedArray, spec: StoreSpec) -> list[int]:
    (values,) = column.combine_chunks().chunks if column.num_chunks > 1 else column.chunks
    raw = np.frombuffer(values.buffers()[1], np.uint8)[values.offset * values.type.byte_width :]
    cells = torch.from_numpy(raw[: len(values) * values.type.byte_width].copy()).view(getattr(torch, spec.dtype))
    return (~cells.view(len(values), -1).isfinite().all(dim=1)).nonzero().flatten().tolist()


# --- all stores of a place ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A store, finished or not."""

    uri: str
    store: Store | None
    """Nothing: it is not finished, or its manifest cannot be used."""
    why: str
    """Why there is none."""
    rows: int
    bytes: int


def find_stores(uri: str) -> Iterator[Found]:
    """The stores at and below a location, finished ones and those whose preload was interrupted."""
    folders: dict[str, list[File]] = {}
    for file in list_files(uri):
        if (folder := _store_folder(file.path)) is not None:
            folders.setdefault(folder, []).append(file)
    for folder, files in sorted(folders.items()):
        yield _found(f"{uri}/{folder}".rstrip("/"), [file for file in files if not _INDEX.search(file.path)], files)


def _store_folder(path: str) -> str | None:
    """The folder of the store that a file belongs to."""
    for pattern in (_SHARD, _INDEX, _OLD_SHARD):
        if found := pattern.search(path):
            return path[: found.start()]
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}" if name == OLD_MANIFEST or MANIFEST.fullmatch(name) else None


def _found(uri: str, files: list[File], all_files: list[File]) -> Found:
    size = sum(file.bytes for file in all_files)
    shards = [found[0] for file in files if (found := _SHARD.search(file.path))]
    if len(shards) == len(files):
        return Found(uri=uri, store=None, why="unfinished", rows=_rows(uri, shards), bytes=size)
    try:
        store = read_manifest(uri)
    except StoreError as error:
        return Found(uri=uri, store=None, why=str(error), rows=0, bytes=size)
    return Found(uri=uri, store=store, why="", rows=store.num_rows, bytes=size)


def _rows(uri: str, shards: list[str]) -> int:
    """Rows that an unfinished store has so far, of the shards that can be read; of each the end alone is."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return sum(pool.map(lambda shard: _rows_of(f"{uri}/{shard}"), shards))


def _rows_of(uri: str) -> int:
    system, path = filesystem(uri)
    try:
        with damage_as_error(uri), system.open_input_file(path) as file:
            return pq.read_metadata(file).num_rows
    except StoreError:
        return 0


def unlisted_shards(store: Store) -> list[str]:
    """The paths of finished shards that no manifest lists: what an interrupted preload left, or one that runs."""
    listed = {shard.path for shard in store.shards} | set(store.removed)
    return [file.path for file in list_files(store.uri) if _SHARD.fullmatch(file.path) and file.path not in listed]


# --- the end of a store ---------------------------------------------------------------------------------------


def remove_store(uri: str) -> tuple[int, int, int]:
    """Removes a store, finished or not; (files, bytes, aborted uploads).

    The manifests go first, so that what a killed removal leaves is an unfinished store.

    Raises:
        StoreError: the place is no store; nothing was removed.
    """
    files = list_files(uri)
    foreign = [file.path for file in files if not _belongs(file.path)]
    if foreign:
        raise StoreError(f"{uri} is no feature store: it holds {foreign[0]}; nothing was removed")
    uploads = abort_uploads(uri)
    if not files and not uploads:
        raise StoreError(f"{uri} is no feature store: there is nothing; see fpt-ray features ls")
    paths = [file.path for file in files]
    first = sorted((path for path in paths if path == OLD_MANIFEST or MANIFEST.fullmatch(path)), reverse=True)
    remove(uri, first)
    remove(uri, [path for path in paths if path not in first])
    return len(files), sum(file.bytes for file in files), uploads


def remove_leftovers(store: Store) -> None:
    """Removes what killed writers had not finished, and what the store's generation has taken out.

    After images were taken out, the manifests and index files of earlier generations go, too: they tell of them. Those
    of later ones are another writer's.
    """
    paths = [file.path for file in list_files(store.uri)]
    kept = {f"manifest-{store.generation:05d}.json", *(index.path for index in store.indexes)}
    numbered = [(path, found) for path in paths if (found := MANIFEST.fullmatch(path) or _INDEX.fullmatch(path))]
    earlier = [path for path, found in numbered if int(found[1]) <= store.generation and path not in kept]
    # The shards go last: as long as one is there, the next generation goes on with the removal.
    remove(store.uri, earlier if store.removed else [])
    remove(store.uri, [path for path in paths if _TEMPORARY.fullmatch(path) or path in store.removed])


def _belongs(path: str) -> bool:
    patterns = (_SHARD, _INDEX, _OLD_SHARD, MANIFEST, _TEMPORARY)
    return path == OLD_MANIFEST or any(pattern.fullmatch(path) for pattern in patterns)
