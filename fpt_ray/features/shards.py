"""One shard: a Parquet file of rows, written whole or not at all, and opened only with the schema of its store."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fpt_ray.features.spec import SCHEMA_VERSION, Slice, StoreError, StoreSpec, column_widths, feature_columns
from fpt_ray.images.table import ImageRow
from fpt_ray.models.importance import Extracted
from fpt_ray.storage.files import exists, failure_as_error, filesystem, read_bytes, write_once

_PLAIN = {"row": pa.int64(), "sha256": pa.string(), "path": pa.string(), "label": pa.int64()}
DIGEST_KEY, VERSION_KEY = b"fpt_ray.spec", b"fpt_ray.schema_version"
_ROW_GROUP_BYTES = 32 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """One Parquet file of a store, as its manifest lists it."""

    path: str
    split: str
    rows: int
    bytes: int
    sha256: str
    seconds: float = 0.0
    """That its features took; 0 where they are not known any more, since an interrupted preload made them."""


def schema(spec: StoreSpec) -> pa.Schema:
    """The only schema a shard may have: plain numbers, texts and raw bytes of fixed size."""
    fields = [pa.field(name, kind) for name, kind in _PLAIN.items()]
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
    images: Sequence[ImageRow], first_row: int, low_res: np.ndarray, features: Extracted | None, spec: StoreSpec
) -> pa.Table:
    """The rows of a shard as raw bytes; features (L B H T E; None where the store has none) and images (B R R 3).

    Raises:
        StoreError: a feature is NaN or infinite; the image is named.
    """
    if features is not None:
        _check_finite(features, images, spec)
    columns: dict[str, Any] = {
        "row": pa.array(range(first_row, first_row + len(images)), pa.int64()),
        "sha256": pa.array([image.sha256 for image in images]),
        "path": pa.array([image.path for image in images]),
        "label": pa.array([image.label for image in images], pa.int64()),
        "low_res": _cells(np.ascontiguousarray(low_res)),
    }
    columns |= {} if features is None else _feature_cells(features, spec)
    wanted = schema(spec)
    return pa.table([columns[field.name] for field in wanted], schema=wanted)


def _check_finite(features: Extracted, images: Sequence[ImageRow], spec: StoreSpec) -> None:
    finite = torch.stack([kind.isfinite().all(dim=(0, 2, 3, 4)) for kind in (features.keys, features.values)]).all(
        dim=0
    )
    for image, good in zip(images, finite.tolist(), strict=True):
        if not good:
            raise StoreError(
                f"{image.path}: its features hold NaN or infinite values as {spec.dtype}, computed in "
                f"{spec.precision}; see whether the weights fit (backbone.weights), or take another features.dtype"
            )


def _feature_cells(features: Extracted, spec: StoreSpec) -> dict[str, pa.Array]:
    tokens = features.tokens.numpy().astype(np.uint16)
    columns = {f"tokens_{layer:02d}": _cells(tokens[at]) for at, layer in enumerate(spec.layers)}
    kinds = {"keys": _raw(features.keys, spec), "values": _raw(features.values, spec)}
    for column in feature_columns(spec, Slice(depth=spec.depth, num_kept=spec.num_kept)):
        part = kinds[column.kind][column.layer - spec.layers.start, :, :, column.ranks.start : column.ranks.stop]
        columns[column.name] = _cells(np.ascontiguousarray(part))
    return columns


def _raw(tensor: torch.Tensor, spec: StoreSpec) -> np.ndarray:
    """Stored type; NumPy has no bfloat16, so that its bytes travel as whole numbers."""
    stored = tensor.to(getattr(torch, spec.dtype)).cpu()
    return stored.view(torch.int16).numpy() if spec.dtype == "bfloat16" else stored.numpy()


def _cells(values: np.ndarray) -> pa.Array:
    width = values.nbytes // len(values)
    return pa.Array.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])


def write_shard(uri: str, split: str, table: pa.Table, spec: StoreSpec) -> ShardEntry:
    """Writes a shard whole or not at all, with checksums on its pages; the same shard again is no error.

    Raises:
        ExistsError: there is one with another content.
        OSError: the disk is full, for instance; nothing is left under the shard's name.
        StorageError: S3 fails; nothing is left under the shard's name.
    """
    blobs = list(column_widths(spec))
    sink = pa.BufferOutputStream()
    options: Any = {"write_statistics": list(_PLAIN)}  # pyarrow's annotation knows no list
    pq.write_table(
        table,
        sink,
        compression="none",
        use_dictionary=False,
        **options,
        write_page_checksum=True,
        row_group_size=max(1, _ROW_GROUP_BYTES // sum(column_widths(spec)[name] for name in blobs)),
    )
    content = sink.getvalue()
    write_once(uri, content)
    return _entry(uri, split, table.num_rows, content)


def _entry(uri: str, split: str, rows: int, content: pa.Buffer | bytes) -> ShardEntry:
    digest = hashlib.sha256(content).hexdigest()
    return ShardEntry(
        path=f"{split}/{uri.rpartition('/')[2]}", split=split, rows=rows, bytes=len(content), sha256=digest
    )


def existing_shard(uri: str, split: str, planned: Sequence[tuple[int, str]], spec: StoreSpec) -> ShardEntry | None:
    """The entry of a shard that an earlier run finished, if it holds just the planned rows (row id, content hash)."""
    if not exists(uri):
        return None
    content = read_bytes(uri)
    try:
        with damage_as_error(uri):
            file = parquet_file(pa.BufferReader(content))
            check_schema(file.schema_arrow, spec, uri)
            names = file.read(columns=["row", "sha256"])
    except StoreError:
        return None
    found = list(zip(names["row"].to_pylist(), names["sha256"].to_pylist(), strict=True))
    return _entry(uri, split, len(found), content) if found == list(planned) else None


# --- reading --------------------------------------------------------------------------------------------------


@contextmanager
def damage_as_error(uri: str) -> Iterator[None]:
    """What is wrong with a shard's bytes becomes a StoreError that names it; what S3 answers last, a StorageError."""
    try:
        with failure_as_error(uri):
            yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column's name
        gone = isinstance(error, FileNotFoundError)
        fault = "is missing" if gone else f"is damaged ({' '.join(str(error).split())})"
        raise StoreError(f"{uri} {fault}; delete the store and preload again") from None


def parquet_file(source: pa.NativeFile) -> pq.ParquetFile:
    """A Parquet file whose page checksums are verified as pages are read."""
    return pq.ParquetFile(source, page_checksum_verification=True)


def open_shard(uri: str) -> pq.ParquetFile:
    """A shard's file; StoreError if it is missing or no Parquet file."""
    system, path = filesystem(uri)
    with damage_as_error(uri):
        return parquet_file(system.open_input_file(path))


def read_shard(uri: str, columns: Sequence[str], spec: StoreSpec, rows: range) -> pa.Table:
    """Columns of a shard, ``row`` among them; StoreError if it is damaged or does not hold these rows of this store."""
    with damage_as_error(uri):
        file = open_shard(uri)
        check_schema(file.schema_arrow, spec, uri)
        table = file.read(columns=list(columns))
    check_rows(table["row"].to_pylist(), rows, uri)
    return table


def check_rows(found: Sequence[int], rows: range, uri: str) -> None:
    """StoreError unless a shard's row ids are those that its place in the manifest gives it."""
    if list(found) != list(rows):
        raise StoreError(
            f"{uri} holds {_ends(found)}, its place in the manifest is {_ends(rows)}; put the right file back or "
            "preload again"
        )


def _ends(rows: Sequence[int]) -> str:
    return f"{len(rows)} rows ({rows[0]} to {rows[-1]})" if len(rows) else "no rows"
