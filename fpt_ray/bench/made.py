"""Images and features that are made to be measured: what is in them means nothing.

All that reads a feature store here does it through ``stored_rows`` and ``shared_rows``.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import UInt8
from PIL import Image

from fpt_ray.config.space import need_of
from fpt_ray.config.trial import TrialConfig
from fpt_ray.datasets import usable
from fpt_ray.features.joining import Features, join
from fpt_ray.features.places import GroupsAtHand, ShardFiles, read_shard_rows
from fpt_ray.features.rows import Rows
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.shards import shard_table, write_shard
from fpt_ray.features.spec import StoreSpec, store_spec
from fpt_ray.features.store import Store, add_shards, empty_store, shard_path
from fpt_ray.images.decoding import read_square
from fpt_ray.images.picture import resize
from fpt_ray.images.table import ImageRow, ImageTable, read_images
from fpt_ray.models.importance import Extracted

CLASSES = ("0", "1")
_SHARD_ROWS = 24
"""As many as a shard has at the paper's setting."""
MakeLowRes = Callable[[Sequence[ImageRow]], Sequence[UInt8[np.ndarray, "rows R R 3"]]]
"""The low-resolution images of some rows, for each side that a store has."""


# --- images ---------------------------------------------------------------------------------------------------


def write_jpegs(folder: Path, counts: Mapping[str, int], size: int) -> Path:
    """Writes {split}/{class}/*.jpg: smooth pictures with a little grain, which take what photographs take to decode."""
    generator = np.random.default_rng(0)
    for split, count in counts.items():
        for number in range(count):
            smooth = Image.fromarray(generator.integers(0, 256, (24, 24, 3), np.uint8))
            pixels = np.array(smooth.resize((size, size), Image.Resampling.BICUBIC), np.int16)
            pixels += generator.integers(-6, 7, pixels.shape, np.int16)
            path = folder / split / CLASSES[number % len(CLASSES)] / f"{split}{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def split_counts(count: int) -> dict[str, int]:
    """So many images divided: six to train for one to validate and one to test; two of each at least."""
    few = max(2, count // 8)
    return {"train": max(2, count - 2 * few), "val": few, "test": few}


def inspected_here(folder: Path) -> ImageTable:
    """The image table of a folder with content hashes, by this process."""
    return usable.inspected_here(read_images(str(folder)))


# --- a store --------------------------------------------------------------------------------------------------


def made_features(uri: str, table: ImageTable, trial: TrialConfig) -> Features:
    """A store of these images for a trial: their own pixels, and random features."""
    spec = store_spec(need_of(trial))

    def low_res(images: Sequence[ImageRow]) -> list[np.ndarray]:
        files = [(Path(table.root, image.path), image.path) for image in images]
        high = [read_square(file.read_bytes(), path, spec.preparation) for file, path in files]
        return [np.stack([resize(pixels, side) for pixels in high]) for side in spec.low_resolutions]

    return join(fill_store(uri, spec, table, low_res, _SHARD_ROWS), table)


def fill_store(uri: str, spec: StoreSpec, images: ImageTable, make_low_res: MakeLowRes, shard_rows: int) -> Store:
    """Writes a store of these images, with random features, at once."""
    store, added = empty_store(uri, spec), []
    order = images.by_hash()
    for first in range(0, len(order), shard_rows):
        part = images.take(order[first : first + shard_rows])
        rows, hashes = part.rows(), part.hashes()
        table = random_shard(rows, make_low_res(rows), spec, seed=first)
        added.append((write_shard(f"{uri}/{shard_path(store, hashes)}", table, spec), hashes))
    return add_shards(store, added)


def random_shard(images: Sequence[ImageRow], low_res: Sequence[np.ndarray], spec: StoreSpec, seed: int) -> pa.Table:
    """The rows of a shard, whose features are random numbers of the stored type."""
    generator = torch.Generator().manual_seed(seed)
    size = (len(spec.blocks), len(images), spec.num_heads, spec.num_kept)
    keys, values = torch.randn(2, *size, spec.head_width, generator=generator).to(getattr(torch, spec.dtype))
    tokens = torch.zeros(size, dtype=torch.int64)
    summaries = torch.zeros(spec.backbone_depth, 2, len(images), spec.width)
    return shard_table(images, low_res, Extracted(keys, values, tokens, summaries), spec)


# --- reading it -----------------------------------------------------------------------------------------------


def stored_rows(features: Features, split: str, trial: TrialConfig) -> Rows:
    """A split as a trial reads it from the store's files."""
    cut = trial_slice(trial, features.spec)
    return Rows(ShardFiles(features, cut), features, split, cut)


def shared_rows(features: Features, split: str, trial: TrialConfig) -> Rows:
    """A split as a trial reads it from memory."""
    cut = trial_slice(trial, features.spec)
    groups = {
        shard: read_shard_rows(features.shard_uri(shard), features, cut, rows)
        for shard, rows in features.rows_by_shard([split]).items()
    }
    return Rows(GroupsAtHand(groups), features, split, cut)
