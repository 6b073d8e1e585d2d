"""Remarks on what images look like: alike, of one colour, dark, small."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from fpt_ray.datasets.checks.alike import HASH_BITS, MOST_BITS, look_alike, torn
from fpt_ray.datasets.checks.remark import Remark, counted, paths_of, together
from fpt_ray.images.table import ImageTable

_DARK = 32
"""Of 255: an eighth of the range, which 12 bits in a file of 16 do not reach."""


def on_pictures(
    table: ImageTable, findings: pa.Table, content: Int[np.ndarray, " rows"], resolution: int | None
) -> Iterator[Remark]:
    """What is to be said of the pixels. ``content``: numbers, equal where all pixels are."""
    plain = _column(findings["one_colour"])
    yield from _alike(table, findings, content, ~plain)
    yield from _listed(table, plain, "{} of one colour")
    sixteen = _column(findings["bits"], 0) == 16
    dark = sixteen & (_column(findings["brightest"]) < _DARK)
    yield from _listed(
        table,
        dark,
        f"{{}} of {sixteen.sum():,} of 16 bits below an eighth of their range, as 12 bits are: where the whole range "
        f"is taken, {_DARK} grey levels at most are left of them",
    )
    if resolution:
        sides = np.minimum(_column(findings["width"]), _column(findings["height"]))
        yield from _listed(
            table,
            sides < resolution,
            f"{{}} with a side of fewer than the {resolution} pixels that are asked for, which are enlarged (the "
            f"smallest has {sides.min()})",
        )


def _column(column: pa.ChunkedArray, default: object = None) -> np.ndarray:
    filled = column if default is None else pc.fill_null(column, default)
    return filled.to_numpy()


def _listed(table: ImageTable, chosen: Bool[np.ndarray, " rows"], text: str) -> Iterator[Remark]:
    if number := int(chosen.sum()):
        yield Remark(text=text.format(counted(number, "image")), examples=paths_of(table, chosen), number=number)


def _alike(
    table: ImageTable, findings: pa.Table, content: Int[np.ndarray, " rows"], compared: Bool[np.ndarray, " rows"]
) -> Iterator[Remark]:
    """Other images that look the same: told, since only who knows them can say whether they are of one thing."""
    rows = np.flatnonzero(compared)
    found = look_alike(_column(findings["perceptual"])[rows])
    groups = np.arange(len(table)) + len(table)
    groups[rows] = found.groups
    there = torn(groups, content)
    if not there.any():
        return
    lines, number = together(table, groups, there, sign="~")
    across = len(np.unique(groups[there & torn(groups, table.splits)]))
    few = "" if found.exhaustive else "; they are so alike that not all pairs were compared"
    yield Remark(
        text=f"{counted(int(there.sum()), 'image')} that look like another one (perceptual hashes differ in at most "
        f"{MOST_BITS} of {HASH_BITS} bits), in {counted(number, 'group')}, {across:,} of them in several splits{few}",
        examples=lines,
        number=number,
    )
