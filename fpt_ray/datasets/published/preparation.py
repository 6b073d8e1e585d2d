"""A download becomes an image table: what should be there is counted, splits are official or made, written once."""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fpt_ray.datasets.inspection import inspect
from fpt_ray.datasets.published.bccd import BCCD
from fpt_ray.datasets.published.chncxr import CHNCXR
from fpt_ray.datasets.published.cmmd import CMMD
from fpt_ray.datasets.published.covid import COVID
from fpt_ray.datasets.published.ddr import DDR
from fpt_ray.datasets.published.ddsm import DDSM
from fpt_ray.datasets.published.isic2016 import ISIC2016
from fpt_ray.datasets.published.isic2018 import ISIC2018
from fpt_ray.datasets.published.layout import Download, Entry, Published, open_download
from fpt_ray.datasets.published.messidor2 import MESSIDOR2
from fpt_ray.datasets.published.names import Name, Split
from fpt_ray.datasets.units import joined
from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import NOTE_KEY, SPLITS
from fpt_ray.images.notes import note_of_csv
from fpt_ray.images.splits import stratified
from fpt_ray.images.table import ImageTable
from fpt_ray.storage.errors import ExistsError
from fpt_ray.storage.files import absolute, leaving, read_bytes, write_once

PUBLISHED: Mapping[Name, Published] = {
    "ddr": DDR,
    "messidor2": MESSIDOR2,
    "isic2016": ISIC2016,
    "isic2018": ISIC2018,
    "ddsm": DDSM,
    "cmmd": CMMD,
    "covid": COVID,
    "chncxr": CHNCXR,
    "bccd": BCCD,
}
_VAL_SHARE = 1 / 8  # of official training images without a validation split: then 70 and 10, where test has 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Division:
    """How the images of a published data set are divided."""

    split: Split | None = None
    """Where the splits come from. Default: the official ones; where there are none, by patient; where patients are not
    published, at random."""
    seed: int = 0
    """Of the splits that are made."""
    workdir: str = "."
    """In which is kept what inspection finds, of images whose split is made; preload there reads no image again."""


def prepare(name: Name, source: str, out: str | None, division: Division, allow_partial: bool) -> str:
    """Writes the image table of a published data set, and its findings' boxes, where there are any.

    Args:
        name: the data set.
        source: the folder with its download.
        out: the table's file, .csv or .parquet, in that folder or above it. Default: in that folder.
        division: where the splits come from. Images of the same pixels never stand in several that are made.
        allow_partial: whether images may be missing.

    Returns what is said of it: where it is, its note, the number of images in each split and class.

    Raises:
        ConfigError: a file is missing or not as published, the number of images is not the published one, there is no
            such split, or another table of this name is there.
        StorageError: S3 fails.
    """
    published = PUBLISHED[name]
    download = open_download(published, source)
    uri, below = _place(download, out or f"{download.root}/{published.table or f'{name}.parquet'}")
    entries, said = _checked(download, published.entries(download), allow_partial)
    divided, how = _divided(published, entries, division, download.root)
    decided = Counter(entry.decided for entry in entries if entry.decided)
    note = "; ".join([said, *(f"{number:,} images {what}" for what, number in decided.items()), how])
    rows = [entry._replace(path=f"{below}{entry.path}") for entry in divided]
    written = _write(uri, rows, note)
    sizes, classes = (Counter(values) for values in zip(*((row.split, row.label) for row in rows), strict=True))
    counts = ", ".join(f"{sizes[one]} {one}" for one in SPLITS)
    labels = ", ".join(f"{number} {label}" for label, number in sorted(classes.items()))
    return "\n".join([*written, note, f"{counts}; {labels}"])


def _place(download: Download, out: str) -> tuple[str, str]:
    """The table's absolute URI, and what paths below the download's root are preceded by in it."""
    uri = absolute(out)
    folder = uri.rpartition("/")[0]
    if not uri.endswith((".csv", ".parquet")) or not f"{download.root}/".startswith(f"{folder}/"):
        raise ConfigError(f"--out is {out}; give a .csv or .parquet file in {download.root} or above it")
    return uri, f"{download.root}/".removeprefix(f"{folder}/")


# --- what is there ----------------------------------------------------------------------------------------------


def _checked(download: Download, entries: Sequence[Entry], allow_partial: bool) -> tuple[list[Entry], str]:
    """The labelled images, and how many these are in words.

    Raises:
        ConfigError: one that is named is missing or leaves the root, or there are more or fewer than published.
    """
    of = download.of
    missing = [entry.path for entry in entries if entry.path not in download.paths]
    present = [entry for entry in entries if entry.path in download.paths]
    labelled = [entry for entry in present if entry.label]
    if (path := leaving(download.root, pa.array([entry.path for entry in labelled], pa.string()))) is not None:
        raise ConfigError(f"{download.root}/{path} is a link that leaves the folder; copy the file into it")
    twice = [path for path, count in Counter(entry.path for entry in present).items() if count > 1]
    if twice:
        raise ConfigError(f"{of.title} names {twice[0]} twice; get its files anew")
    whole = len(present) == of.images and len(labelled) == (of.labelled or len(labelled))
    if whole:
        return labelled, f"{of.title}: {len(labelled):,} images"
    if not labelled or not allow_partial:
        absent = f"; {len(missing):,} that it names are missing, such as {missing[0]}" if missing else ""
        here, there = _count(len(present), len(labelled)), _count(of.images, of.labelled)
        raise ConfigError(
            f"{download.root} has {here} of {of.title}, where {there} are published{absent}. Get the rest"
            f" from {of.home}, or give --allow_partial"
        )
    return labelled, f"{of.title}: {len(labelled):,} images of a download with {len(present):,} of {of.images:,}"


def _count(images: int, labelled: int | None) -> str:
    return f"{images:,} images" if labelled in (None, images) else f"{images:,} images, {labelled:,} with a label,"


# --- how they are divided -----------------------------------------------------------------------------------------


def _divided(published: Published, entries: Sequence[Entry], division: Division, root: str) -> tuple[list[Entry], str]:
    """The images with their splits, without groups that were torn, and in words where the splits come from."""
    split, seed = division.split, division.seed
    official = {entry.split for entry in entries if entry.split}
    split = split or ("official" if official else "patient" if published.group else "random")
    if split == "official" and not official:
        raise ConfigError(f"--split official: {published.title} has none; give --split random or patient")
    if split == "patient" and not published.group:
        raise ConfigError(f"--split patient: {published.title} does not say whose images they are; give --split random")
    if split == "official" and "val" in official:
        return list(entries), "official splits"
    if split == "official":
        return _held_out(
            entries, division, root
        ), f"official test split, 1/8 of the training images for validation (seed {seed})"
    if split == "patient":
        return _stratified(entries, division, root), f"split 70/10/20 by {published.group} (seed {seed})"
    torn = f", images of one {published.group} in several splits" if published.group else ""
    return _stratified(
        [one._replace(group="") for one in entries], division, root
    ), f"split 70/10/20 at random (seed {seed}){torn}"


def _held_out(entries: Sequence[Entry], division: Division, root: str) -> list[Entry]:
    """An eighth of the training images of each class for validation: those whose names have the lowest hashes.

    Names without folders, so that where a download lies changes nothing. With an image go all of the same pixels.
    """
    train: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.split == "train":
            train.setdefault(entry.label, []).append(entry)
    learnt = [entry for members in train.values() for entry in members]
    contents = {entry.path: pixels for entry, (_, pixels) in zip(learnt, _hashes(learnt, division, root), strict=True)}
    chosen: set[bytes] = set()
    for members in train.values():
        members.sort(key=lambda entry: _drawn(division.seed, entry))
        chosen.update(contents[entry.path] for entry in members[: round(_VAL_SHARE * len(members))])
    return [entry._replace(split="val") if contents.get(entry.path) in chosen else entry for entry in entries]


def _drawn(seed: int, entry: Entry) -> bytes:
    return hashlib.sha256(f"{seed}:{entry.path.rpartition('/')[2]}".encode()).digest()


def _hashes(entries: Sequence[Entry], division: Division, root: str) -> list[tuple[bytes, bytes]]:
    """Of each image's bytes and pixels; of one that cannot be read its bytes' or its path's."""
    paths = pa.array([entry.path for entry in entries], pa.string())
    findings = inspect(root, paths, absolute(division.workdir)).findings
    named = zip(findings["sha256"].to_pylist(), findings["pixels"].to_pylist(), entries, strict=True)
    return [(sha256 or one.path.encode(), pixels or sha256 or one.path.encode()) for sha256, pixels, one in named]


def _stratified(entries: Sequence[Entry], division: Division, root: str) -> list[Entry]:
    """Divided whole: images of one group and of the same pixels; of one that cannot be read, of the same bytes."""
    classes = sorted({entry.label for entry in entries})
    paths = pa.array([entry.path for entry in entries], pa.string())
    hashes = _hashes(entries, division, root)
    groups = [entry.group or sha256.hex() for entry, (sha256, _) in zip(entries, hashes, strict=True)]
    contents = [pixels for _, pixels in hashes]
    table = ImageTable(
        root=root,
        task="multiclass",
        classes=tuple(classes),
        paths=paths,
        labels=np.array([classes.index(entry.label) for entry in entries]),
        splits=np.full(len(entries), -1, np.int8),
    )
    divided = stratified(table, joined(pa.array(groups, pa.string()), pa.array(contents, pa.binary())), division.seed)
    splits = dict(zip(divided.paths.to_pylist(), divided.splits.tolist(), strict=True))
    return [entry._replace(split=SPLITS[splits[entry.path]]) for entry in entries]


# --- what is written ----------------------------------------------------------------------------------------------


def _write(uri: str, rows: Sequence[Entry], note: str) -> list[str]:
    """Writes the table with its note and, where there are any, the boxes; returns where these are."""
    columns = ("path", "label", "split", "group")[: 3 + all(row.group for row in rows)]
    lines = sorted(tuple(getattr(row, name) for name in columns) for row in rows)
    stem, _, kind = uri.rpartition(".")
    files = {note_of_csv(uri): f"{note}\n".encode()} if kind == "csv" else {}
    if boxes := [(row.path, *box) for row in sorted(rows) for box in row.boxes]:
        files[f"{stem}_boxes.csv"] = _csv(("image", "x0", "y0", "x1", "y1"), boxes)
    # The table comes last, so that it is never without what goes with it.
    files[uri] = _parquet(columns, lines, note) if kind == "parquet" else _csv(columns, lines)
    for place, content in files.items():
        try:
            write_once(place, content)
        except ExistsError:
            if place.endswith(".parquet") and _is_same_table(read_bytes(place), content):
                continue
            raise ConfigError(f"{place} is there already and is another; remove it, or give another --out") from None
    return [uri, *(place for place in files if place != uri)]


def _is_same_table(one: bytes, other: bytes) -> bool:
    """Whether two Parquet files hold the same, though versions of pyarrow write it in other bytes."""
    try:
        first, second = (pq.read_table(pa.BufferReader(content)) for content in (one, other))
    except (pa.ArrowException, OSError):
        return False
    return first.equals(second, check_metadata=True)


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def _parquet(header: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> bytes:
    columns = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({NOTE_KEY: note}), sink, compression="zstd")
    return sink.getvalue()
