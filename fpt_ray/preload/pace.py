"""How fast extraction will be, by an image measured on a worker: it decides the layout of actors, and is announced."""

import heapq
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from fpt_ray.cluster import computing_hosts, require_resources, run_on_workers, working_hosts
from fpt_ray.features.shards import shard_table, write_shard
from fpt_ray.features.spec import StoreSpec, bytes_per_row
from fpt_ray.images.picture import smaller
from fpt_ray.images.table import ImageRow
from fpt_ray.models.hardware import Hardware
from fpt_ray.models.importance import Extracted
from fpt_ray.preload.batches import batch_images, extract_batches
from fpt_ray.preload.decoded import ImageSource, image_at
from fpt_ray.preload.extraction import READING_CPUS, SHARDS_AT_ONCE, Holder, Layout, Work, mapped_model
from fpt_ray.storage.errors import disk_full_as_error
from fpt_ray.storage.files import remove

_MEASURED = {"cpu": 4, "cuda": 64}
"""Images that are measured at first."""
_LONG_ENOUGH_S = 0.1
"""What takes less is measured of more images: of few small ones the time is that of the call or the file."""
_WRITTEN_BYTES = 2**20
"""Of a file that is written to be measured, where a few rows have less: a disk may be nearly full."""
_ACTOR_BYTES = 2 * 2**30
"""That an actor may need, with the shards that it has in hand."""
_SMALL_GPU_HOST = {"CPU": 4.0, "GPU": 1.0}
"""As small as hosts with a GPU come."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Seconds that an image takes on a worker, and a worker until it can begin."""

    start_s: float
    reading_s: float
    extraction_s: Mapping[int, float]
    """{threads of an actor: seconds, where actors of so many threads use all cores of their host}."""
    writing_s: float


# --- which layouts there are (pure) -------------------------------------------------------------------------------


def lpm_layouts(
    working: Sequence[Mapping[str, float]], computing: Sequence[Mapping[str, float]], shards: int
) -> list[Layout]:
    """The layouts of actors that run the LPM on the working hosts; each actor has room on any of them.

    With GPUs there is one actor for each, with a quarter of the CPUs that the host with the fewest has for each of its
    GPUs. Without, the actors of a host use all of its cores, with 1, 2, 4, ... threads each, and in Ray's books all but
    one CPU, which is left for tasks that read images. More actors than shards would be idle; all have room in memory.
    """
    cpus_there = sum(host.get("CPU", 0) for host in computing)
    gpus = sum(int(host.get("GPU", 0)) for host in working)
    if gpus:
        cpus = min(host.get("CPU", 0) / host["GPU"] for host in working) / 4
        actors = min(gpus, shards)
        readers = _readers(cpus_there - actors * cpus)
        return [Layout(actors=actors, cpus=cpus, gpus=1.0, threads=max(1, round(cpus)), readers=readers)]
    cores = [int(host["CPU"]) for host in working] or [1]
    smallest, found = min(cores), []
    room = min((host.get("memory", math.inf) for host in working), default=math.inf) / _ACTOR_BYTES
    for threads in [2**power for power in range(smallest.bit_length()) if 2**power < smallest] + [smallest]:
        on_smallest = smallest // threads
        cpus = (smallest - 1) / on_smallest if smallest > 1 else 0.5
        actors = sum(min(there // threads, int((there - 1) / cpus + 1e-9) if there > 1 else 1) for there in cores)
        if (actors <= shards and on_smallest <= room) or threads == smallest:
            actors = min(actors, shards)
            readers = _readers(cpus_there - actors * cpus)
            found.append(Layout(actors=actors, cpus=cpus, gpus=0.0, threads=threads, readers=readers))
    return found


def layouts_here(hardware: Hardware, shards: int) -> list[Layout]:
    """``lpm_layouts`` of this cluster.

    ``hardware`` is of the workers that run the LPM, of which none may be there now where hosts join by themselves.
    """
    working = working_hosts()
    if hardware.device == "cuda" and not any(host.get("GPU", 0) for host in working):
        working = [_SMALL_GPU_HOST]
    return lpm_layouts(working, computing_hosts(), shards)


def _readers(cpus: float) -> int:
    return max(1, int(cpus / READING_CPUS + 1e-9))


def estimated_seconds(layout: Layout, pace: Pace, sizes: Sequence[int]) -> float:
    """Seconds that shards of these numbers of images will take, from the start of the actors to the last file.

    Each shard goes to the actor that is free first. On a GPU reading, computing and writing run beside each other, and
    the slowest counts. On CPUs they share the cores of the actors.
    """
    reading, computing = pace.reading_s * layout.actors / layout.readers, pace.extraction_s[layout.threads]
    if layout.gpus:
        each = max(reading, computing, (computing + pace.writing_s) / SHARDS_AT_ONCE["cuda"])
    else:
        each = max(reading, computing + (pace.reading_s + pace.writing_s) / layout.threads)
    ends = [0.0] * layout.actors
    for size in sizes:
        heapq.heapreplace(ends, ends[0] + size * each)
    return pace.start_s + sizes[0] * pace.reading_s + max(ends) + sizes[-1] * pace.writing_s


def fastest(layouts: Sequence[Layout], pace: Pace, sizes: Sequence[int]) -> tuple[Layout, float]:
    """The layout that takes the least time, and its estimated seconds."""
    seconds = {layout: estimated_seconds(layout, pace, sizes) for layout in layouts}
    best = min(layouts, key=lambda layout: (seconds[layout], layout.actors))
    return best, seconds[best]


def writers(computing: Sequence[Mapping[str, float]], shards: int) -> Layout:
    """The layout where images alone are stored: an actor for each host, which writes what tasks read."""
    actors, cpus = max(1, min(len(computing), shards)), 0.5
    readers = _readers(sum(host.get("CPU", 0) for host in computing) - actors * cpus)
    return Layout(actors=actors, cpus=cpus, gpus=0.0, threads=1, readers=readers)


# --- measuring ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    """What a worker measures."""

    holder: Holder
    spec: StoreSpec
    source: ImageSource
    images: Sequence[tuple[float, ImageRow, Any]]
    """The share of all images that each stands for, and a reference to its pixels where they were kept."""
    beside: Mapping[int, int]
    """{threads of an actor: actors of a host}."""
    scratch: str
    """A folder in the storage of the features."""


def planned_layout(work: Work, hardware: Hardware, scratch: str) -> tuple[Layout, float]:
    """The fastest layout, and the seconds it will take, by an image or two that are measured on a worker.

    ``hardware`` is of the workers that run the LPM, see ``layouts_here``; ``scratch`` is a folder in the storage of the
    features.

    Raises:
        ConfigError: no host has room for an actor, or for a task that reads; an image fails.
    """
    sizes = [len(plan.images) for plan in work.plans]
    layouts = layouts_here(hardware, len(sizes)) if work.spec.blocks else [writers(computing_hosts(), len(sizes))]
    cores = max(layout.threads for layout in layouts)
    sample = _Sample(
        holder=work.holder,
        spec=work.spec,
        source=work.source,
        images=_samples(work),
        beside={layout.threads: 1 if layout.gpus else cores // layout.threads for layout in layouts},
        scratch=scratch,
    )
    share = {"CPU": max(layout.cpus for layout in layouts), "GPU": layouts[0].gpus}
    require_resources("an actor that runs the LPM", cpus=share["CPU"], gpus=share["GPU"])
    require_resources("reading images", cpus=READING_CPUS, gpus=0)
    began = time.perf_counter()
    ((_, (pace, busy_s)),) = run_on_workers({"pace": partial(_pace_here, sample)}, {"pace": share})
    return fastest(layouts, replace(pace, start_s=time.perf_counter() - began - busy_s), sizes)


def _samples(work: Work) -> list[tuple[float, ImageRow, Any]]:
    """An image that inspection has kept, and one that it has not."""
    found: dict[bool, tuple[ImageRow, Any]] = {}
    kept = whole = 0
    for plan in work.plans:
        for image in plan.images.rows():
            reference = work.kept(image)
            found[reference is not None] = (image, reference)
            kept, whole = kept + (reference is not None), whole + 1
    return [((kept if there else whole - kept) / whole, *pair) for there, pair in found.items()]


def _pace_here(sample: _Sample) -> tuple[Pace, float]:
    """A task: the pace, and how long it took to find it. Ray ends the process of a task that held a GPU."""
    models = [mapped_model(sample.holder) for _ in range(max(sample.beside.values()))]
    began, threads_before = time.perf_counter(), torch.get_num_threads()
    try:
        reading_s, high = 0.0, np.zeros(0, np.uint8)
        for share, image, kept in sample.images:
            seconds, high = _reading(sample.source, image, kept)
            reading_s += share * seconds
        features = None if models[0] is None else _warmed_up(models[0], high, sample.spec)
        extraction_s = {
            threads: 0.0 if features is None else _extraction(models[:beside], high, sample.spec, threads)
            for threads, beside in sample.beside.items()
        }
        writing_s = _writing(sample, high, features)
    finally:
        torch.set_num_threads(threads_before)
    pace = Pace(start_s=0.0, reading_s=reading_s, extraction_s=extraction_s, writing_s=writing_s)
    return pace, time.perf_counter() - began


def _warmed_up(model: Any, high: UInt8[np.ndarray, "R R 3"], spec: StoreSpec) -> Extracted:
    """By a thread that ends: the helpers of one that stays would count when OpenMP sees whether cores are left."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(extract_batches, model, high[None], spec).result()


def _reading(source: ImageSource, image: ImageRow, kept: Any) -> tuple[float, UInt8[np.ndarray, "R R 3"]]:
    """The second time counts, when all is warm."""
    image_at(source, image, kept)
    began = time.perf_counter()
    high = image_at(source, image, kept)
    smaller(high, source.sides)
    return time.perf_counter() - began, high


def _extraction(models: Sequence[Any], high: UInt8[np.ndarray, "R R 3"], spec: StoreSpec, threads: int) -> float:
    """Seconds of an image where so many models run beside each other; hooks are a model's, so that each has its own."""
    device = next(models[0].parameters()).device

    def extract_here(model: Any, images: UInt8[np.ndarray, "B R R 3"]) -> None:
        torch.set_num_threads(threads)
        extract_batches(model, images, spec)

    with ThreadPoolExecutor(len(models)) as pool:

        def seconds_of(number: int) -> float:
            images = [np.repeat(high[None], number, axis=0)] * len(models)
            began = time.perf_counter()
            list(pool.map(extract_here, models, images))
            return time.perf_counter() - began

        return seconds_each(seconds_of, _MEASURED.get(device.type, 1), batch_images(spec, device))


def seconds_each(seconds_of: Callable[[int], float], first: int, most: int) -> float:
    """Seconds of an image, of as many as take long enough to be measured."""
    number = min(first, most)
    while (seconds := seconds_of(number)) < _LONG_ENOUGH_S and number < most:
        number = min(4 * number, most)
    return seconds / number


def _writing(sample: _Sample, high: UInt8[np.ndarray, "R R 3"], features: Extracted | None) -> float:
    """Seconds to encode and write an image, as one of some in a file that is removed again."""
    (_, image, _), lows = sample.images[-1], smaller(high, sample.source.sides)

    def seconds_of(number: int) -> float:
        rows, repeated = [0] * number, features
        if features is not None:
            assert features.summaries is not None
            kinds = (features.keys[:, rows], features.values[:, rows], features.tokens[:, rows])
            repeated = Extracted(*kinds, features.summaries[:, :, rows])
        low, name = [np.stack([one for _ in rows]) for one in lows], f".{uuid.uuid4().hex}.tmp"
        began = time.perf_counter()
        with disk_full_as_error(sample.scratch):
            table = shard_table([image for _ in rows], low, repeated, sample.spec)
            write_shard(f"{sample.scratch}/{name}", table, sample.spec)
        seconds = time.perf_counter() - began
        remove(sample.scratch, [name])
        return seconds

    return seconds_each(
        seconds_of, _MEASURED["cpu"], max(_MEASURED["cpu"], _WRITTEN_BYTES // bytes_per_row(sample.spec))
    )
