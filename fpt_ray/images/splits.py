"""The 70/10/20 split (section 4.1): a hash of seed and image, or stratified once and frozen into a table."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int, Int8

from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.folds import divided_by
from fpt_ray.images.labels import CLASS_TASKS
from fpt_ray.images.table import ImageTable, counts_by_split

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def split_of(seed: int, key: str) -> str:
    """The split of an image or group, by a hash of seed and key alone: no other image has a say in it."""
    return SPLITS[_split_at(_fractions(seed, [key]))[0]]


def _fractions(seed: int | str, keys: Iterable[str]) -> Float64[np.ndarray, " _"]:
    """A number in [0, 1) for each key, by its hash, uniform over keys."""
    first = (int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:6], "big") for key in keys)
    return np.fromiter(first, np.float64) / 2**48


def _split_at(fractions: Float64[np.ndarray, " keys"]) -> Int8[np.ndarray, " keys"]:
    """Test lies below its share, then val, then train."""
    test, val = SHARES["test"], SHARES["test"] + SHARES["val"]
    return np.select([fractions < test, fractions < val], [SPLITS.index("test"), SPLITS.index("val")]).astype(np.int8)


def with_hashed_splits(table: ImageTable) -> ImageTable:
    """An inspected table whose images without a split have one, by its seed and group; by content where there is none.

    Of a fold, those that are not in test train or validate by a second hash, which says the same whether test is given
    or drawn here. Class by class shares would be equal, but an added image would move others.
    """
    if table.is_divided:
        return table
    seed = table.split_seed
    drawn = _split_at(_drawn(table, f"{seed}"))
    if table.fold:
        stays = (drawn == SPLITS.index("test")) & (table.splits < 0).all()
        drawn = np.where(stays, drawn, divided_by(table.fold, _drawn(table, f"{seed}:folds")))
    return dataclasses.replace(table, splits=np.where(table.splits < 0, drawn, table.splits)).ordered()


def _drawn(table: ImageTable, seed: str) -> Float64[np.ndarray, " rows"]:
    """A number in [0, 1) for each image, the same for those of a group, or of one content where there are no groups."""
    if table.groups is None:
        return _fractions(seed, (digest.hex() for digest in map(bytes, table.hashes())))
    return _fractions(seed, (group.as_py() for group in table.groups.dictionary))[table.groups.indices.to_numpy()]


def stratified(table: ImageTable, units: pa.DictionaryArray, seed: int) -> ImageTable:
    """The same images, each class divided 70/10/20 as evenly as whole units allow; every class is in every split.

    A unit is counted to the class of most of its images.

    Args:
        table: of a task with classes; its splits have no say.
        units: of its rows, what must stay within one split, by a name that seed and split are a hash of.
        seed: of the split.

    Raises:
        ConfigError: a class has fewer than three units.
    """
    used, members = np.unique(units.indices.to_numpy(), return_inverse=True)
    keys = units.dictionary.take(used)
    sizes, fractions = np.bincount(members), _fractions(seed, (key.as_py() for key in keys))
    commonest, splits = _commonest(members, table), np.zeros(len(keys), np.int8)
    for label in np.unique(commonest):
        own = np.flatnonzero(commonest == label)
        if len(own) < len(SPLITS):
            raise ConfigError(
                f"images: class {table.classes[label]!r} has {len(own)} images or groups; a split needs at least 3: "
                "add some, or leave it out"
            )
        own = own[np.argsort(fractions[own], kind="stable")]
        splits[own] = _divided(sizes[own])
    return dataclasses.replace(table, splits=splits[members]).ordered()


def _commonest(groups: Int[np.ndarray, " rows"], table: ImageTable) -> Int[np.ndarray, " _"]:
    """The class of most images of each group; of several, the first by name."""
    by_name = np.argsort(np.array(table.classes, object))
    rank = np.argsort(by_name)[table.labels]
    pairs, counts = np.unique(np.stack([groups, rank]), axis=1, return_counts=True)
    order = np.lexsort((pairs[1], -counts, pairs[0]))
    _, first = np.unique(pairs[0][order], return_index=True)
    return by_name[pairs[1][order][first]]


def _divided(sizes: Sequence[int] | Int[np.ndarray, " groups"]) -> Int8[np.ndarray, " groups"]:
    """A split for each of at least three groups of these sizes: first val, then test, then train, none empty."""
    total, left, splits = sum(sizes), len(sizes), list[int]()
    quotas = {"val": round(SHARES["val"] * total), "test": round(SHARES["test"] * total)}
    for split, keep in (("val", 2), ("test", 1)):
        taken = 0
        while left > keep and (not taken or taken + sizes[len(splits)] / 2 <= quotas[split]):
            taken += sizes[len(splits)]
            splits.append(SPLITS.index(split))
            left -= 1
    return np.array(splits + [SPLITS.index("train")] * left, np.int8)


def imbalance(table: ImageTable) -> str:
    """How far a table's splits are from 70/10/20 and from equal shares of every class, in one line."""
    counts = counts_by_split(table)
    sizes = counts.sum(axis=1, keepdims=True)
    text = ", ".join(f"{size / len(table):.1%} {split}" for size, split in zip(sizes[:, 0], SPLITS, strict=True))
    text += f" (fold {table.fold})" if table.fold else " (meant are 70/10/20)"
    if table.task not in CLASS_TASKS:
        return text
    shares = counts / sizes
    worst = int((shares.max(axis=0) - shares.min(axis=0)).argmax())
    parts = ", ".join(f"{share:.1%} of {split}" for share, split in zip(shares[:, worst], SPLITS, strict=True))
    return f"{text}; most uneven is class {table.classes[worst]!r}: {parts}"
