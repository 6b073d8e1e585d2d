"""Images through a bundle by Ray Data: read in tasks, computed in actors, written part by part, so that none is lost.

A part is some of the images in their order. What an interrupted run has finished stands in a folder beside the output,
which bears the digest of bundle, images and version; the same command goes on from there.
"""

import hashlib
import io
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import ray
import ray.data
import torch
from jaxtyping import UInt8
from tqdm.auto import tqdm

from fpt_ray import __version__
from fpt_ray.cluster import computing_hosts, working_hosts
from fpt_ray.config.preparation import Preparation
from fpt_ray.display.terminal import without_lines
from fpt_ray.errors import ConfigError
from fpt_ray.images.decoding import read_square
from fpt_ray.images.file import bytes_or_reason
from fpt_ray.images.picture import ImageError
from fpt_ray.predict.answers import answer_columns
from fpt_ray.predict.classifier import Answers
from fpt_ray.predict.ensemble import Ensemble, handed_over, taken_over
from fpt_ray.predict.listing import Listing
from fpt_ray.preload.extraction import RAYS_WORRY, READING_CPUS
from fpt_ray.preload.pace import lpm_layouts
from fpt_ray.storage.errors import disk_full_as_error
from fpt_ray.storage.files import exists, list_files, read_bytes, remove, stamps, write, write_once

OF_BEST = "of_best"
"""The column, of parts alone, of what the best of several bundles says by itself."""
_PART_IMAGES = (8, 64)
"""Fewest and most images of a part: what an actor is worth being called for, and what may be lost."""
_PARTS = 32
"""Of fewer images than would make so many of the largest: as many as keep some cores busy to the end."""


def predict_all(ensemble: Ensemble, digest: str, listing: Listing, out: str) -> pa.Table:
    """What bundles say of all images (``answer_rows``), in their order, written to a .parquet or .csv file; Ray runs.

    ``digest`` tells them from other bundles. Of several, ``of_best`` is in what is returned alone.

    Raises:
        ConfigError: the output is there already, or is no file of these kinds.
        StorageError: S3 fails.
    """
    check_output(out)
    paths, parts = listing.paths, _parts(len(listing.paths))
    found = hashlib.sha256("\n".join([__version__, digest, *stamps(listing.root, paths)]).encode()).hexdigest()
    folder = f"{out}.parts-{found[:12]}"
    done = {file.path for file in list_files(folder)}
    todo = [number for number in range(len(parts)) if _part_file(number) not in done]
    with disk_full_as_error(out):
        if todo:
            _write_parts(ensemble, listing, {number: parts[number] for number in todo}, folder)
        tables = [pq.read_table(pa.BufferReader(read_bytes(f"{folder}/{_part_file(n)}"))) for n in range(len(parts))]
        whole = pa.concat_tables(tables)
        write_once(out, _encoded(whole.select([name for name in whole.column_names if name != OF_BEST]), out))
    remove(folder, [_part_file(number) for number in range(len(parts))])
    return whole


def check_output(out: str) -> None:
    """ConfigError unless a file of this name can be written."""
    if not out.endswith((".parquet", ".csv")):
        raise ConfigError(f"out is {out}; give a .parquet or .csv file")
    if exists(out):
        raise ConfigError(f"out: {out} is there already; remove it, or give another name")


def _parts(images: int) -> list[range]:
    """The images of each part; the cluster has no say in it, so that another goes on with what this one finished."""
    fewest, most = _PART_IMAGES
    size = min(most, max(fewest, images // _PARTS))
    return [range(first, min(first + size, images)) for first in range(0, images, size)]


def _part_file(number: int) -> str:
    return f"part-{number:06d}.parquet"


def _encoded(table: pa.Table, out: str) -> bytes:
    sink = io.BytesIO()
    if out.endswith(".csv"):
        pyarrow.csv.write_csv(table, sink)
    else:
        pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _write_parts(ensemble: Ensemble, listing: Listing, parts: dict[int, range], folder: str) -> None:
    layout = lpm_layouts(working_hosts(), computing_hosts(), len(parts))[0]
    rows = pa.table(
        {
            "part": list(parts),
            "paths": pa.array([[listing.paths[at] for at in part] for part in parts.values()], pa.list_(pa.string())),
        }
    )
    shared = (ray.put(handed_over(ensemble)),)
    read = partial(_read_part, listing.root, ensemble.preparations)
    answers = (
        ray.data.from_arrow(rows, override_num_blocks=len(parts))
        .map_batches(read, batch_size=1, batch_format="pyarrow", num_cpus=READING_CPUS)
        .map_batches(
            _Actor,
            fn_constructor_kwargs={"shared": shared, "threads": layout.threads},
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=layout.actors),
            num_cpus=layout.cpus,
            num_gpus=layout.gpus,
        )
    )
    before = len(listing.paths) - sum(map(len, parts.values()))
    progress = tqdm(total=len(listing.paths), initial=before, unit="image", desc="predict", mininterval=1)
    with without_lines(RAYS_WORRY), progress:
        for row in answers.iter_rows():
            write(f"{folder}/{_part_file(row['part'])}", row["answers"])
            progress.update(len(parts[row["part"]]))


# --- reading, in tasks --------------------------------------------------------------------------------------------


def _read_part(root: str, preparations: Sequence[Preparation], batch: pa.Table) -> pa.Table:
    """The images of a part that can be read, squared in each way, and for each its hash, or why it cannot."""
    hashes, errors, squares = [], [], []
    for path in batch["paths"][0].as_py():
        data, error = bytes_or_reason(f"{root}/{path}")
        hashes.append("" if error else hashlib.sha256(data).hexdigest())
        if not error:
            try:
                squares.append([read_square(data, path, one) for one in preparations])
            except ImageError as failed:
                error = failed.reason
        errors.append(error)
    columns = {"hashes": pa.array([hashes]), "errors": pa.array([errors])}
    for number in range(len(preparations)):
        pixels = np.stack([each[number] for each in squares]).tobytes() if squares else b""
        columns[f"pixels_{number}"] = pa.array([pixels], pa.large_binary())
    return pa.table({"part": batch["part"], "paths": batch["paths"], **columns})


# --- computing, in actors -----------------------------------------------------------------------------------------


class _Actor:
    """A Ray Data actor that holds the networks."""

    def __init__(self, shared: tuple[Any], threads: int) -> None:
        torch.set_num_threads(threads)
        self.ensemble = taken_over(ray.get(shared[0]))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A part's rows as a Parquet file's bytes."""
        squares: dict[Preparation, UInt8[np.ndarray, "B R R 3"]] = {}
        for number, preparation in enumerate(self.ensemble.preparations):
            raw = np.frombuffer(batch[f"pixels_{number}"][0].as_buffer(), np.uint8)
            # A copy: Ray's memory is not writable.
            squares[preparation] = np.array(raw.reshape(-1, preparation.resolution, preparation.resolution, 3))
        paths, hashes, errors = (batch[name][0].as_py() for name in ("paths", "hashes", "errors"))
        read = [one for one, error in zip(hashes, errors, strict=True) if not error]
        table = answer_rows(self.ensemble.answers(squares, read), paths, hashes, errors)
        return pa.table({"part": batch["part"], "answers": pa.array([_encoded(table, ".parquet")], pa.large_binary())})


def answer_rows(answers: Answers, paths: Sequence[str], hashes: Sequence[str], errors: Sequence[str]) -> pa.Table:
    """A row an image: path, hash, ``answer_columns``, error. Answers are of images without one, others have nulls."""
    at, best = np.cumsum([not error for error in errors]) - 1, answers.of_best

    def column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
        return pa.array([None if error else values[i] for i, error in zip(at, errors, strict=True)], kind)

    kinds = {"class": pa.string(), **dict.fromkeys(answers.decisions, pa.bool_())}
    return pa.table(
        {
            "path": pa.array(paths, pa.string()),
            "sha256": pa.array(hashes, pa.string()),
            **{name: column(said, kinds.get(name, pa.float64())) for name, said in answer_columns(answers).items()},
            **({} if best is None else {OF_BEST: column(best.tolist(), pa.list_(pa.float64()))}),
            "error": pa.array(errors, pa.string()),
        }
    )
