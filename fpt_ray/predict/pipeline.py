"""Images through a bundle by Ray Data: read in tasks, computed in actors, written part by part, so that none is lost.

A part is some of the images in their order. What an interrupted run has finished stands in a folder beside the output,
which bears the digest of bundle, images and version; the same command goes on from there. The folder goes last.
"""

import hashlib
import os
import socket
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from jaxtyping import UInt8
from tqdm.auto import tqdm

from fpt_ray.cluster import ask_worker
from fpt_ray.config.preparation import Preparation
from fpt_ray.display.terminal import without_lines
from fpt_ray.errors import ConfigError
from fpt_ray.images.decoding import read_square
from fpt_ray.images.file import MISSING, bytes_or_reason
from fpt_ray.images.picture import ImageError
from fpt_ray.models.hardware import hardware_here
from fpt_ray.predict.answers import answer_columns
from fpt_ray.predict.classifier import Answers
from fpt_ray.predict.ensemble import Ensemble, handed_over, taken_over
from fpt_ray.predict.parts import Work, encoded, part_file, read_back
from fpt_ray.preload.extraction import RAYS_WORRY, READING_CPUS, actor_pool
from fpt_ray.preload.pace import layouts_here
from fpt_ray.storage.errors import disk_full_as_error
from fpt_ray.storage.files import local_path, write, write_once

OF_BEST = "of_best"
"""The column, of parts alone, of what the best of several bundles says by itself."""


def predict_all(ensemble: Ensemble, work: Work) -> pa.Table:
    """What bundles say of all images (``answer_rows``), in their order, written to a .parquet or .csv file; Ray runs.

    Of several, ``of_best`` is in what is returned alone. The parts stay until ``remove_parts``, so that an interrupted
    command goes on from them, whatever it has to do beside.

    Raises:
        ConfigError: an image, a bundle's features or a worker's GPU fails, or another such command has ended meanwhile.
        StorageError: S3 fails.
    """
    with disk_full_as_error(work.out):
        if todo := work.unfinished():
            _write_parts(ensemble, work, todo)
        whole = pa.concat_tables([read_back(work, number) for number in range(len(work.parts))])
        shown = whole.select([name for name in whole.column_names if name != OF_BEST])
        write_once(work.out, encoded(shown, work.out))
    return whole


def _write_parts(ensemble: Ensemble, work: Work, todo: Sequence[int]) -> None:
    listing, parts = work.listing, [work.parts[number] for number in todo]
    layout = layouts_here(ask_worker(hardware_here), len(todo))[0]
    rows = pa.table(
        {
            "part": list(todo),
            "paths": pa.array([[listing.paths[at] for at in part] for part in parts], pa.list_(pa.string())),
            "there": pa.array([[work.there[at] for at in part] for part in parts], pa.list_(pa.bool_())),
        }
    )
    shared = (ray.put(handed_over(ensemble)),)
    answers = (
        ray.data.from_arrow(rows, override_num_blocks=len(parts))
        .map_batches(
            partial(_read_part, listing.root, ensemble.preparations),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=READING_CPUS,
        )
        .map_batches(
            _Actor,
            fn_constructor_kwargs={"shared": shared, "threads": layout.threads},
            batch_size=1,
            batch_format="pyarrow",
            compute=actor_pool(layout),
            num_cpus=layout.cpus,
            num_gpus=layout.gpus,
        )
    )
    before = len(listing.paths) - sum(map(len, parts))
    progress = tqdm(total=len(listing.paths), initial=before, unit="image", desc="predict", mininterval=1)
    with without_lines(RAYS_WORRY), progress:
        for row in answers.iter_rows():
            if row["failure"]:
                raise ConfigError(row["failure"])
            write(f"{work.folder}/{part_file(row['part'])}", row["answers"])
            progress.update(len(work.parts[row["part"]]))


# --- reading, in tasks --------------------------------------------------------------------------------------------


def _read_part(root: str, preparations: Sequence[Preparation], batch: pa.Table) -> pa.Table:
    """The images of a part that can be read, squared in each way, and for each its hash, or why it cannot.

    What is no image's fault, as that S3 fails, is the part's ``failure``.
    """
    hashes, errors, squares, failure = [], [], [], ""
    try:
        for path, there in zip(batch["paths"][0].as_py(), batch["there"][0].as_py(), strict=True):
            data, error = _bytes_or_reason(root, path, there)
            hashes.append("" if error else hashlib.sha256(data).hexdigest())
            if not error:
                try:
                    squares.append([read_square(data, path, one) for one in preparations])
                except ImageError as failed:
                    error = failed.reason
            errors.append(error)
    except ConfigError as failed:
        hashes, errors, squares, failure = [], [], [], str(failed)
    columns = {name: pa.array([cell], pa.list_(pa.string())) for name, cell in (("hashes", hashes), ("errors", errors))}
    for number in range(len(preparations)):
        pixels = np.stack([each[number] for each in squares]).tobytes() if squares else b""
        columns[f"pixels_{number}"] = pa.array([pixels], pa.large_binary())
    return pa.table({"part": batch["part"], "paths": batch["paths"], **columns, "failure": [failure]})


def _bytes_or_reason(root: str, path: str, there: bool) -> tuple[bytes, str]:
    """As ``bytes_or_reason``; a local file that was there on the driver's host must be so here.

    Raises:
        ConfigError: it is not.
        StorageError: S3 fails.
    """
    data, error = bytes_or_reason(f"{root}/{path}")
    where = local_path(f"{root}/{path}")
    if there and error == MISSING and where is not None and not os.path.exists(where):  # a folder is no image
        raise ConfigError(
            f"images: the host {socket.gethostname()} finds no {root}/{path}, which was there where the command was "
            "started; give a folder that all hosts see, or s3://..., or start again if it was removed"
        )
    return data, error


# --- computing, in actors -----------------------------------------------------------------------------------------


class _Actor:
    """A Ray Data actor that holds the networks; several threads call it, one at a time has them compute."""

    def __init__(self, shared: tuple[Any], threads: int) -> None:
        self.threads, self.turn, self.failure = threads, threading.Lock(), ""
        try:
            self.ensemble = taken_over(ray.get(shared[0]))
        except ConfigError as failed:  # Ray would start it again, and tell its end alone
            self.failure = str(failed)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A part's rows as a Parquet file's bytes, or what kept it from being computed."""
        answers, failure = b"", self.failure or batch["failure"][0].as_py()
        if not failure:
            try:
                answers = encoded(self._rows(batch), ".parquet")
            except ConfigError as failed:
                failure = str(failed)
        return pa.table(
            {"part": batch["part"], "answers": pa.array([answers], pa.large_binary()), "failure": [failure]}
        )

    def _rows(self, batch: pa.Table) -> pa.Table:
        torch.set_num_threads(self.threads)  # of the thread that calls
        squares: dict[Preparation, UInt8[np.ndarray, "B R R 3"]] = {}
        for number, preparation in enumerate(self.ensemble.preparations):
            raw = np.frombuffer(batch[f"pixels_{number}"][0].as_buffer(), np.uint8)
            # A copy: Ray's memory is not writable.
            squares[preparation] = np.array(raw.reshape(-1, preparation.resolution, preparation.resolution, 3))
        paths, hashes, errors = (batch[name][0].as_py() for name in ("paths", "hashes", "errors"))
        read = [one for one, error in zip(hashes, errors, strict=True) if not error]
        with self.turn:  # one part's features are held, and a seed's state is in the networks
            answers = self.ensemble.answers(squares, read)
        return answer_rows(answers, paths, hashes, errors)


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
