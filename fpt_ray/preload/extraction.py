"""Images of a shard in, features of a shard out: reading in Ray tasks, the frozen LPM in Ray actors, by Ray Data."""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from tqdm.auto import tqdm

from fpt_ray.cluster import hosts_may_join
from fpt_ray.config.trial import TrialConfig
from fpt_ray.datasets.decoded import Decoded
from fpt_ray.display.terminal import without_lines
from fpt_ray.errors import ConfigError
from fpt_ray.features.shards import ShardEntry, adopted, shard_table, write_shard
from fpt_ray.features.spec import StoreSpec
from fpt_ray.images.table import ImageRow
from fpt_ray.models.backbone import resolve_precision
from fpt_ray.models.device import compute_device
from fpt_ray.models.hardware import Hardware
from fpt_ray.models.mapped import put_together, take_apart
from fpt_ray.preload.batches import start
from fpt_ray.preload.decoded import ImageSource, ReadShard, ShardImages, ShardPlan, shard_of
from fpt_ray.storage.errors import ExistsError, why_full

READING_CPUS = 0.4
"""Less than any actor holds: of two steps that hold the same Ray Data makes one, in which actors would read."""
SHARDS_AT_ONCE = {"cpu": 2, "cuda": 3}
"""Shards that an actor has in hand: one is computed while the others are encoded and written, which takes longer than
a GPU computes."""
RAYS_WORRY = "has constructor arguments in the object store and max_restarts > 0"
"""Ray Data gives every actor of its pools such arguments, and keeps them itself."""

Holder = tuple[Any]
"""A reference to the LPM, or to None where images alone are stored; in a tuple, since Ray replaces a bare reference by
its value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How many actors run the LPM, what each of them holds, and how many tasks read images beside them."""

    actors: int
    cpus: float
    """That an actor holds in Ray's books."""
    gpus: float
    threads: int
    """Of an actor."""
    readers: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What is to be extracted."""

    holder: Holder
    spec: StoreSpec
    plans: Sequence[ShardPlan]
    root: str
    """Of the images."""
    decoded: Decoded

    def kept(self, image: ImageRow) -> Any:
        """A reference to an image's pixels, where inspection has kept them."""
        return self.decoded.get((image.sha256, self.spec.preparation))

    @property
    def source(self) -> ImageSource:
        """Where its images are read from."""
        spec = self.spec
        return ImageSource(
            root=self.root, preparation=spec.preparation, sides=spec.low_resolutions, with_high=bool(spec.blocks)
        )


def write_shards(work: Work, layout: Layout) -> Iterator[ShardEntry]:
    """Reads in tasks, runs the LPM in actors, a shard a row; yields what is written as it comes.

    Raises:
        ConfigError: an image or a shard fails.
    """
    shards = ray.data.read_datasource(
        ShardImages(work.plans, work.source, work.kept),
        override_num_blocks=len(work.plans),
        num_cpus=READING_CPUS,
    ).map_batches(
        ShardWriter,
        fn_constructor_kwargs={"holder": work.holder, "spec": work.spec, "threads": layout.threads},
        batch_size=1,
        batch_format="pyarrow",
        compute=actor_pool(layout),
        num_cpus=layout.cpus,
        num_gpus=layout.gpus,
    )
    images = sum(len(plan.images) for plan in work.plans)
    with without_lines(RAYS_WORRY), tqdm(total=images, unit="image", desc="preload", mininterval=1) as progress:
        for row in shards.iter_rows():
            if row["error"]:
                raise ConfigError(row["error"])
            entry = ShardEntry(**json.loads(row["entry"]))
            progress.update(entry.rows)
            yield entry


def actor_pool(layout: Layout) -> ray.data.ActorPoolStrategy:
    """The actors of a layout, and more where hosts join; each is called by a thread for every row it has in hand."""
    at_once = SHARDS_AT_ONCE["cuda" if layout.gpus else "cpu"]
    grows = hosts_may_join()
    return ray.data.ActorPoolStrategy(
        min_size=layout.actors,
        max_size=None if grows else layout.actors,
        max_concurrent_calls_per_actor=at_once,
        max_tasks_in_flight_per_actor=None if grows else at_once,
        enable_true_multi_threading=True,
    )


# --- the LPM --------------------------------------------------------------------------------------------------


def lpm_precision(trial: TrialConfig, hardware: Hardware) -> str:
    """The type that the LPM computes in, as a trial asks for it, on the hardware of the workers that run it."""
    return str(resolve_precision(trial.features.precision, hardware)).removeprefix("torch.")


def share_model(model: Any) -> Holder:
    """Puts the LPM where all hosts find it, once for each of them."""
    return (ray.put(None if model is None else take_apart(model)),)


def mapped_model(holder: Holder) -> Any:
    """The LPM on this process's device. On a CPU the weights stay in Ray's memory, for all actors of a host."""
    parts: Any = ray.get(holder[0])
    return None if parts is None else put_together(*parts).to(compute_device())


def compute_with(threads: int) -> None:
    """Sets PyTorch's number of threads, of the thread that calls alone.

    A thread that has not asked for it takes what any thread has set last when it computes at first.
    """
    torch.get_num_threads()
    torch.set_num_threads(threads)


# --- a shard --------------------------------------------------------------------------------------------------


class ShardWriter:
    """A Ray Data actor: it holds the LPM, extracts features of shards and writes each whole or not at all.

    It is called by several threads, which encode and write. The LPM computes in a thread of its own, shard after shard:
    each thread that computes has helpers of its own, and OpenMP lets them sleep at once where they are more than the
    cores, also while the others have nothing to do.
    """

    def __init__(self, holder: Holder, spec: StoreSpec, threads: int) -> None:
        self.model = mapped_model(holder)
        self.spec = spec
        self.lpm_thread = ThreadPoolExecutor(1, initializer=compute_with, initargs=(threads,))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The manifest's entry of the shard of a batch's one row, as JSON, or what kept it from being written."""
        entry, error = "", ""
        shard = shard_of(batch, self.spec.low_resolutions)
        try:
            if shard.error:
                raise ConfigError(shard.error)
            entry = json.dumps(dataclasses.asdict(self._write(shard)))
        except ConfigError as caught:
            error = str(caught)
        except OSError as caught:
            remedy = "free space" if why_full(caught) else "give a place that can be written"
            error = f"{shard.plan.uri} cannot be written ({caught}); {remedy} and start again, finished shards are kept"
        return pa.table({"entry": [entry], "error": [error]})

    def _write(self, shard: ReadShard) -> ShardEntry:
        compute_with(1)
        features, seconds = None, 0.0
        if shard.high is not None:
            started = self.lpm_thread.submit(start, self.model, shard.high, self.spec).result()
            seconds, features = started.wait(), started.features
        began = time.perf_counter()
        table = shard_table(shard.plan.images.rows(), shard.low, features, self.spec)
        entry = write_or_adopt(shard.plan, table, self.spec)
        return dataclasses.replace(entry, seconds=round(seconds + time.perf_counter() - began, 3))


def write_or_adopt(plan: ShardPlan, table: pa.Table, spec: StoreSpec) -> ShardEntry:
    """Writes a shard, or takes the one that another preload of the same store wrote first."""
    try:
        return write_shard(plan.uri, table, spec)
    except ExistsError:
        found = adopted(plan.uri, spec)
        if found is None or not np.array_equal(found[1], plan.images.hashes()):
            raise
        return found[0]
