"""Which rows have something in common: equal values, or images that look alike."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.fft
from jaxtyping import Bool, Int, Shaped, UInt8, UInt64
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

HASH_BITS = 64
MOST_BITS = 4
"""In which the hashes of two images that look alike may differ: a JPEG that was saved again or made smaller differs in
0 to 4."""
_COMPARISONS = 2**26
"""Of hashes, in each of the orders below: what bounds the time where very many are alike."""


# --- equal values ---------------------------------------------------------------------------------------------


def as_binary(hashes: UInt8[np.ndarray, "rows bytes"]) -> pa.FixedSizeBinaryArray:
    """Hashes as a column, not copied."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(hashes))]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(hashes.shape[1]), len(hashes), buffers)


def numbered(values: pa.Array | pa.ChunkedArray) -> Int[np.ndarray, " rows"]:
    """A number for each row: equal ones have the same. It takes time and memory as there are rows."""
    coded = pc.dictionary_encode(values)
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def repeated(numbers: Int[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """The rows whose number another row has, too."""
    return np.bincount(numbers)[numbers] > 1


def torn(numbers: Int[np.ndarray, " rows"], sides: Shaped[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """The rows whose number stands on several sides."""
    size = numbers.max(initial=-1) + 1
    one, several = np.empty(size, sides.dtype), np.zeros(size, bool)
    one[numbers] = sides  # of any row
    several[numbers[one[numbers] != sides]] = True
    return several[numbers]


# --- images that look alike -----------------------------------------------------------------------------------


def perceptual_hash(pixels: UInt8[np.ndarray, "Y X 3"]) -> int:
    """64 bits that change little when an image is made smaller, lighter or is saved again.

    "pHash" as the library ImageHash computes it: the 8 x 8 lowest frequencies of the cosine transform of the image in
    32 x 32 grey values, each above or below their median (Zauner, Implementation and Benchmarking of Perceptual Image
    Hash Functions, 2010).
    """
    grey = Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.LANCZOS, reducing_gap=3)
    low = np.asarray(scipy.fft.dctn(np.asarray(grey, np.float64)))[:8, :8]
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


@dataclass(frozen=True, kw_only=True, slots=True)
class Alike:
    """Images by what they look like."""

    groups: Int[np.ndarray, " rows"]
    """A number for each row; those that look alike, from one to the next, have the same."""
    exhaustive: bool
    """Whether all were compared; where very many have a part of their hashes in common, only the nearest are."""


def look_alike(hashes: UInt64[np.ndarray, " rows"], most_bits: int = MOST_BITS) -> Alike:
    """Groups of images whose perceptual hashes differ in at most so many bits.

    Not every pair is compared. Hashes are cut into two bands more than bits may differ, so that two bands at least are
    equal in any two that look alike: they are neighbours where hashes stand in the order of these two bands.
    """
    unique, places = np.unique(hashes, return_inverse=True)
    groups, exhaustive = np.arange(len(unique)), True
    most_apart = max(1, _COMPARISONS // max(1, len(unique)))
    for first, second in combinations(_bands(most_bits + 2), 2):
        keys = unique & (first | second)
        order = np.argsort(keys, kind="stable")  # where they are equal, by the whole hash
        keys, starts = keys[order], np.arange(len(order))
        for apart in range(1, most_apart + 1):
            starts = starts[starts + apart < len(order)]
            starts = starts[keys[starts] == keys[starts + apart]]
            if not len(starts):
                break
            left, right = order[starts], order[starts + apart]
            new = np.bitwise_count(unique[left] ^ unique[right]) <= most_bits
            new &= groups[left] != groups[right]
            if new.any():
                groups = _joined(groups, left[new], right[new])
        else:
            exhaustive = False
    return Alike(groups=groups[places], exhaustive=exhaustive)


def _joined(groups: Int[np.ndarray, " n"], left: np.ndarray, right: np.ndarray) -> Int[np.ndarray, " n"]:
    """The groups, where those of ``left`` and ``right`` are one."""
    edges = np.ones(len(left), bool), (groups[left], groups[right])
    _, found = connected_components(coo_array(edges, shape=(len(groups), len(groups))), directed=False)
    return found.astype(np.int64)[groups]


def _bands(number: int) -> list[np.uint64]:
    """Masks that divide the bits of a hash."""
    ends = [HASH_BITS * end // number for end in range(number + 1)]
    return [np.uint64((1 << end) - (1 << start)) for start, end in pairwise(ends)]
