"""A remark on a table of images, and how rows are named in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int

from fpt_ray.config.tasks import Doubt
from fpt_ray.images.labels import CLASS_TASKS
from fpt_ray.images.table import ImageRow, ImageTable

LISTED = 1000
"""Examples of a remark."""
_OF_A_SIDE, _IN_A_LINE = 2, 6
"""Images of each split in an example, and of all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Remark:
    """Something odd or wrong."""

    text: str
    """What it is, and what would mend it."""
    examples: Sequence[str] = ()
    """Where it is; the first thousand of them."""
    number: int = 0
    """Of all examples."""
    doubt: Doubt | None = None
    """What makes results untrue; None: it is told alone."""
    can_be_allowed: bool = True
    """Whether there would be results if it were; where no score is defined there are none."""


def together(
    table: ImageTable,
    numbers: Int[np.ndarray, " rows"],
    chosen: Bool[np.ndarray, " rows"],
    *,
    sign: str = "=",
    with_label: bool = False,
) -> tuple[list[str], int]:
    """The chosen rows that have the same number, side by side; and how many such lines there are.

    Of each split, and of each label where they are named, some stand in a line.
    """
    rows = np.flatnonzero(chosen)
    sides = table.splits.astype(np.int64)
    if with_label:
        sides += 4 * np.unique(table.labels, axis=0, return_inverse=True)[1].ravel()
    order = rows[np.lexsort((sides[rows], numbers[rows]))]
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    lines = []
    for first, end in zip(starts[:LISTED], np.append(starts, len(order))[1:], strict=False):
        part = order[first:end]
        place = np.arange(len(part)) - np.searchsorted(sides[part], sides[part])  # within its side
        images = table.rows_at(part[place < _OF_A_SIDE][:_IN_A_LINE])
        names = [_named(table, one, with_label=with_label) for one in images]
        more = [f"{len(part) - len(images)} more"] if len(part) > len(images) else []
        lines.append(f" {sign} ".join(names + more))
    return lines, len(starts)


def _named(table: ImageTable, row: ImageRow, *, with_label: bool = False) -> str:
    said = [row.split, _label_text(table, row)] if with_label else [row.split]
    return f"{row.path} ({', '.join(said)})"


def _label_text(table: ImageTable, row: ImageRow) -> str:
    if table.task in CLASS_TASKS:
        return table.classes[row.label]
    if table.task == "multilabel":
        return "|".join(name for name, value in zip(table.classes, row.label, strict=True) if value == 1) or "none"
    return f"{row.label:g}"


def counted(number: int, noun: str) -> str:
    """A number of things: 1 image, 2 images, 2 classes."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def paths_of(table: ImageTable, chosen: Bool[np.ndarray, " rows"]) -> list[str]:
    """Those of the chosen rows that are listed."""
    return table.paths.take(pa.array(np.flatnonzero(chosen)[:LISTED])).to_pylist()
