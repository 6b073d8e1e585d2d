"""Every image read and decoded once, in parallel, before anything expensive starts; what was found is remembered.

What a task has decoded stays in Ray's object store for extraction, as far as there is room.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import RayTaskError
from tqdm.auto import tqdm

from fpt_ray.cluster import ray_session
from fpt_ray.config.preparation import Preparation
from fpt_ray.datasets.decoded import Decoded, is_kept, keep, kept_bytes, room_for_decoded
from fpt_ray.datasets.findings import FOLDER, as_columns, findings_name, read_findings, remembered
from fpt_ray.datasets.one_image import inspect_image
from fpt_ray.errors import ConfigError
from fpt_ray.images.file import MISSING
from fpt_ray.images.picture import ImageError
from fpt_ray.storage.files import exists, stamps

_CHUNK = 32
"""Images of a task."""
_AT_HAND = 2**14
"""Rows of a table that are Python objects at once."""
_AT_ONCE = 512
"""Tasks that wait or run: with a hundred thousand of them, to ask which has ended would take longer than they do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What inspection gives."""

    findings: pa.Table
    """See ``findings.SCHEMA``; a row for each image that was asked for, in order."""
    decoded: Decoded = field(default_factory=dict)
    """Of the images that were decoded for it, as far as there was room."""


def inspect(
    root: str, paths: pa.Array, workdir: str, preparations: Sequence[Preparation] = (), *, local: bool = False
) -> Found:
    """What is found of the images below a root; and these, prepared as they will be extracted.

    Findings are kept in ``workdir/inspected``, so that a second call reads no image.

    Raises:
        ConfigError: a host does not see the images.
        StorageError: S3 fails.
    """
    folder, name = f"{workdir}/{FOLDER}", findings_name(root)
    asked = _stamped(root, paths)
    known, decoded = read_findings(folder, name), {}
    todo = pc.indices_nonzero(pc.invert(pc.is_in(asked, value_set=known["stamp"].combine_chunks())))
    if len(todo):
        stamped, parts = asked.take(todo), [known]
        with ray_session(local=local), remembered(folder, name) as remember:
            for first, found, kept in _inspect_all(root, paths.take(todo), preparations):
                parts.append(found.add_column(0, "stamp", stamped.slice(first, len(found))))
                remember(parts[-1])
                decoded |= kept
        known = pa.concat_tables(parts)
    places = pc.index_in(asked, value_set=known["stamp"].combine_chunks())
    return Found(findings=known.drop_columns("stamp").take(places), decoded=decoded)


def _stamped(root: str, paths: pa.StringArray) -> pa.StringArray:
    """The path and stamp of each image, of which only some are objects at once."""
    firsts = range(0, len(paths), _AT_HAND)
    found = stamps(root, (path for first in firsts for path in paths.slice(first, _AT_HAND).to_pylist()))
    chunks = [pa.array(list(islice(found, _AT_HAND)), pa.string()) for _ in firsts]
    return pa.chunked_array(chunks, pa.string()).combine_chunks()


# --- in tasks -------------------------------------------------------------------------------------------------


def _inspect_all(
    root: str, paths: pa.Array, preparations: Sequence[Preparation]
) -> Iterator[tuple[int, pa.Table, Decoded]]:
    """Of a task, as one ends: the place of its first image, findings, and references to what it has decoded.

    The first images are kept, as many as there is room for; the others, and small ones, will be read again.
    """
    each = sum(kept_bytes(one.resolution) for one in preparations)
    room = room_for_decoded() // each if each else 0
    task: Any = ray.remote(_inspect_chunk)
    firsts, waiting = iter(range(0, len(paths), _CHUNK)), {}
    try:
        with tqdm(total=len(paths), unit="image", desc="inspect", mininterval=1) as progress:
            while True:
                for first in islice(firsts, _AT_ONCE - len(waiting)):
                    chunk = paths.slice(first, _CHUNK)
                    kept = preparations if first + len(chunk) <= room else ()
                    start = task.options(num_returns=1 + len(chunk) * len(kept)).remote
                    results = start(root, chunk.to_pylist(), kept)
                    found, *pixels = results if kept else [results]
                    waiting[found] = _Started(first, kept, pixels)
                if not waiting:
                    return
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                findings, ended = _findings(done), waiting.pop(done)
                _refuse_unseen(root, paths.slice(ended.first, len(findings)), findings)
                progress.update(len(findings))
                yield ended.ended(findings)
    finally:
        for call in waiting:
            ray.cancel(call)


@dataclass(frozen=True, slots=True)
class _Started:
    """A task that inspects some images."""

    first: int
    """The place of the first of them."""
    preparations: Sequence[Preparation]
    """In which it keeps them."""
    pixels: Sequence[Any]
    """References to what it keeps."""

    def ended(self, findings: pa.Table) -> tuple[int, pa.Table, Decoded]:
        rows = findings.select(["sha256", "width", "height"]).to_pylist()
        each = zip(((row, one) for row in rows for one in self.preparations), self.pixels, strict=True)
        decoded = {
            (row["sha256"].hex(), one): pixels
            for (row, one), pixels in each
            if is_kept(row["width"], row["height"], one)
        }
        return self.first, findings, decoded


def _refuse_unseen(root: str, paths: pa.Array, findings: pa.Table) -> None:
    """ConfigError where a task finds no file that is there: its host does not see the images."""
    missing = pc.equal(findings["reason"].combine_chunks(), MISSING)
    for path in paths.filter(missing).to_pylist():
        if exists(uri := f"{root}/{path}"):
            raise ConfigError(
                f"images: a worker finds no {uri}, which is there where the command was started; give a folder that"
                " all hosts see, or s3://..."
            )


def _findings(done: Any) -> pa.Table:
    try:
        return ray.get(done)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, ConfigError) else error from None


def _inspect_chunk(root: str, paths: Sequence[str], preparations: Sequence[Preparation]) -> Any:
    """A task: the findings and then, image by image, its square of each preparation; None where it has none.

    An image that cannot be prepared so, for want of a window, for instance, ends nothing here: findings tell of it.
    """
    findings, kept = [], []
    for path in paths:
        finding, picture = inspect_image(root, path)
        findings.append(finding)
        for one in preparations:
            try:
                worth = is_kept(finding.width, finding.height, one)
                kept.append(keep(picture, one) if picture is not None and worth else None)
            except ImageError:
                kept.append(None)
    return (as_columns(findings), *kept) if preparations else as_columns(findings)
