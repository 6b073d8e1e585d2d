"""Images as extraction wants them: as inspection has decoded them, kept in Ray's object store, or else read again.

No PyTorch: its tasks run in many processes.
"""

import pickle
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial, update_wrapper
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from jaxtyping import UInt8
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from ray.exceptions import RayError

from fpt_ray.config.preparation import Preparation
from fpt_ray.errors import ConfigError
from fpt_ray.images.decoding import read_square
from fpt_ray.images.file import image_bytes
from fpt_ray.images.picture import smaller
from fpt_ray.images.table import ImageRow, ImageTable


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """The images of one shard and where it goes."""

    uri: str
    path: str
    images: ImageTable
    """In the order of their content hashes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSource:
    """Where images are read from, and in which sizes they are wanted."""

    root: str
    preparation: Preparation
    """How a file becomes I_h."""
    sides: tuple[int, ...]
    """The side of each I_l in pixels."""
    with_high: bool
    """Whether I_h is wanted beside each I_l."""


# --- one image ------------------------------------------------------------------------------------------------


def read_image(root: str, image: ImageRow, preparation: Preparation) -> UInt8[np.ndarray, "R R 3"]:
    """I_h of an image, from its file.

    Raises:
        ConfigError: the file is gone, cannot be decoded, or is another than when it was inspected.
    """
    return read_square(image_bytes(root, image), f"{root}/{image.path}", preparation)


def image_at(source: ImageSource, image: ImageRow, kept: Any) -> UInt8[np.ndarray, "R R 3"]:
    """I_h of an image: what inspection has kept, or, where it kept nothing or that was lost, its file once more."""
    if kept is not None:
        with suppress(RayError):  # a host was lost with it
            pixels: Any = ray.get(kept)
            if pixels is not None:
                side = source.preparation.resolution
                return pixels[: 3 * side**2].reshape(side, side, 3)
    return read_image(source.root, image, source.preparation)


# --- a shard's images, as a row of Ray Data -----------------------------------------------------------------------


class ShardImages(Datasource):
    """A row for each shard: its plan, and the pixels of its images, read by a task of its own.

    A source of our own, since each of its tasks holds references to its own images alone, which Ray counts.
    """

    def __init__(self, plans: Sequence[ShardPlan], source: ImageSource, kept: Callable[[ImageRow], Any]) -> None:
        super().__init__()
        self._tasks = [
            ReadTask(
                update_wrapper(
                    partial(read_shard, source, plan, [kept(image) for image in plan.images.rows()]), read_shard
                ),
                BlockMetadata(num_rows=1, size_bytes=_size(source, plan), exec_stats=None),
            )
            for plan in plans
        ]

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all rows."""
        return sum(task.metadata.size_bytes or 0 for task in self._tasks)

    def get_read_tasks(self, *_: Any, **__: Any) -> list[Any]:
        """One for each shard, whatever is asked for."""
        return self._tasks


def _size(source: ImageSource, plan: ShardPlan) -> int:
    sides = (*source.sides, source.preparation.resolution) if source.with_high else source.sides
    return len(plan.images) * sum(3 * side**2 for side in sides)


def read_shard(source: ImageSource, plan: ShardPlan, kept: Sequence[Any]) -> Iterable[pa.Table]:
    """A task: the row of one shard; it says what was wrong where an image could not be read."""
    columns = {"plan": _cell(pickle.dumps(plan))}
    try:
        high = [image_at(source, image, one) for image, one in zip(plan.images.rows(), kept, strict=True)]
    except (ConfigError, OSError) as error:
        empty = {name: _cell(b"") for name in ("high", *map(_column, source.sides))}
        return [pa.table({**columns, **empty, "error": _cell(str(error).encode())})]
    columns["high"] = _cell(np.stack(high) if source.with_high else b"")
    for side, low in zip(source.sides, zip(*(smaller(one, source.sides) for one in high), strict=True), strict=True):
        columns[_column(side)] = _cell(np.stack(low))
    return [pa.table({**columns, "error": _cell(b"")})]


def _column(side: int) -> str:
    return f"low_{side}"


def _cell(content: bytes | np.ndarray) -> pa.Array:
    """A column of one cell of raw bytes, which are not copied."""
    data = pa.py_buffer(content)
    ends = pa.py_buffer(np.array([0, data.size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, data])


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadShard:
    """What a task has read of a shard, as views into Ray's object store."""

    plan: ShardPlan
    error: str
    """What kept its images from being read; empty: all were."""
    high: UInt8[np.ndarray, "B R R 3"] | None
    low: list[np.ndarray]
    """B S S 3, for each side that was asked for."""


def shard_of(row: pa.Table, sides: Sequence[int]) -> ReadShard:
    """A row of ``ShardImages``."""
    cells = {name: row[name][0].as_buffer() for name in row.column_names}
    plan: ShardPlan = pickle.loads(cells["plan"])
    error = cells["error"].to_pybytes().decode()

    def images(name: str) -> UInt8[np.ndarray, "B S S 3"]:
        pixels = np.frombuffer(cells[name], np.uint8)
        side = round((pixels.size / (3 * len(plan.images))) ** 0.5)
        return pixels.reshape(len(plan.images), side, side, 3)

    if error:
        return ReadShard(plan=plan, error=error, high=None, low=[])
    high = images("high") if cells["high"].size else None
    return ReadShard(plan=plan, error="", high=high, low=[images(_column(side)) for side in sides])
