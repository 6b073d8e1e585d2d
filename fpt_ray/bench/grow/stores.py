"""The rows of a store grow, and the shards that its rows lie in. The images are none, and the rows are small."""

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from fpt_ray.bench.grow.growth import AtSize, peak_memory, timed
from fpt_ray.bench.made import CLASSES, fill_store, stored_rows
from fpt_ray.config.space import need_of
from fpt_ray.config.trial import TrialConfig, trial_from
from fpt_ray.display.terminal import say
from fpt_ray.features.joining import Features, join
from fpt_ray.features.shards import ShardEntry
from fpt_ray.features.spec import StoreSpec, store_spec
from fpt_ray.features.store import add_shards, empty_store, open_store, read_index
from fpt_ray.images.table import ImageRow, ImageTable
from fpt_ray.train.order import epoch_order

SMALL = trial_from(
    {
        "backbone.name": "vit_tiny_patch16_224",
        "backbone.weights": "random",
        "features.resolution": 32,
        "features.token_ratio": 0.2,
        "side.depth": 1,
        "side.resolution": 16,
        "side.num_prompts": 1,
    }
)
"""A row takes 2 kB."""
SHARD_ROWS = 512
MOST_WRITTEN = 100_000
"""Beyond so many rows there is an index alone, of shards of one byte."""
SHARDS_OF_ROWS = 8192


def small_spec() -> StoreSpec:
    """A store of small rows: summaries are of one block."""
    return replace(store_spec(need_of(SMALL)), backbone_depth=1)


def made_table(rows: int) -> ImageTable:
    """An image table whose images are nowhere; all but a few are trained on."""
    numbers = np.arange(rows)
    hashes = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(rows))
    return ImageTable(
        root="",
        task="binary",
        classes=CLASSES,
        paths=pa.array([f"{number}.jpg" for number in range(rows)], pa.string()),
        labels=numbers % len(CLASSES),
        splits=np.where(numbers >= 8, 0, 1 + numbers // 4).astype(np.int8),
        hashes_=np.frombuffer(hashes, np.uint8).reshape(-1, 32),
    )


def measure_rows(folder: Path, sizes: Sequence[int]) -> Iterator[AtSize]:
    """A store of each size: written, opened, joined to its table, and read in the order of an epoch."""
    for size in sizes:
        say(f"grow: {size} rows")
        uri, values = str(folder / str(size)), dict[str, float]()
        if size > MOST_WRITTEN:
            write_index_alone(uri, size)
            values |= _opened(uri)
        else:
            values |= _whole(uri, made_table(size), SHARD_ROWS)
        yield AtSize(size=size, values=values)
        shutil.rmtree(uri)


def measure_shards(folder: Path, sizes: Sequence[int]) -> Iterator[AtSize]:
    """The same rows in so many shards each time."""
    table = made_table(SHARDS_OF_ROWS)
    for size in sizes:
        say(f"grow: {size} shards")
        uri = str(folder / str(size))
        yield AtSize(size=size, values=_whole(uri, table, -(-SHARDS_OF_ROWS // size)))
        shutil.rmtree(uri)


def _whole(uri: str, table: ImageTable, shard_rows: int) -> dict[str, float]:
    spec, values = small_spec(), dict[str, float]()

    def black(images: Sequence[ImageRow]) -> list[np.ndarray]:
        return [np.zeros((len(images), side, side, 3), np.uint8) for side in spec.low_resolutions]

    with timed(values, "write the rows"):
        fill_store(uri, spec, table, black, shard_rows)
    values |= _opened(uri)
    with timed(values, "join the table"):
        features = join(open_store(uri), table)
    with peak_memory(values, "an epoch's reading"), timed(values, "an epoch's reading"):
        read_epoch(features, SMALL)
    return values


def _opened(uri: str) -> dict[str, float]:
    """What it takes to open a store with its index."""
    values: dict[str, float] = {}
    with peak_memory(values, "open with its index"), timed(values, "open with its index"):
        read_index(open_store(uri))
    return values


def read_epoch(features: Features, trial: TrialConfig) -> int:
    """Reads the training split in the order of an epoch; returns how many rows that were."""
    rows, size = stored_rows(features, "train", trial), trial.training.batch_size
    return sum(len(rows.take(row_ids).labels) for row_ids in epoch_order(len(rows), size, (0, 1)))


def write_index_alone(uri: str, rows: int) -> None:
    """A store whose manifest and index are those of so many rows, and whose shards are a byte each."""
    hashes = np.random.default_rng(0).integers(0, 256, (rows, 32), np.uint8)
    Path(uri, "shards").mkdir(parents=True)
    added = []
    for first in range(0, rows, SHARD_ROWS):
        part, path = hashes[first : first + SHARD_ROWS], f"shards/{first:08d}.parquet"
        Path(uri, path).write_bytes(b"0")
        entry = ShardEntry(path=path, rows=len(part), group_rows=len(part), bytes=1, sha256="0" * 64)
        added.append((entry, part))
    add_shards(empty_store(uri, small_spec()), added)
