"""A table of known findings: image, x0, y0, x1, y1, boxes in pixels of the images as they are seen, upright."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import io
import math
from collections.abc import Mapping, Sequence

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
from fpt_ray.images.table import ImageRow, ImageTable
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
    uri = absolute(source)
    rows = {row.path: row for row in measured.rows()}
    sizes: dict[str, tuple[tuple[int, int], Frame]] = {}
    found: dict[bytes, list[np.ndarray]] = {}
    side = preparation.resolution // shape.patch_size
    boxes = _boxes(uri)
    known = pc.is_in(pa.array([path for path, *_ in boxes], pa.string()), table.paths).to_pylist()
    for number, (path, *box) in enumerate(boxes, start=1):
        if not known[number - 1]:
            raise ConfigError(
                f"boxes: {uri}: row {number} has the image {path!r}, which the image table has not; give paths as it "
                f"has them, such as {table.row(0).path}"
            )
        if (row := rows.get(path)) is None:
            continue
        if path not in sizes:
            sizes[path] = _size(table.root, row, preparation)
        (width, height), frame = sizes[path]
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ConfigError(
                f"boxes: {uri}: row {number} is {box} in {path}, which is {width}x{height}; give x0 < x1 and y0 < y1 "
                "within it"
            )
        across = [(x - frame.left) * side / frame.width for x in (x0, x1)]
        down = [(y - frame.top) * side / frame.height for y in (y0, y1)]
        patches = _overlapped(across, down, side)
        if len(patches):
            found.setdefault(bytes.fromhex(row.sha256), []).append(patches + shape.num_prefix_tokens)
    if not found:
        raise ConfigError(f"boxes: {uri} has none in the {len(rows)} images that are measured")
    return {sha256: tuple(boxes) for sha256, boxes in found.items()}


def _overlapped(across: Sequence[float], down: Sequence[float], side: int) -> Int[np.ndarray, " patches"]:
    """The patches that a box overlaps, row by row; its ends are counted in patches. None lie beyond the square."""
    columns, rows = (np.arange(max(0, math.floor(low)), min(side, math.ceil(high))) for low, high in (across, down))
    return (rows[:, None] * side + columns).ravel()


def _size(root: str, row: ImageRow, preparation: Preparation) -> tuple[tuple[int, int], Frame]:
    try:
        return size_and_frame(read_bytes(f"{root}/{row.path}"), row.path, preparation)
    except OSError as error:
        raise ConfigError(
            f"boxes: {root}/{row.path} cannot be read ({error.strerror}); its size is needed to place the boxes"
        ) from None


def _boxes(uri: str) -> list[tuple[str, float, float, float, float]]:
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
    return list(zip(*(column.to_pylist() for column in columns), strict=True))
