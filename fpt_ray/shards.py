"""One shard: a Parquet file of rows, written whole or not at all, and opened only with the schema of its store."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fpt_ray.datasets import ImageRow
from fpt_ray.features import Slice, StoreError, StoreSpec, column_widths, feature_columns
from fpt_ray.importance import Extracted
from fpt_ray.storage import exists, filesystem, sync, temporary_path

_PLAIN = {"row": pa.int64(), "sha256": pa.string(), "path": pa.string(), "label": pa.int64()}
DIGEST_KEY = b"fpt_ray.spec"
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
    return pa.schema(fields, metadata={DIGEST_KEY: spec.digest, b"fpt_ray.shape": _shape_note(spec)})


def _shape_note(spec: StoreSpec) -> str:
    shape = ["head", "token", "head_width"]
    return json.dumps({"dtype": spec.dtype, "shape": shape, "heads": spec.num_heads, "head_width": spec.head_width})


def check_schema(found: pa.Schema, spec: StoreSpec, uri: str) -> None:
    """StoreError unless a file has exactly the schema of its store; no value is touched before."""
    if (found.metadata or {}).get(DIGEST_KEY) != spec.digest.encode():
        raise StoreError(f"{uri} belongs to another store than {spec.name}; put the right file back or preload again")
    wanted = schema(spec)
    if found.remove_metadata() != wanted.remove_metadata():
        odd = [f"{field.name}: {field.type}" for field in found if field not in list(wanted)]
        raise StoreError(f"{uri} has other columns than a feature store's ({', '.join(odd[:3])}); preload again")


# --- writing --------------------------------------------------------------------------------------------------


def shard_table(
    images: Sequence[ImageRow], first_row: int, low_res: np.ndarray, features: Extracted | None, spec: StoreSpec
) -> pa.Table:
    """The rows of a shard as raw bytes; features (L B H T E; None where the store has none) and images (B R R 3)."""
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


def _feature_cells(features: Extracted, spec: StoreSpec) -> dict[str, pa.Array]:
    tokens = features.tokens.numpy().astype(np.uint16)
    columns = {f"tokens_{layer:02d}": _cells(tokens[at]) for at, layer in enumerate(spec.layers)}
    kinds = {"keys": _raw(features.keys, spec), "values": _raw(features.values, spec)}
    for name, (kind, layer, band) in feature_columns(spec, Slice(depth=spec.depth, num_kept=spec.num_kept)):
        part = kinds[kind][layer - spec.layers.start, :, :, band.start : band.stop]
        columns[name] = _cells(np.ascontiguousarray(part))
    return columns


def _raw(tensor: torch.Tensor, spec: StoreSpec) -> np.ndarray:
    """Stored type; NumPy has no bfloat16, so that its bytes travel as whole numbers."""
    stored = tensor.to(getattr(torch, spec.dtype)).cpu()
    return stored.view(torch.int16).numpy() if spec.dtype == "bfloat16" else stored.numpy()


def _cells(values: np.ndarray) -> pa.Array:
    width = values.nbytes // len(values)
    return pa.Array.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])


def write_shard(uri: str, split: str, table: pa.Table, spec: StoreSpec) -> ShardEntry:
    """Writes a shard whole or not at all, with checksums on its pages.

    Raises:
        OSError: the disk is full, for instance; nothing is left under the shard's name.
    """
    blobs = list(column_widths(spec))
    options: dict[str, Any] = {
        "compression": "none",
        "use_dictionary": False,
        "write_statistics": list(_PLAIN),
        "write_page_checksum": True,
        "row_group_size": max(1, _ROW_GROUP_BYTES // sum(column_widths(spec)[name] for name in blobs)),
    }
    system, path = filesystem(uri)
    if "://" in uri:
        # An object appears only when its upload is complete.
        with system.open_output_stream(path) as stream:
            pq.write_table(table, stream, **options)
    else:
        temporary = temporary_path(Path(path))
        try:
            pq.write_table(table, temporary, **options)
            sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return _entry(uri, split, table.num_rows)


def _entry(uri: str, split: str, rows: int) -> ShardEntry:
    system, path = filesystem(uri)
    return ShardEntry(
        path=f"{split}/{uri.rpartition('/')[2]}",
        split=split,
        rows=rows,
        bytes=system.get_file_info(path).size,
        sha256=digest_of(uri),
    )


def existing_shard(uri: str, split: str, planned: Sequence[tuple[int, str]], spec: StoreSpec) -> ShardEntry | None:
    """The entry of a shard that an earlier run finished, if it holds just the planned rows (row id, content hash)."""
    if not exists(uri):
        return None
    try:
        file = open_shard(uri)
        check_schema(file.schema_arrow, spec, uri)
        names = file.read(columns=["row", "sha256"])
    except (StoreError, pa.ArrowInvalid, OSError):
        return None
    found = list(zip(names["row"].to_pylist(), names["sha256"].to_pylist(), strict=True))
    return _entry(uri, split, len(found)) if found == list(planned) else None


# --- reading --------------------------------------------------------------------------------------------------


def open_shard(uri: str) -> pq.ParquetFile:
    """A shard's file, its page checksums verified as pages are read; StoreError if it is no Parquet file."""
    system, path = filesystem(uri)
    try:
        return pq.ParquetFile(system.open_input_file(path), page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{uri} cannot be read ({error}); delete the store and preload again") from None


def digest_of(uri: str) -> str:
    """SHA-256 (hex) of a file."""
    system, path = filesystem(uri)
    digest = hashlib.sha256()
    with system.open_input_stream(path) as stream:
        while chunk := stream.read(2**24):
            digest.update(chunk)
    return digest.hexdigest()
