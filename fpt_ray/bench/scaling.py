"""How preloading and a search would scale over GPUs: a model of figures that were measured; nothing runs.

Trials take the first room that is free, in the order they were asked for; shards take the first free actor.
What is assumed:
- a trial trains as long as it did where it was recorded, divided by --speed, and the LPM takes as long for an image,
  divided by --preload_speed. Both are 1 unless given: as if a GPU were as fast as what was measured. Start-up, reports
  and the driver stay as they were;
- trials that share a GPU are as fast as alone; --per_gpu share one, fewer where their predicted memory needs more;
- the driver does what stands between one trial and the next (tell, ask, what Tune and MLflow write down) for one trial
  at a time, and as fast for thousands of trials as for the recorded ones;
- trials, their order and their epochs are the recorded ones, whatever a sampler that knew less would have proposed;
  the last column says for how many trials it had --startup_trials results to propose by;
- a host reads the shared features once, before its first trial: the driver's from storage, then the others one after
  the other from the driver's, all at --gigabytes_per_second;
- preloading takes --actor_seconds until its actors work; no shard is split, and cores decode as fast as GPUs extract;
- nothing fails, nothing is preempted, and all GPUs are there from the start;
- strong: the same work. Weak: the recorded images and trials once for every GPU.
"""

import bisect
import heapq
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fpt_ray.display.typesetting import Column, Table, text_column, typeset

WHOLE = 100
"""A GPU, in the hundredths that trials take of it."""
COUNTS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What one trial took, and what it takes of a GPU."""

    fit_seconds: float
    share: int = WHOLE
    """Hundredths of a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A finished study as it was recorded."""

    trials: tuple[Trial, ...]
    """In the order they were asked for."""
    startup_seconds: float
    """Of a trial in a worker that has run others: start-up, reports, all that is not training; the median."""
    worker_seconds: float
    """That the first trial of a worker took longer to start."""
    driver_seconds: float
    """Between the end of a trial and the start of the next; the median."""
    feature_bytes: int
    """That trials share."""
    shard_rows: tuple[int, ...]
    image_seconds: float
    """Of the LPM and of writing its features."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What is assumed of GPUs and hosts."""

    gpus_per_host: int = 8
    per_gpu: int = 1
    """Trials that share a GPU, at most."""
    gpu_gib: float = 80.0
    """Memory of a GPU, which limits how many trials share it."""
    speed: float = 1.0
    """Of a trial on a GPU, against where it was recorded."""
    preload_speed: float = 1.0
    """Of the LPM on a GPU, against where it was recorded."""
    actor_seconds: float = 15.0
    """From the start of preloading until its actors work; ``bench workers`` found 16 to 21 on two busy cores."""
    gigabytes_per_second: float = 1.0
    """From storage, and between hosts."""
    startup_trials: int = 10
    """Results a sampler needs before it proposes by them: a third of the space's num_trials, at most 10."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A trial or a shard."""

    seconds: float
    share: int = WHOLE


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """When a job was asked for, and when it had ended."""

    asked: float
    ended: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Scaled:
    """Preloading, or a search, on a number of GPUs; efficiencies are 1 where twice the GPUs give twice the speed."""

    seconds: float
    strong: float
    """The same work on one GPU, divided by all GPUs' seconds."""
    weak: float
    """Seconds on one GPU, divided by those of so many times the work."""
    limit: str
    """Which of ``bounds`` is nearest."""
    spans: tuple[Span, ...]


# --- the simulation -------------------------------------------------------------------------------------------


def schedule(jobs: Sequence[Job], ready: Sequence[float], driver_seconds: float = 0.0) -> list[Span]:
    """List scheduling: each job in its turn starts on the first GPU with room for its share.

    It does so once the driver, who serves one job at a time, has asked for it. ``ready`` says from when on each GPU can
    be used.
    """
    room = [0] * len(ready)
    released = [(seconds, gpu, WHOLE) for gpu, seconds in enumerate(ready)]
    heapq.heapify(released)
    now, driver_free, spans = 0.0, 0.0, []
    for job in jobs:
        while (gpu := next((gpu for gpu, free in enumerate(room) if free >= job.share), None)) is None:
            now, freed, share = heapq.heappop(released)
            room[freed] += share
        asked = max(now, driver_free)
        driver_free = asked + driver_seconds
        room[gpu] -= job.share
        spans.append(Span(asked=asked, ended=driver_free + job.seconds))
        heapq.heappush(released, (spans[-1].ended, gpu, job.share))
    return spans


def makespan(spans: Sequence[Span]) -> float:
    """Until the last one has ended."""
    return max(span.ended for span in spans)


def bounds(jobs: Sequence[Job], ready: Sequence[float], driver_seconds: float = 0.0) -> dict[str, float]:
    """Seconds that no order of these jobs can beat, by what forbids it."""
    first, longest = min(ready), max(job.seconds for job in jobs)
    return {
        "work": first + sum(job.seconds * job.share for job in jobs) / (WHOLE * len(ready)),
        "longest": first + driver_seconds + longest,
        "driver": first + driver_seconds * len(jobs) + min(job.seconds for job in jobs),
    }


def informed(spans: Sequence[Span], startup_trials: int) -> float:
    """Share of the trials that were asked for when the sampler knew enough results to propose by them."""
    ends = sorted(span.ended for span in spans)
    return statistics.fmean(bisect.bisect_right(ends, span.asked) >= startup_trials for span in spans)


# --- preloading and a search ----------------------------------------------------------------------------------


def preloading(workload: Workload, cluster: Cluster, gpus: int) -> Scaled:
    """Preloading with one actor a GPU."""
    seconds = workload.image_seconds / cluster.preload_speed
    shards = [Job(seconds=rows * seconds) for rows in workload.shard_rows]
    return _scaled(shards, [cluster.actor_seconds] * gpus, [cluster.actor_seconds], 0.0)


def search(workload: Workload, cluster: Cluster, gpus: int) -> Scaled:
    """The search of all trials."""
    jobs = search_jobs(workload, cluster.speed)
    ready, alone = (hosts_ready(workload, cluster, number) for number in (gpus, 1))
    return _scaled(jobs, ready, alone, workload.driver_seconds)


def search_jobs(workload: Workload, speed: float = 1.0) -> list[Job]:
    """The trials, in workers that have started."""
    return [
        Job(seconds=workload.startup_seconds + trial.fit_seconds / speed, share=trial.share)
        for trial in workload.trials
    ]


def hosts_ready(workload: Workload, cluster: Cluster, gpus: int) -> list[float]:
    """From when on each GPU can take trials: its host has the features, its workers have started."""
    copy = workload.feature_bytes / (cluster.gigabytes_per_second * 1e9)
    return [workload.worker_seconds + copy * (1 + gpu // cluster.gpus_per_host) for gpu in range(gpus)]


def _scaled(jobs: Sequence[Job], ready: Sequence[float], alone: Sequence[float], driver_seconds: float) -> Scaled:
    one = makespan(schedule(jobs, alone, driver_seconds))
    spans = schedule(jobs, ready, driver_seconds)
    more = makespan(schedule([*jobs] * len(ready), ready, driver_seconds))
    limits = bounds(jobs, ready, driver_seconds)
    return Scaled(
        seconds=makespan(spans),
        strong=one / (len(ready) * makespan(spans)),
        weak=one / more,
        limit=max(limits, key=lambda name: limits[name]),
        spans=tuple(spans),
    )


# --- what is printed ------------------------------------------------------------------------------------------


def scaling_text(workload: Workload, cluster: Cluster, counts: Sequence[int] = COUNTS) -> str:
    """A table of both over numbers of GPUs, below what it assumes."""
    assumptions = (__doc__ or "").partition("\n\n")[2].strip()
    preloaded = [preloading(workload, cluster, gpus) for gpus in counts]
    searched = [search(workload, cluster, gpus) for gpus in counts]
    known = [f"{informed(found.spans, cluster.startup_trials):.0%}" for found in searched]
    columns = [
        text_column("GPUs", map(str, counts)),
        *_scaled_columns("preloading", "shard", preloaded),
        *_scaled_columns("search", "trial", searched),
        text_column("informed trials", known),
    ]
    return f"{assumptions}\n\n{typeset(Table(notes=_given(workload, cluster), columns=columns), 'text')}"


def _given(workload: Workload, cluster: Cluster) -> tuple[str, str]:
    """What was recorded and what is assumed."""
    fits = [trial.fit_seconds for trial in workload.trials]
    at_once = WHOLE // max(trial.share for trial in workload.trials)
    recorded = (
        f"recorded: {len(fits)} trials, {sum(fits):,.0f} s of training (longest {max(fits):.1f} s); "
        f"{workload.startup_seconds:.2f} s beside it each, {workload.worker_seconds:.1f} s more in a new worker, "
        f"{workload.driver_seconds:.2f} s of the driver; {sum(workload.shard_rows)} images in "
        f"{len(workload.shard_rows)} shards, {workload.image_seconds:.3f} s each; "
        f"{workload.feature_bytes / 1e9:.2f} GB of features"
    )
    return recorded, f"assumed: {cluster}, {at_once} trials to a GPU"


def _scaled_columns(name: str, part: str, found: Sequence[Scaled]) -> list[Column]:
    """Columns of preloading or of the search, whose parts are shards or trials."""
    limits = [f"longest {part}" if one.limit == "longest" else one.limit for one in found]
    return [
        text_column(f"{name}, s", (f"{one.seconds:,.1f}" for one in found)),
        text_column("strong", (f"{one.strong:.1%}" for one in found)),
        text_column("weak", (f"{one.weak:.1%}" for one in found)),
        text_column("limit", limits, left=True),
    ]


# --- what was recorded ----------------------------------------------------------------------------------------


def recorded_driver_seconds(spans: Sequence[tuple[float, float]]) -> float:
    """The median time from the end of a trial to the start of the next one, of trials' (start, end)."""
    ends = sorted(end for _, end in spans)
    before = [(start, bisect.bisect_right(ends, start)) for start, _ in spans]
    gaps = [start - ends[number - 1] for start, number in before if number]
    return statistics.median(gaps) if gaps else 0.0


def recorded_startup_seconds(occupied: Sequence[float], fitted: Sequence[float]) -> tuple[float, float]:
    """(seconds beside training of a trial in a warm worker, what the first trial took more), of trials in order."""
    beside = [max(0.0, whole - fit) for whole, fit in zip(occupied, fitted, strict=True)]
    usual = statistics.median(beside)
    return usual, max(0.0, beside[0] - usual)
