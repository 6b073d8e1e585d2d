"""The identity of an image table: a digest of what its images are, how they are labelled, and their splits."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, Int, Int8, UInt8

from fpt_ray.images.columns import SPLITS, as_hex
from fpt_ray.images.labels import Values

_CHUNK = 2**16
"""Rows that are written as text at once."""
Hashes = UInt8[np.ndarray, "rows 32"] | None
Weights = Float32[np.ndarray, " rows"] | None


def order_by_hash(
    hashes: Hashes, labels: Values, splits: Int8[np.ndarray, " rows"], weights: Weights
) -> Int[np.ndarray, " rows"]:
    """The numbers of rows in the order of content hash, label, name of the split and weight."""
    names = np.argsort(np.argsort((*SPLITS, "")))[splits]  # -1 is the last one, without a name
    keys = [] if hashes is None else list(np.ascontiguousarray(hashes).view(">u8").T)
    keys += [*labels.reshape(len(labels), -1).T, names]
    return np.lexsort([*([] if weights is None else [weights]), *reversed(keys)])


def digest_of(
    head: Sequence[object], hashes: Hashes, labels: Values, splits: Int8[np.ndarray, " rows"], weights: Weights
) -> str:
    """SHA-256 (hex) of the JSON of ``head`` and a list of rows: [content, label, split], and a weight where there are.

    Numbers that are not whole stand there as their bytes.
    """
    found = hashlib.sha256(json.dumps([*head, []])[:-2].encode())
    for first in range(0, len(labels), _CHUNK):
        part = slice(first, first + _CHUNK)
        text = _rows_text(
            None if hashes is None else hashes[part],
            labels[part],
            splits[part],
            None if weights is None else weights[part],
        )
        found.update((", " * (first > 0) + text).encode())
    found.update(b"]]")
    return found.hexdigest()


def _rows_text(hashes: Hashes, labels: Values, splits: Int8[np.ndarray, " rows"], weights: Weights) -> str:
    names = pa.array((*SPLITS, "")).take(pa.array(np.where(splits < 0, len(SPLITS), splits)))
    content = pa.array([""] * len(labels)) if hashes is None else as_hex(hashes)
    whole = np.issubdtype(labels.dtype, np.integer)
    values = pa.array(labels).cast(pa.string()) if whole else _quoted(_bytes_text(labels))
    cells = [_quoted(content), values, _quoted(names)]
    if weights is not None:
        cells.append(_quoted(_bytes_text(weights)))
    joined = pc.binary_join_element_wise(*cells, ", ")
    rows = pc.binary_join_element_wise("[", joined, "]", "")
    return pc.binary_join(pa.ListArray.from_arrays([0, len(rows)], rows), ", ")[0].as_py()


def _quoted(texts: pa.StringArray) -> pa.StringArray:
    return pc.binary_join_element_wise('"', texts, '"', "")


def _bytes_text(values: np.ndarray) -> pa.StringArray:
    """Each row of numbers as the hex of its bytes; every NaN is the same, and zero has no sign."""
    plain = np.where(np.isnan(values), np.nan, values + 0.0).astype(values.dtype.newbyteorder("<"))
    return as_hex(np.ascontiguousarray(plain).reshape(len(values), -1).view(np.uint8))
