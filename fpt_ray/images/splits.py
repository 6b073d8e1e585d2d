"""The 70/10/20 split (section 4.1): a hash of seed and image, or stratified once and frozen into a table."""

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from fpt_ray.errors import ConfigError
from fpt_ray.images.sources import SPLITS, Labelled
from fpt_ray.images.table import ImageTable

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def split_of(seed: int, key: str) -> str:
    """The split of an image or group, by a hash of seed and key alone: no other image has a say in it."""
    share = _fraction(seed, key)
    return "test" if share < SHARES["test"] else "val" if share < SHARES["test"] + SHARES["val"] else "train"


def _fraction(seed: int, key: str) -> float:
    """A number in [0, 1) that the key's hash gives, uniform over keys."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:6], "big") / 2**48


def with_hashed_splits(table: ImageTable, seed: int = 0) -> ImageTable:
    """An inspected table whose images without a split have one, by seed and group; by content where there is none."""
    rows = [
        row if row.split else dataclasses.replace(row, split=split_of(seed, row.group or row.sha256))
        for row in table.rows
    ]
    return dataclasses.replace(table, rows=tuple(sorted(rows, key=lambda row: (SPLITS.index(row.split), row.path))))


def stratified(found: Sequence[Labelled], seed: int) -> list[Labelled]:
    """The same images, each class divided 70/10/20 as evenly as whole groups allow; every class is in every split.

    A group is counted to the class of most of its images.

    Raises:
        ConfigError: a class has fewer than three groups (or images, where there are no groups).
    """
    members: dict[str, list[Labelled]] = defaultdict(list)
    for image in found:
        members[image.group or image.path].append(image)
    classes: dict[str, list[str]] = defaultdict(list)
    for key, images in members.items():
        classes[_commonest(image.label for image in images)].append(key)
    divided: list[Labelled] = []
    for name, keys in sorted(classes.items()):
        if len(keys) < len(SPLITS):
            raise ConfigError(f"images: class {name!r} has {len(keys)} images or groups; a split needs at least 3")
        keys.sort(key=lambda key: _fraction(seed, key))
        for key, split in zip(keys, _divided([len(members[key]) for key in keys]), strict=True):
            divided += [image._replace(split=split) for image in members[key]]
    return sorted(divided)


def _commonest(labels: Iterable[str]) -> str:
    return max(sorted(Counter(labels).items()), key=lambda pair: pair[1])[0]


def _divided(sizes: Sequence[int]) -> list[str]:
    """A split for each of at least three groups of these sizes: first val, then test, then train, none empty."""
    total, left, splits = sum(sizes), len(sizes), []
    quotas = {"val": round(SHARES["val"] * total), "test": round(SHARES["test"] * total)}
    for split, keep in (("val", 2), ("test", 1)):
        taken = 0
        while left > keep and (not taken or taken + sizes[len(splits)] / 2 <= quotas[split]):
            taken += sizes[len(splits)]
            splits.append(split)
            left -= 1
    return splits + ["train"] * left


def imbalance(table: ImageTable) -> str:
    """How far a table's splits are from 70/10/20 and from equal shares of every class, in one line."""
    counts = Counter((row.split, row.label) for row in table.rows)
    sizes = {split: sum(counts[split, label] for label in range(len(table.classes))) for split in SPLITS}
    shares = ", ".join(f"{sizes[split] / len(table.rows):.1%} {split}" for split in SPLITS)
    spread = {
        name: [counts[split, label] / sizes[split] for split in SPLITS] for label, name in enumerate(table.classes)
    }
    name, worst = max(spread.items(), key=lambda item: max(item[1]) - min(item[1]))
    parts = ", ".join(f"{share:.1%} of {split}" for share, split in zip(worst, SPLITS, strict=True))
    return f"{shares} (meant are 70/10/20); most uneven is class {name!r}: {parts}"
