"""What is wrong with a store: every shard read once and held against its manifest; and which stores there are."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import pyarrow as pa
import torch

from fpt_ray.features.shards import ShardEntry, check_rows, check_schema, damage_as_error, open_shard, parquet_file
from fpt_ray.features.spec import StoreError, StoreSpec
from fpt_ray.features.store import MANIFEST, Store, read_manifest
from fpt_ray.images.sources import SPLITS
from fpt_ray.storage.files import abort_uploads, exists, list_files, read_bytes, remove
from fpt_ray.storage.protocol import File

_THREADS = 4
_SPLIT = f"({'|'.join(SPLITS)})"
_SHARD = re.compile(rf"{_SPLIT}/part-\d{{5}}\.parquet$")
_TEMPORARY = re.compile(rf"({_SPLIT}/\.part-\d{{5}}\.parquet|\.{re.escape(MANIFEST)})\.[0-9a-f]{{32}}\.tmp")


# --- one store ------------------------------------------------------------------------------------------------


def store_faults(store: Store) -> Iterator[str]:
    """A line for everything in the shards that is not as the manifest and the schema say."""
    todo = [
        (shard, rows)
        for split in SPLITS
        for shard, rows in zip((s for s in store.shards if s.split == split), store.row_ranges(split), strict=True)
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(lambda job: _shard_faults(store, *job), todo):
            yield from found


def _shard_faults(store: Store, shard: ShardEntry, rows: range) -> list[str]:
    uri = f"{store.uri}/{shard.path}"
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
            faults += _row_faults(file.read(), store, rows, uri)
    except StoreError as error:
        faults.append(str(error))
    return faults


def _row_faults(table: pa.Table, store: Store, rows: range, uri: str) -> Iterator[str]:
    try:
        check_rows(table["row"].to_pylist(), rows, uri)
    except StoreError as error:
        yield str(error)
    odd = sorted(set(table["label"].to_pylist()) - set(range(len(store.classes))), key=str)
    if odd:
        yield f"{uri} has the labels {odd[:3]}; the store has {len(store.classes)} classes"
    for name in table.schema.names:
        if table[name].null_count:
            yield f"{uri}: {name} has {table[name].null_count} gaps"
        elif name.startswith(("keys", "values")) and (bad := _not_finite(table[name], store.spec)):
            images = [table["path"][at].as_py() for at in bad[:3]]
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
        shard = _SHARD.search(file.path)
        if shard is not None:
            folders.setdefault(file.path[: shard.start()], []).append(file)
        elif file.path.rpartition("/")[2] == MANIFEST:
            folders.setdefault(file.path.removesuffix(MANIFEST), []).append(file)
    for folder, files in sorted(folders.items()):
        yield _found(f"{uri}/{folder}".rstrip("/"), files)


def _found(uri: str, files: list[File]) -> Found:
    size = sum(file.bytes for file in files)
    shards = [file.path for file in files if not file.path.endswith(MANIFEST)]
    if len(shards) == len(files):
        names = [_SHARD.search(path)[0] for path in shards]  # type: ignore[index]
        return Found(uri=uri, store=None, why="unfinished", rows=_rows(uri, names), bytes=size)
    try:
        store = read_manifest(uri)
    except StoreError as error:
        return Found(uri=uri, store=None, why=str(error), rows=0, bytes=size)
    return Found(uri=uri, store=store, why="", rows=sum(store.num_rows(split) for split in SPLITS), bytes=size)


def _rows(uri: str, shards: list[str]) -> int:
    """Rows that an unfinished store has so far, of the shards that can be read."""
    rows = 0
    for shard in shards:
        try:
            rows += open_shard(f"{uri}/{shard}").metadata.num_rows
        except StoreError:
            continue
    return rows


# --- the end of a store ---------------------------------------------------------------------------------------


def remove_store(uri: str) -> tuple[int, int, int]:
    """Removes a store, finished or not; (files, bytes, aborted uploads).

    The manifest goes first, so that what a killed removal leaves is an unfinished store.

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
    remove(uri, [MANIFEST])
    remove(uri, [file.path for file in files if file.path != MANIFEST])
    return len(files), sum(file.bytes for file in files), uploads


def remove_temporaries(uri: str) -> None:
    """Removes from a finished store what killed writers left of files that they had not finished."""
    remove(uri, [file.path for file in list_files(uri) if _TEMPORARY.fullmatch(file.path)])


def _belongs(path: str) -> bool:
    return path == MANIFEST or bool(_SHARD.match(path) or _TEMPORARY.fullmatch(path))
