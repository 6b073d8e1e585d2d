"""An image is read once and found usable or not; a table of those that are. Contents that stand in several splits."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from fpt_ray.errors import ConfigError
from fpt_ray.images.decoding import MAX_BYTES, ImageError, decode
from fpt_ray.images.table import ImageRow, ImageTable, check_splits
from fpt_ray.storage.files import read_bytes


class Finding(NamedTuple):
    """What inspection says of an image."""

    sha256: str
    """Of the file's bytes, in hex; empty where it cannot be used."""
    reason: str
    """Why it cannot be used; empty where it can."""


def inspect_image(root: str, row: ImageRow) -> tuple[Finding, UInt8[np.ndarray, "Y X 3"] | None]:
    """What is found of an image, and its pixels where it decodes fully. Its file is read once.

    Raises:
        StorageError: S3 fails, which says nothing of the image.
    """
    uri = f"{root}/{row.path}"
    try:
        data = read_bytes(uri, MAX_BYTES + 1)
        pixels = decode(data, row.path)
    except FileNotFoundError:
        return Finding("", "there is no such file"), None
    except OSError as error:
        return Finding("", f"the file cannot be read ({error.strerror})"), None
    except ImageError as error:
        return Finding("", error.reason), None
    return Finding(hashlib.sha256(data).hexdigest(), ""), pixels


def accept(table: ImageTable, findings: Sequence[tuple[str, str]], max_skipped: float = 0.01) -> ImageTable:
    """The table with content hashes and without unreadable images; splits that are given still hold every class.

    Args:
        table: its rows are those that were inspected.
        findings: of ``inspect_image``, one for each row, in order.
        max_skipped: largest share of the rows that may be unreadable.

    Raises:
        ConfigError: more are unreadable (they are listed), or a class is gone from a split.
    """
    if len(findings) != len(table):
        raise ValueError(f"{len(findings)} findings of {len(table)} rows")
    usable = np.array([not reason for _, reason in findings])
    bad = np.flatnonzero(~usable)
    skipped = tuple((row.path, findings[int(at)][1]) for row, at in zip(table.rows_at(bad), bad, strict=True))
    if len(skipped) > max_skipped * len(table):
        listed = "".join(f"\n  {path}: {reason}" for path, reason in skipped[:10])
        more = f"\n  and {len(skipped) - 10} more" if len(skipped) > 10 else ""
        raise ConfigError(
            f"images: {len(skipped)} of {len(table)} in {table.root} cannot be read, more than {max_skipped:.0%}; mend"
            f" or remove them:{listed}{more}"
        )
    hashes = np.frombuffer(bytes.fromhex("".join(sha256 for sha256, _ in findings)), np.uint8).reshape(-1, 32)
    whole = table.take(np.flatnonzero(usable))
    whole = dataclasses.replace(whole, hashes_=hashes, skipped=(*table.skipped, *skipped))
    if whole.is_divided:
        check_splits(whole, table.root)
    return whole


def leaks(table: ImageTable) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(SHA-256, paths) of every image whose content stands in more than one split; of inspected rows only."""
    if table.hashes_ is None or not len(table):
        return ()
    order = table.by_hash()
    hashes, splits = table.hashes_[order], table.splits[order]
    first = np.append(True, (hashes[1:] != hashes[:-1]).any(axis=1))
    content = np.cumsum(first) - 1
    pairs = np.unique(np.stack([content, splits], axis=1), axis=0)[:, 0]
    several = np.flatnonzero(np.bincount(pairs) > 1)
    rows = [np.sort(order[content == one]) for one in several]
    return tuple((table.row(at[0]).sha256, tuple(row.path for row in table.rows_at(at))) for at in rows)
