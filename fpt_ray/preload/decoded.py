"""Images as extraction wants them: as inspection has decoded them, kept in Ray's object store, or else read again.

No PyTorch: its tasks run in many processes.
"""

import hashlib
import pickle
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
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

from fpt_ray.cluster import computing_hosts, run_on_workers
from fpt_ray.errors import ConfigError
from fpt_ray.images.decoding import decode, resize
from fpt_ray.images.table import ImageRow, ImageTable
from fpt_ray.storage.files import read_bytes

Decoded = Mapping[tuple[str, int], Any]
"""{(content hash, resolution in pixels): a reference to the pixels in Ray's object store, which spills them to disk}.
The driver owns them: they go when it drops this."""
_LEAST_BYTES = 2**17
"""Of an object: Ray holds results of less than 100 kB in the driver's own memory, which no spilling relieves."""
_MEMORY_SHARE, _DISK_SHARE = 0.5, 0.25
"""Of the hosts' object stores, and of the free disk that they spill to, what decoded images may fill."""


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
    resolution: int
    """The side of I_h in pixels."""
    sides: tuple[int, ...]
    """The side of each I_l in pixels."""
    with_high: bool
    """Whether I_h is wanted beside each I_l."""


# --- one image ------------------------------------------------------------------------------------------------


def read_image(root: str, image: ImageRow, resolution: int) -> UInt8[np.ndarray, "R R 3"]:
    """An image at a resolution, from its file.

    Raises:
        ConfigError: the file is gone, cannot be decoded, or is another than when it was inspected.
    """
    uri = f"{root}/{image.path}"
    try:
        data = read_bytes(uri)
    except FileNotFoundError:
        raise ConfigError(f"{uri} is gone; put it back, or take it out of the image table") from None
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise ConfigError(f"{uri} is another image than the table says by its sha256; inspect the images again")
    return resize(decode(data, uri), resolution)


def image_at(source: ImageSource, image: ImageRow, kept: Any) -> UInt8[np.ndarray, "R R 3"]:
    """I_h of an image: what inspection has kept, or, where it kept nothing or that was lost, its file once more."""
    if kept is not None:
        with suppress(RayError):  # a host was lost with it
            pixels: Any = ray.get(kept)
            return pixels[: 3 * source.resolution**2].reshape(source.resolution, source.resolution, 3)
    return read_image(source.root, image, source.resolution)


def kept_bytes(resolution: int) -> int:
    """What it takes to keep an image at this resolution."""
    return max(_LEAST_BYTES, 3 * resolution**2)


def keep(pixels: UInt8[np.ndarray, "Y X 3"], resolution: int) -> UInt8[np.ndarray, " bytes"]:
    """An image at a resolution as a task of inspection returns it, for ``image_at``."""
    content = resize(pixels, resolution).reshape(-1)
    return np.pad(content, (0, kept_bytes(resolution) - content.size))


def smaller(high: UInt8[np.ndarray, "R R 3"], sides: Sequence[int]) -> list[np.ndarray]:
    """Each I_l, S S 3, down-sampled from I_h (section 3.3)."""
    return [high if side == len(high) else resize(high, side) for side in sides]


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
    sides = (*source.sides, source.resolution) if source.with_high else source.sides
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


# --- how much may be kept -------------------------------------------------------------------------------------


def room_for_decoded() -> int:
    """Bytes of decoded images that the cluster may keep: a share of its object stores and of the disk behind them."""
    hosts = computing_hosts()
    memory = sum(host.get("object_store_memory", 0.0) for host in hosts)
    ((_, free),) = run_on_workers({"disk": _free_disk_bytes}, {"disk": {"CPU": 0.01}})
    return int(_MEMORY_SHARE * memory + _DISK_SHARE * len(hosts) * free)


def _free_disk_bytes() -> int:
    return shutil.disk_usage(ray.get_runtime_context().get_temp_dir()).free
