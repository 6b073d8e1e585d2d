"""Small data: feature stores on real Parquet files, made without images or a backbone; and images."""

import dataclasses

import numpy as np
import torch
from PIL import Image

from fpt_ray.features.shards import shard_table, write_shard
from fpt_ray.features.spec import StoreSpec
from fpt_ray.features.store import open_store, write_manifest
from fpt_ray.images.table import ImageRow
from fpt_ray.models.importance import Extracted


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
        depth=4,
        num_kept=20,
        low_resolution=8,
        images_digest="1" * 64,
        backbone_depth=6,
        num_heads=2,
        head_width=4,
        num_tokens=65,
    )
    return dataclasses.replace(spec, **changes)


def make_features(spec, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (spec.depth, rows, spec.num_heads, spec.num_kept)
    dtype = getattr(torch, spec.dtype)
    keys, values = (torch.randn(*size, spec.head_width, generator=generator).to(dtype) for _ in range(2))
    return Extracted(keys, values, torch.randint(0, spec.num_tokens, size, generator=generator))


def make_rows(split, rows, first=0):
    return tuple(
        ImageRow(path=f"{split}/c/{i}.png", label=i % 2, split=split, sha256=f"{split}{i:060d}")
        for i in range(first, first + rows)
    )


def make_store(folder, spec, rows=11, per_shard=4):
    """A finished store and, per split, the arrays it holds."""
    arrays, entries = {}, []
    for number, split in enumerate(("train", "val", "test")):
        features, images = make_features(spec, rows, number), make_rows(split, rows)
        low = np.random.default_rng(number).integers(
            0, 255, (rows, spec.low_resolution, spec.low_resolution, 3), np.uint8
        )
        arrays[split] = (features, low)
        for part, first in enumerate(range(0, rows, per_shard)):
            at = slice(first, first + per_shard)
            table = shard_table(images[at], first, low[at], Extracted(*(kind[:, at] for kind in features)), spec)
            entries.append(write_shard(f"{folder}/{split}/part-{part:05d}.parquet", split, table, spec))
    write_manifest(str(folder), spec, ("a", "b"), entries)
    return open_store(str(folder)), arrays


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
