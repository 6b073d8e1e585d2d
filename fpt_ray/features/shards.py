"""One shard: a Parquet file of rows, written whole or not at all, and opened only with the schema of its store."""

import hashlib
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import UInt8

from fpt_ray.features.spec import (
    SCHEMA_VERSION,
    StoreError,
    StoreSpec,
    column_widths,
    everything,
    feature_columns,
    image_column,
)
from fpt_ray.images.table import ImageRow
from fpt_ray.models.importance import Extracted
from fpt_ray.storage.files import failure_as_error, filesystem, read_bytes, write_once

HASH = "sha256"
"""The column of content hashes, 32 bytes each, by which the rows of a shard are sorted."""
DIGEST_KEY, VERSION_KEY = b"fpt_ray.spec", b"fpt_ray.schema_version"
_ROW_GROUP_BYTES = 4 * 2**20
"""About what one request should bring; at the paper's setting a row group is a row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """One Parquet file of a store, as its manifest lists it."""

    path: str
    rows: int
    group_rows: int
    """Rows of each row group; the last may have fewer."""
    bytes: int
    sha256: str
    seconds: float = 0.0
    """That its features took; 0 where they are not known any more, since an interrupted preload made them."""


def schema(spec: StoreSpec) -> pa.Schema:
    """The only schema a shard may have: content hashes and raw bytes of fixed size."""
    fields = [pa.field(HASH, pa.binary(32))]
    fields += [pa.field(name, pa.binary(width)) for name, width in column_widths(spec).items()]
    notes = {DIGEST_KEY: spec.digest, VERSION_KEY: str(spec.schema_version), b"fpt_ray.shape": _shape_note(spec)}
    return pa.schema(fields, metadata=notes)


def _shape_note(spec: StoreSpec) -> str:
    shape = ["head", "token", "head_width"]
    return json.dumps({"dtype": spec.dtype, "shape": shape, "heads": spec.num_heads, "head_width": spec.head_width})


def check_schema(found: pa.Schema, spec: StoreSpec, uri: str) -> None:
    """StoreError unless a file has exactly the schema of its store; no value is touched before."""
    notes = found.metadata or {}
    version = notes.get(VERSION_KEY, b"1").decode(errors="replace")
    if version != str(SCHEMA_VERSION):
        raise StoreError(f"{uri} has schema_version {version}, this program reads {SCHEMA_VERSION}; update fpt_ray")
    if notes.get(DIGEST_KEY) != spec.digest.encode():
        raise StoreError(f"{uri} belongs to another store than {spec.name}; put the right file back or preload again")
    wanted = schema(spec)
    if found.remove_metadata() != wanted.remove_metadata():
        odd = [f"{field.name}: {field.type}" for field in found if field not in list(wanted)]
        raise StoreError(f"{uri} has other columns than a feature store's ({', '.join(odd[:3])}); preload again")


# --- writing --------------------------------------------------------------------------------------------------


def shard_table(
    images: Sequence[ImageRow], low_res: Sequence[np.ndarray], features: Extracted | None, spec: StoreSpec
) -> pa.Table:
    """The rows of a shard as raw bytes.

    Args:
        images: in the order of their content hashes.
        low_res: B R R 3 for each of the spec's low resolutions.
        features: L B H T E, with the summaries of all blocks; None where the store has images alone.
        spec: of the store.

    Raises:
        StoreError: a feature is NaN or infinite; the image is named.
    """
    columns = {HASH: pa.array([bytes.fromhex(image.sha256) for image in images], pa.binary(32))}
    for resolution, pixels in zip(spec.low_resolutions, low_res, strict=True):
        columns[image_column(resolution)] = _cells(np.ascontiguousarray(pixels))
    if features is not None:
        _check_finite(features, images, spec)
        columns |= _feature_cells(features, spec)
    wanted = schema(spec)
    return pa.table([columns[field.name] for field in wanted], schema=wanted)


def _check_finite(features: Extracted, images: Sequence[ImageRow], spec: StoreSpec) -> None:
    kinds = [kind.isfinite().all(dim=0).flatten(1).all(dim=1) for kind in (features.keys, features.values)]
    if features.summaries is not None:
        kinds.append(features.summaries.isfinite().all(dim=0).all(dim=0).all(dim=-1))
    for image, good in zip(images, torch.stack(kinds).all(dim=0).tolist(), strict=True):
        if not good:
            raise StoreError(
                f"{image.path}: its features hold NaN or infinite values as {spec.dtype}, computed in "
                f"{spec.precision}; see whether the weights fit (backbone.weights), or take another features.dtype"
            )


def _feature_cells(features: Extracted, spec: StoreSpec) -> dict[str, pa.Array]:
    assert features.summaries is not None
    tokens = features.tokens.numpy().astype(spec.token_dtype)
    columns = {f"tokens_{block:02d}": _cells(tokens[at]) for at, block in enumerate(spec.blocks)}
    columns["summaries"] = _cells(np.ascontiguousarray(_raw(features.summaries, spec).transpose(2, 0, 1, 3)))
    kinds = {"keys": _raw(features.keys, spec), "values": _raw(features.values, spec)}
    for column in feature_columns(spec, everything(spec)):
        part = kinds[column.kind][spec.blocks.index(column.block), :, :, column.ranks.start : column.ranks.stop]
        columns[column.name] = _cells(np.ascontiguousarray(part))
    return columns


def _raw(tensor: torch.Tensor, spec: StoreSpec) -> np.ndarray:
    """Stored type; NumPy has no bfloat16, so that its bytes travel as whole numbers."""
    stored = tensor.to(getattr(torch, spec.dtype)).cpu()
    return stored.view(torch.int16).numpy() if spec.dtype == "bfloat16" else stored.numpy()


def _cells(values: np.ndarray) -> pa.Array:
    width = values.nbytes // len(values)
    return pa.Array.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])


def write_shard(uri: str, table: pa.Table, spec: StoreSpec) -> ShardEntry:
    """Writes a shard whole or not at all, with checksums on its pages; the same shard again is no error.

    Raises:
        ExistsError: there is one with another content.
        OSError: the disk is full, for instance; nothing is left under the shard's name.
        StorageError: S3 fails; nothing is left under the shard's name.
    """
    sink = pa.BufferOutputStream()
    options: Any = {"write_statistics": [HASH]}  # pyarrow's annotation knows no list
    group_rows = max(1, _ROW_GROUP_BYTES // sum(column_widths(spec).values()))
    pq.write_table(
        table,
        sink,
        compression="none",
        use_dictionary=False,
        **options,
        write_page_checksum=True,
        row_group_size=group_rows,
    )
    content = sink.getvalue()
    write_once(uri, content)
    return _entry(uri, table.num_rows, min(group_rows, table.num_rows), content)


def _entry(uri: str, rows: int, group_rows: int, content: pa.Buffer | bytes) -> ShardEntry:
    return ShardEntry(
        path="/".join(uri.split("/")[-2:]),
        rows=rows,
        group_rows=group_rows,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


# --- reading --------------------------------------------------------------------------------------------------


@contextmanager
def damage_as_error(uri: str) -> Iterator[None]:
    """What is wrong with a file's bytes becomes a StoreError that names it; what cannot be read stays what it is.

    Raises:
        StoreError: it is missing, or its bytes are not as they were written.
        OSError: it cannot be read, which says nothing of its bytes.
        StorageError: S3 fails.
    """
    try:
        with failure_as_error(uri):
            yield
    except FileNotFoundError:
        raise StoreError(_missing(uri)) from None
    except MemoryError:  # Arrow's is one of its own errors, too
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column's name
        if isinstance(error, OSError) and error.errno is not None:
            raise
        text = " ".join(str(error).split())
        raise StoreError(f"{uri} is damaged ({text}); delete the store and preload again") from None


def _missing(uri: str) -> str:
    folder = uri.rpartition("/")[0].removesuffix("/shards")
    if "://" in uri or Path(folder).is_dir():
        return f"{uri} is missing; put it back, or delete the store and preload again"
    return (
        f"{folder} is not there on the host {socket.gethostname()}: give --workdir a disk that every host shares, or "
        "S3; if the store was removed, preload again"
    )


def parquet_file(source: pa.NativeFile | pa.BufferReader) -> pq.ParquetFile:
    """A Parquet file whose page checksums are verified as pages are read, and whose columns come in one request."""
    return pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True)


def open_shard(uri: str, spec: StoreSpec) -> pq.ParquetFile:
    """A shard's file; StoreError if it is missing, no Parquet file or not of this store."""
    system, path = filesystem(uri)
    with damage_as_error(uri):
        file = parquet_file(system.open_input_file(path))
    check_schema(file.schema_arrow, spec, uri)
    return file


def shard_hashes(uri: str, spec: StoreSpec) -> UInt8[np.ndarray, "rows 32"]:
    """The content hashes of a shard's rows; StoreError if it is damaged or not of this store."""
    with damage_as_error(uri):
        return hash_array(open_shard(uri, spec).read(columns=[HASH])[HASH])


def adopted(uri: str, spec: StoreSpec) -> tuple[ShardEntry, UInt8[np.ndarray, "rows 32"]] | None:
    """The entry and hashes of a shard that an earlier run finished; None where it cannot be used.

    Raises:
        OSError, StorageError: it cannot be read, which says nothing of its bytes.
    """
    try:
        with damage_as_error(uri):
            content = read_bytes(uri)
            file = parquet_file(pa.BufferReader(content))
            check_schema(file.schema_arrow, spec, uri)
            hashes, groups = hash_array(file.read(columns=[HASH])[HASH]), file.metadata.row_group(0).num_rows
    except StoreError:
        return None
    return _entry(uri, len(hashes), groups, content), hashes


def hash_array(column: pa.ChunkedArray | pa.Array) -> UInt8[np.ndarray, "rows 32"]:
    """Content hashes as bytes."""
    return np.concatenate([np.zeros((0, 32), np.uint8), *(cell_view(chunk, 32) for chunk in _chunks(column))])


def _chunks(column: pa.ChunkedArray | pa.Array) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]


def cell_view(column: pa.Array, width: int) -> UInt8[np.ndarray, "rows width"]:
    """The cells of a column of raw bytes, without a copy."""
    if column.type != pa.binary(width) or column.null_count:
        raise StoreError(f"a column is {column.type} with {column.null_count} gaps, not {width} bytes; preload again")
    raw = np.frombuffer(column.buffers()[1], np.uint8)
    return raw[column.offset * width : (column.offset + len(column)) * width].reshape(len(column), width)
