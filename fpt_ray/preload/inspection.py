"""Every image read and decoded once, in parallel, before anything expensive starts; what was found is remembered.

Findings are kept by path, size and time of change: a part for each task that ends, merged at the end. What a task has
decoded stays in Ray's object store for extraction, as far as there is room.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayTaskError
from tqdm.auto import tqdm

from fpt_ray.cluster import ray_session
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.images.inspection import Finding, accept, inspect_image
from fpt_ray.images.splits import imbalance, with_hashed_splits
from fpt_ray.images.table import ImageRow, ImageTable, check_splits
from fpt_ray.preload.decoded import Decoded, keep, kept_bytes, room_for_decoded
from fpt_ray.storage.files import list_files, read_bytes, remove, stamps, write

_CHUNK = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What inspection gives."""

    table: ImageTable
    """With content hashes and a split for every image, without the few that cannot be read."""
    decoded: Decoded = field(default_factory=dict)
    """Of the images that were decoded for it, as far as there was room."""


def inspected(table: ImageTable, workdir: str, resolutions: Sequence[int] = (), *, local: bool = False) -> Inspection:
    """The table, inspected; and its images at these resolutions, which will be extracted.

    A table that has the hashes is taken as it is; whoever reads an image then sees whether it still is that one.

    Findings are kept in ``workdir/images``, so that a second call reads no image.

    Raises:
        StorageError: S3 fails.
        ConfigError: more than 1 % cannot be read, or a class is missing from a split.
    """
    if table.hashes_ is not None:
        return Inspection(table=_divided(table))
    found = stamps(table.root, table.paths.to_pylist())
    folder, name = f"{workdir}/images", hashlib.sha256(table.root.encode()).hexdigest()[:16]
    files = _finding_files(folder, name)
    known, decoded = _read_findings(folder, files), {}
    todo = [(stamp, row) for stamp, row in zip(found, table.rows(), strict=True) if stamp not in known]
    if todo:
        with ray_session(local=local):
            for part, kept in _inspect_all(table.root, todo, resolutions):
                files.append(_save_part(folder, name, part))
                known |= part
                decoded |= kept
    if parts := [file for file in files if file != f"{name}.json"]:
        write(f"{folder}/{name}.json", json.dumps({stamp: known[stamp] for stamp in found}).encode())
        remove(folder, parts)
    return Inspection(table=_divided(accept(table, [known[stamp] for stamp in found])), decoded=decoded)


def _divided(accepted: ImageTable) -> ImageTable:
    """With a split for every image."""
    if accepted.is_divided:
        return accepted
    divided = with_hashed_splits(accepted)
    check_splits(divided, divided.root)
    say(f"images: split by a hash of {'content' if divided.groups is None else 'group'}: {imbalance(divided)}")
    return divided


# --- findings on disk -----------------------------------------------------------------------------------------


def _finding_files(folder: str, name: str) -> list[str]:
    """What inspections of one root have found: ``name.json`` and, of those that were killed, ``name-PART.json``.

    Files are written whole under these names, or have others.
    """
    own = re.compile(rf"{name}(-[0-9a-f]{{16}})?\.json")
    return [file.path for file in list_files(folder) if own.fullmatch(file.path)]


def _read_findings(folder: str, files: Sequence[str]) -> dict[str, Finding]:
    known: dict[str, Finding] = {}
    for file in files:
        try:
            known |= {stamp: Finding(*found) for stamp, found in json.loads(read_bytes(f"{folder}/{file}")).items()}
        except FileNotFoundError:
            continue  # another preload of the same images has merged it
    return known


def _save_part(folder: str, name: str, part: Mapping[str, Finding]) -> str:
    content = json.dumps(part).encode()
    file = f"{name}-{hashlib.sha256(content).hexdigest()[:16]}.json"
    write(f"{folder}/{file}", content)
    return file


# --- inspecting -----------------------------------------------------------------------------------------------


def _inspect_all(
    root: str, todo: list[tuple[str, ImageRow]], resolutions: Sequence[int]
) -> Iterator[tuple[dict[str, Finding], Decoded]]:
    """The findings of a task, as one ends, and references to what it has decoded.

    The first images are kept, as many as there is room for; the others will be read again.
    """
    each = sum(map(kept_bytes, resolutions))
    room = room_for_decoded() // each if each else 0
    task: Any = ray.remote(_inspect_chunk)
    waiting = {}
    for first in range(0, len(todo), _CHUNK):
        chunk = todo[first : first + _CHUNK]
        kept = resolutions if first + len(chunk) <= room else ()
        start = task.options(num_returns=1 + len(chunk) * len(kept)).remote
        results = start(root, [image for _, image in chunk], kept)
        found, *pixels = results if kept else [results]
        waiting[found] = _Started(chunk, kept, pixels)
    try:
        with tqdm(total=len(todo), unit="image", desc="inspect", mininterval=1) as progress:
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                findings = _findings(done)
                progress.update(len(findings))
                yield waiting.pop(done).ended(findings)
    finally:
        for call in waiting:
            ray.cancel(call)


@dataclass(frozen=True, slots=True)
class _Started:
    """A task that inspects some images."""

    images: Sequence[tuple[str, ImageRow]]
    """With their stamps."""
    resolutions: Sequence[int]
    """At which it keeps them."""
    pixels: Sequence[Any]
    """References to what it keeps."""

    def ended(self, findings: Sequence[Finding]) -> tuple[dict[str, Finding], Decoded]:
        names = [(one.sha256, resolution) for one in findings for resolution in self.resolutions]
        kept = {name: pixels for name, pixels in zip(names, self.pixels, strict=True) if name[0]}
        return {stamp: one for (stamp, _), one in zip(self.images, findings, strict=True)}, kept


def _findings(done: Any) -> list[Finding]:
    try:
        return ray.get(done)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, ConfigError) else error from None


def _inspect_chunk(root: str, images: Sequence[ImageRow], resolutions: Sequence[int]) -> Any:
    """A task: the findings and then, image by image, its pixels at each resolution; None where it has none."""
    findings, kept = [], []
    for image in images:
        finding, pixels = inspect_image(root, image)
        findings.append(finding)
        kept += [None if pixels is None else keep(pixels, resolution) for resolution in resolutions]
    return (findings, *kept) if resolutions else findings
