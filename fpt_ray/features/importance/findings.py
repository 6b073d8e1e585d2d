"""A table of known findings: image, x0, y0, x1, y1, boxes in pixels of the images as they are seen, upright."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import io
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from jaxtyping import Int

from fpt_ray.config.preparation import Preparation
from fpt_ray.errors import ConfigError
from fpt_ray.images.decoding import size_and_frame
from fpt_ray.images.picture import Frame
from fpt_ray.images.table import ImageTable
from fpt_ray.models.backbone import BackboneShape
from fpt_ray.storage.files import absolute, exists, read_bytes

COLUMNS = ("image", "x0", "y0", "x1", "y1")
Findings = Mapping[bytes, tuple[Int[np.ndarray, " _"], ...]]
"""{content hash of an image: the tokens of the patches that each of its findings overlaps}."""


def read_findings(
    source: str, table: ImageTable, measured: ImageTable, shape: BackboneShape, preparation: Preparation
) -> Findings:
    """The findings of a .csv or .parquet table in those images of an image table that are measured.

    ``image`` is the path that the image table has. Of an image that is measured, the file is read for its size.

    Raises:
        ConfigError: a column or a number is missing, a box is empty or lies outside its image, an image is not in the
            image table, or none of those that are measured has a box.
        StorageError: S3 fails.
    """
    rows, found = {row.path: row for row in measured.rows()}, {}
    sizes: dict[str, Sized] = {}
    side = preparation.resolution // shape.patch_size
    boxes = read_boxes(source)
    known = pc.is_in(pa.array([box.path for box in boxes], pa.string()), table.paths).to_pylist()
    for number, box in enumerate(boxes):
        if not known[number]:
            raise ConfigError(
                f"{box.where} has the image {box.path!r}, which the image table has not; give paths as it has them, "
                f"such as {table.row(0).path}"
            )
        if (row := rows.get(box.path)) is None:
            continue
        if box.path not in sizes:
            sizes[box.path] = size_of(table.root, row.path, preparation)
        patches = overlapped(on_square(box, sizes[box.path], side), side)
        if len(patches):
            found.setdefault(bytes.fromhex(row.sha256), []).append(patches + shape.num_prefix_tokens)
    if not found:
        raise ConfigError(f"boxes: {absolute(source)} has none in the {len(rows)} images that are measured")
    return {sha256: tuple(boxes) for sha256, boxes in found.items()}


# --- a box ----------------------------------------------------------------------------------------------------


class Box(NamedTuple):
    """A row of the table; x0, y0, x1, y1 in pixels of the image as it is seen."""

    where: str
    """The row, as errors name it."""
    path: str
    ends: tuple[float, float, float, float]


class OnSquare(NamedTuple):
    """Where a box lies on the square that the LPM sees, in patches from its upper left; parts may lie off it."""

    x0: float
    y0: float
    x1: float
    y1: float


Sized = tuple[tuple[int, int], Frame]
"""(width, height) of an image in pixels, and the part of it that its square shows."""


def on_square(box: Box, sized: Sized, side: int) -> OnSquare:
    """Where a box lies on the square of its image, which has so many patches a side.

    Raises:
        ConfigError: it is empty or lies outside its image.
    """
    (width, height), frame = sized
    x0, y0, x1, y1 = box.ends
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ConfigError(
            f"{box.where} is {list(box.ends)} in {box.path}, which is {width}x{height}; give x0 < x1 and y0 < y1 "
            "within it"
        )
    x0, x1 = ((x - frame.left) * side / frame.width for x in (x0, x1))
    y0, y1 = ((y - frame.top) * side / frame.height for y in (y0, y1))
    return OnSquare(x0, y0, x1, y1)


def overlapped(box: OnSquare, side: int) -> Int[np.ndarray, " patches"]:
    """The patches that a box overlaps, of so many a side, row by row. None lie beyond the square."""
    ends = ((box.x0, box.x1), (box.y0, box.y1))
    columns, rows = (np.arange(max(0, math.floor(low)), min(side, math.ceil(high))) for low, high in ends)
    return (rows[:, None] * side + columns).ravel()


def size_of(root: str, path: str, preparation: Preparation) -> Sized:
    """The size of an image below a root, and what its square shows.

    Raises:
        ConfigError: the file cannot be read.
        ImageError: it is no image of a known format.
    """
    try:
        return size_and_frame(read_bytes(f"{root}/{path}"), path, preparation)
    except OSError as error:
        raise ConfigError(
            f"boxes: {root}/{path} cannot be read ({error.strerror}); its size is needed to place the boxes"
        ) from None


def read_boxes(source: str) -> list[Box]:
    """The rows of a .csv or .parquet table of findings.

    Raises:
        ConfigError: it is none, or a column or a number is missing.
        StorageError: S3 fails.
    """
    uri = absolute(source)
    if not uri.endswith((".csv", ".parquet")) or not exists(uri):
        raise ConfigError(f"boxes: {uri} is no .csv or .parquet file; give one with the columns {', '.join(COLUMNS)}")
    data = io.BytesIO(read_bytes(uri))
    try:
        found = pacsv.read_csv(data) if uri.endswith(".csv") else pq.read_table(data)
        lacking = [name for name in COLUMNS if name not in found.column_names]
        if lacking:
            raise ConfigError(f"boxes: {uri} lacks the column {', '.join(lacking)}; give {', '.join(COLUMNS)}")
        types = (pa.string(), *[pa.float64()] * 4)
        columns = [found[name].cast(kind) for name, kind in zip(COLUMNS, types, strict=True)]
    except pa.ArrowException as error:
        raise ConfigError(f"boxes: {uri} cannot be read ({error}); give a path and four numbers a row") from None
    for name, column in zip(COLUMNS, columns, strict=True):
        if column.null_count:
            raise ConfigError(f"boxes: {uri} has {column.null_count} rows without {name}; fill them")
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return [Box(f"boxes: {uri}: row {number}", path, tuple(ends)) for number, (path, *ends) in enumerate(rows, start=1)]
