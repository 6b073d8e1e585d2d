"""What a prediction of many images is divided into, and what of it is finished: a folder beside the output.

The folder bears the digest of bundles, images and version, so that the same command goes on from it and no other; it is
removed when all is done.
"""

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from fpt_ray import __version__
from fpt_ray.errors import ConfigError
from fpt_ray.predict.listing import Listing
from fpt_ray.storage.files import GONE, exists, list_files, local_path, read_bytes, remove, stamps

_PART_IMAGES = (8, 64)
"""Fewest and most images of a part: what an actor is worth being called for, and what may be lost. Of images of which
no more may be held at once, fewer."""
_PARTS = 32
"""Of fewer images than would make so many of the largest: as many as keep some cores busy to the end."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Work:
    """Images that are to be predicted, and the file that says what they are."""

    listing: Listing
    there: Sequence[bool]
    """Of each image, whether its file was there when the work was planned."""
    out: str
    folder: str
    """Of finished parts: it bears the digest of bundles, images and version."""
    parts: Sequence[range]
    """The images of each."""

    def unfinished(self) -> list[int]:
        """The numbers of the parts that are still to be computed."""
        done = {file.path for file in list_files(self.folder)}
        return [number for number in range(len(self.parts)) if part_file(number) not in done]


def planned(digest: str, listing: Listing, out: str, held: int = _PART_IMAGES[1]) -> Work:
    """What is to be done; ``digest`` tells the bundles from others, ``held`` is how many images are held at once.

    The output may be there where all parts are beside it: somebody was interrupted who had something left to do.

    Raises:
        ConfigError: the output is there already, or cannot be written.
        StorageError: S3 fails.
    """
    check_output(out)
    marks = list(stamps(listing.root, listing.paths))
    found = hashlib.sha256("\n".join([__version__, digest, *marks]).encode()).hexdigest()
    there = [not mark.endswith(f"|{GONE}") for mark in marks]
    folder, parts = f"{out}.parts-{found[:12]}", parts_of(len(marks), held)
    work = Work(listing=listing, there=there, out=out, folder=folder, parts=parts)
    if exists(out) and work.unfinished():
        raise ConfigError(f"out: {out} is there already; remove it, or give another name")
    return work


def remove_parts(work: Work) -> None:
    """Removes what an interrupted command would have gone on from."""
    remove(work.folder, [part_file(number) for number in range(len(work.parts))])


def read_back(work: Work, number: int) -> pa.Table:
    """The rows of a finished part.

    Raises:
        ConfigError: it has gone.
        StorageError: S3 fails.
    """
    try:
        return pq.read_table(pa.BufferReader(read_bytes(f"{work.folder}/{part_file(number)}")))
    except FileNotFoundError:
        raise ConfigError(
            f"{work.folder} was removed meanwhile, as the same command does at its end; look at {work.out}, or start "
            "again"
        ) from None


def check_output(out: str) -> None:
    """ConfigError unless a file of this name may be written; it may be there."""
    if not out.endswith((".parquet", ".csv")):
        raise ConfigError(f"out is {out}; give a .parquet or .csv file")
    if (path := local_path(out)) is None:
        return
    if path.is_dir():
        raise ConfigError(f"out: {out} is a folder; give the name of a file")
    folder = next(one for one in path.parents if one.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"out: {out} cannot be written, for {folder} is no folder that may be written to")


def parts_of(images: int, held: int = _PART_IMAGES[1]) -> list[range]:
    """The images of each part of so many; the cluster has no say in it, so that another goes on where one ended."""
    fewest, most = _PART_IMAGES
    size = min(most, held, max(fewest, images // _PARTS))
    return [range(first, min(first + size, images)) for first in range(0, images, size)]


def part_file(number: int) -> str:
    """The name of a part's file in their folder."""
    return f"part-{number:06d}.parquet"


def encoded(table: pa.Table, out: str) -> bytes:
    """A table as the content of a file of this name."""
    sink = io.BytesIO()
    if out.endswith(".csv"):
        pyarrow.csv.write_csv(table, sink)
    else:
        pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
