"""Remarks on what stands where: contents, labels and groups that splits share, names that differ in case alone."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Int

from fpt_ray.datasets.checks.alike import numbered, repeated, torn
from fpt_ray.datasets.checks.remark import LISTED, Remark, counted, together
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.table import ImageTable

MAX_UNREADABLE = 0.01
"""Of all images."""


def unreadable(table: ImageTable) -> Remark | None:
    """Images that inspection has left out."""
    bad, number = table.skipped, len(table.skipped) + len(table)
    if not bad:
        return None
    much = len(bad) > MAX_UNREADABLE * number
    beyond = f", more than {MAX_UNREADABLE:.0%}; mend or remove them" if much else ", and are left out"
    return Remark(
        text=f"{len(bad):,} of {counted(number, 'image')} cannot be read{beyond}",
        examples=[f"{path}: {reason}" for path, reason in bad[:LISTED]],
        number=len(bad),
        doubt="unreadable" if much else None,
    )


def in_several_splits(table: ImageTable, content: Int[np.ndarray, " rows"]) -> Remark | None:
    """Contents (numbers, equal where they are the same) that are learnt from and judged by."""
    there = torn(content, table.splits)
    if not there.any():
        return None
    lines, number = together(table, content, there)
    return Remark(
        text=f"{counted(number, 'image')} in several splits ({there.sum():,} files of the same pixels); keep one of "
        "each, or put them into one split",
        examples=lines,
        number=number,
        doubt="duplicates",
    )


def several_times(table: ImageTable, content: Int[np.ndarray, " rows"]) -> Remark | None:
    """Contents of several files of one split, which weigh so much more."""
    there = repeated(content) & ~torn(content, table.splits)
    if not there.any():
        return None
    lines, number = together(table, content, there)
    return Remark(
        text=f"{counted(number, 'image')} several times in one split ({there.sum():,} files of the same pixels), "
        "which weigh so much more; keep one of each",
        examples=lines,
        number=number,
    )


def contradicting_labels(table: ImageTable, content: Int[np.ndarray, " rows"]) -> Remark | None:
    """Labels of one content; of several labels each counts by itself, and one that is missing contradicts none."""
    there = np.zeros(len(table), bool)
    for values in table.labels.reshape(len(table), -1).T:
        known = np.flatnonzero(~np.isnan(values))
        there[known] |= torn(content[known], values[known])
    if not there.any():
        return None
    lines, number = together(table, content, there, with_label=True)
    return Remark(
        text=f"{counted(number, 'image')} with labels that contradict each other; keep one of each",
        examples=lines,
        number=number,
        doubt="labels",
    )


def torn_groups(table: ImageTable) -> Remark | None:
    """Groups, such as patients, of which several splits have images."""
    if table.groups is None:
        return None
    numbers = numbered(table.groups)
    rows = np.flatnonzero(torn(numbers, table.splits))
    if not len(rows):
        return None
    _, firsts, places = np.unique(numbers[rows], return_index=True, return_inverse=True)
    cells = np.bincount(places * len(SPLITS) + table.splits[rows], minlength=len(firsts) * len(SPLITS))
    listed = zip(table.groups.take(rows[firsts[:LISTED]]).to_pylist(), cells.reshape(-1, len(SPLITS)), strict=False)
    return Remark(
        text=f"{counted(len(firsts), 'group')} in several splits ({counted(len(rows), 'image')}); put each into one",
        examples=[
            f"{name} ({', '.join(f'{size} {split}' for size, split in zip(sizes, SPLITS, strict=True) if size)})"
            for name, sizes in listed
        ],
        number=len(firsts),
        doubt="groups",
    )


def case_alone(table: ImageTable) -> Remark | None:
    """Paths that some file systems take for one."""
    numbers = numbered(pc.utf8_lower(table.paths))
    there = repeated(numbers)
    if not there.any():
        return None
    lines, number = together(table, numbers, there)
    return Remark(
        text=f"{counted(number, 'path')} written in several ways, with other capital letters; some file systems take "
        "these for one file: rename them",
        examples=lines,
        number=number,
    )
