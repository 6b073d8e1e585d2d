"""Small data: feature stores on real Parquet files, made without images or a backbone; and images."""

import dataclasses

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from fpt_ray.features.joining import join
from fpt_ray.features.places import GroupsAtHand, ShardFiles, read_shard_rows
from fpt_ray.features.rows import Rows
from fpt_ray.features.shards import shard_table, write_shard
from fpt_ray.features.spec import Slice, StoreSpec
from fpt_ray.features.store import add_shards, empty_store, latest_generation, open_store, shard_path
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.table import ImageRow, ImageTable, content_hashes
from fpt_ray.models.importance import Extracted
from fpt_ray.reading.host_disk import HostDisk, mapped_groups
from fpt_ray.reading.on_device import RowsOnDevice
from fpt_ray.storage.files import absolute

SPLIT_DIGITS = {"train": "1", "val": "2", "test": "3"}


def make_spec(**changes):
    spec = StoreSpec(
        backbone="vit_test",
        weights_digest="0" * 64,
        resolution=64,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        importance="global",
        dtype="float16",
        precision="float32",
        blocks=(2, 3, 4, 5),
        num_kept=20,
        low_resolutions=(8,),
        backbone_depth=6,
        num_heads=2,
        head_width=4,
        num_tokens=65,
    )
    return dataclasses.replace(spec, **changes)


def make_features(spec, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (len(spec.blocks), rows, spec.num_heads, spec.num_kept)
    dtype = getattr(torch, spec.dtype)
    keys, values = (torch.randn(*size, spec.head_width, generator=generator).to(dtype) for _ in range(2))
    summaries = torch.randn(spec.backbone_depth, 2, rows, spec.width, generator=generator).to(dtype)
    return Extracted(keys, values, torch.randint(0, spec.num_tokens, size, generator=generator), summaries)


def part_of(features, at):
    """Some rows of features."""
    kinds = (features.keys[:, at], features.values[:, at], features.tokens[:, at], features.summaries[:, :, at])
    return Extracted(*kinds)


def make_rows(split, rows, first=0):
    digit = SPLIT_DIGITS[split]
    return tuple(
        ImageRow(path=f"{split}/c/{i}.png", label=i % 2, split=split, sha256=f"{digit}{i:063x}")
        for i in range(first, first + rows)
    )


def make_table(rows=11):
    return image_table([image for split in SPLIT_DIGITS for image in make_rows(split, rows)])


def image_table(rows, classes=("a", "b"), root="root"):
    """A table of these records of two classes or more, in their order."""
    known = [row.sha256 for row in rows if row.sha256]
    return ImageTable(
        root=root,
        task="binary" if len(classes) == 2 else "multiclass",
        classes=tuple(classes),
        paths=pa.array([row.path for row in rows], pa.string()),
        labels=np.array([row.label for row in rows], np.int64),
        splits=np.array([SPLITS.index(row.split) if row.split else -1 for row in rows], np.int8),
        groups=pa.array([row.group for row in rows]).dictionary_encode() if rows and rows[0].group else None,
        hashes_=content_hashes(rows) if known else None,
    )


def low_res(spec, rows, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 255, (rows, side, side, 3), np.uint8) for side in spec.low_resolutions]


def add_rows(folder, spec, images, features, low, per_shard=4):
    """The next generation of a store."""
    uri = absolute(str(folder))
    store = open_store(uri) if latest_generation(uri) else empty_store(uri, spec)
    added = []
    for first in range(0, len(images), per_shard):
        at = slice(first, first + per_shard)
        table = shard_table(images[at], [pixels[at] for pixels in low], part_of(features, at), spec)
        hashes = content_hashes(images[at])
        added.append((write_shard(f"{uri}/{shard_path(store, hashes)}", table, spec), hashes))
    return add_shards(store, added)


def make_store(folder, spec, rows=11, per_shard=4):
    """A finished store of one generation a split, as a table sees it; and, per split, the arrays it holds."""
    arrays = {}
    for number, split in enumerate(SPLIT_DIGITS):
        features, low = make_features(spec, rows, number), low_res(spec, rows, number)
        add_rows(folder, spec, make_rows(split, rows), features, low, per_shard)
        arrays[split] = (features, low[0])
    return join(open_store(str(folder)), make_table(rows)), arrays


def shard_uris(features, split):
    """The files of a split, in the order of its rows."""
    return [features.shard_uri(shard) for shard in dict.fromkeys(features.splits[split].shards.tolist())]


def cut_of(blocks, num_kept, side=8):
    return Slice(blocks=tuple(blocks), num_kept=num_kept, low_resolutions=(side,))


def rows_from_files(features, split, cut):
    return Rows(ShardFiles(features, cut), features, split, cut)


def rows_in_memory(features, split, cut, wide=None):
    """Of groups that hold a wider slice, as a study's trials share them."""
    groups = {
        shard: read_shard_rows(features.shard_uri(shard), features, wide or cut, rows)
        for shard, rows in features.rows_by_shard([split]).items()
    }
    return Rows(GroupsAtHand(groups), features, split, cut)


def rows_on_disk(features, split, cut, folder):
    """Mapped from files that are written to a folder."""
    disk = HostDisk(folder=str(folder), kept=True, limit_bytes=2**30)
    return Rows(mapped_groups(disk, features, cut, features.rows_by_shard([split])), features, split, cut)


def rows_on_device(features, split, cut):
    return RowsOnDevice(rows_from_files(features, split, cut), torch.device("cpu"))


def draw_images(folder, per_class=(12, 4, 4), size=80):
    generator = np.random.default_rng(0)
    for split, number in zip(("train", "val", "test"), per_class, strict=True):
        for label in range(3):
            (folder / split / f"c{label}").mkdir(parents=True)
            for i in range(number):
                pixels = generator.integers(0, 255, (size, size + 16, 3), np.uint8)
                pixels[20:60, 20:60] //= label + 1
                Image.fromarray(pixels).save(folder / split / f"c{label}" / f"{i}.png")
    return str(folder)
