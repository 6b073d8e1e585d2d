"""How many images there are of what, and how they are stored: tables for people, and for programs."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fpt_ray.datasets.checks.classes import label_counts
from fpt_ray.display.typesetting import Cell, Column, Table
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.table import ImageTable

_SHOWN = 30
"""Classes that people see."""


def summaries(table: ImageTable, findings: pa.Table, *, whole: bool = False) -> dict[str, Table]:
    """Counts by class, split and group; sizes, kinds of files and channels of the images. ``whole``: of every class."""
    return {
        "counts": _counts(table, len(table.classes) if whole else _SHOWN),
        "sizes": _sizes(findings),
        "kinds": _kinds(findings),
        "channels": _channels(findings),
    }


def _counts(table: ImageTable, shown: int) -> Table:
    """Images by class and split, and groups."""
    counts = label_counts(table).T
    labels, rows = [*table.classes[:shown]], [*counts[:shown]]
    if len(counts) > shown:
        labels.append(f"{len(counts) - shown:,} others")
        rows.append(counts[shown:].sum(axis=0))
    if len(counts) > 1:
        labels.append("images")
        rows.append(np.bincount(table.splits, minlength=len(SPLITS)))
    if table.groups is not None:
        pairs = np.unique(np.stack([table.groups.indices.to_numpy(), table.splits]), axis=1)
        labels.append("groups")
        rows.append(np.bincount(pairs[1], minlength=len(SPLITS)))
    columns = np.array(rows).T
    return Table(
        title=f"{len(table):,} images, {table.task}",
        heading="of",
        labels=labels,
        columns=[_whole(*pair) for pair in zip((*SPLITS, "all"), (*columns, columns.sum(axis=0)), strict=True)],
    )


def _sizes(findings: pa.Table) -> Table:
    """Widths, heights and smallest sides in pixels."""
    width, height = findings["width"].to_numpy(), findings["height"].to_numpy()
    sides = {"width": width, "height": height, "smaller side": np.minimum(width, height)}
    return Table(
        heading="pixels",
        labels=list(sides),
        columns=[
            _whole(name, [float(of(side)) for side in sides.values()])
            for name, of in (("smallest", np.min), ("median", np.median), ("largest", np.max))
        ],
    )


def _kinds(findings: pa.Table) -> Table:
    """Images of each mode and depth."""
    kinds = findings.group_by(["mode", "bits"]).aggregate([([], "count_all")]).sort_by([("count_all", "descending")])
    return Table(
        heading="mode",
        labels=[mode or "other" for mode in kinds["mode"].to_pylist()],
        columns=[_whole("bits", kinds["bits"].to_pylist()), _whole("images", kinds["count_all"].to_pylist())],
    )


def _channels(findings: pa.Table) -> Table:
    """Mean and standard deviation of the pixels, in 0..1, where every image weighs the same."""
    mean, square = (_means(findings[name]) for name in ("means", "squares"))
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return Table(
        heading="channel",
        labels=["red", "green", "blue"],
        columns=[
            Column(title=name, cells=[Cell(value=float(value)) for value in values], digits=4)
            for name, values in (("mean", mean), ("std", std))
        ],
    )


def _means(column: pa.ChunkedArray) -> np.ndarray:
    return pc.list_flatten(column).to_numpy().reshape(-1, 3).mean(axis=0)


def _whole(title: str, values: Sequence[float | None] | np.ndarray) -> Column:
    """Whole numbers, or halves of medians."""
    plain = [None if value is None else int(value) if value == int(value) else float(value) for value in values]
    return Column(title=title, cells=[Cell(text="-" if one is None else f"{one:,}", plain=one) for one in plain])
