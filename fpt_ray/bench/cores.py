"""What a second process gives to preloading and to a search, in cores: both as users run them, one thread a process.

Preloading counts its actors as on GPUs: Ray is told of one or two that do not exist, and each actor takes a core.
"""

import itertools
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from fpt_ray.bench.recorded import recorded_spans, recorded_workload
from fpt_ray.bench.scaling import Job, makespan, schedule, search_jobs
from fpt_ray.cluster import ray_session
from fpt_ray.config.space import StoreNeed
from fpt_ray.config.space_yaml import load_space
from fpt_ray.demo.material import write_images
from fpt_ray.errors import ConfigError
from fpt_ray.preload.pipeline import preload
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.study import run_study

_SPACE = """
space:
  training.seed: {{choices: {seeds}}}
  side.num_prompts: {{choices: [8, 32]}}
  side.depth: {{choices: [2, 6]}}
  side.resolution: {{choices: [64, 128]}}
fixed:
  backbone.name: vit_base_patch16_224
  backbone.weights: random
  features.resolution: 224
  training.epochs: {epochs}
objectives: {{val_auc: max}}
sampler: grid
"""
_CASES = ((1, 1), (2, 1), (2, 2))
"""(processes, times the work)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Preloading or a search, run once."""

    work: str
    processes: int
    seconds: float
    jobs: tuple[Job, ...]
    """Its shards or trials, as ``scaling`` sees them."""
    ready: float
    """Before its first job, likewise; of preloading, what its shards leave of its seconds."""
    driver_seconds: float
    times: int = 1
    """The work of the smallest run, so many times."""
    busy: float = 0.0
    """Share of the machine that was taken before."""


def measure(folder: Path, *, rounds: int, count: int, epochs: int, quiet: float) -> Iterator[Measured]:
    """Preloading and a search, each by one process, by two, and by two with twice the work, in turns.

    Raises:
        ConfigError: processes would compute on something else than one core each.
    """
    if torch.cuda.is_available() or os.environ.get("OMP_NUM_THREADS") != "1":
        raise ConfigError("cores are measured on a machine without GPUs and with OMP_NUM_THREADS=1 in the environment")
    for times in (1, 2):
        write_images(folder / f"images{times}", count=times * count, size=224)
        space = _SPACE.format(seeds=list(range(times)), epochs=epochs)
        (folder / f"trials{times}.yaml").write_text(space)
    need = load_space(folder / "trials1.yaml").stores()[0]
    trial = need.trial
    # Rows as wide as they can be make several shards of few images.
    wide = replace(trial, features=replace(trial.features, token_ratio=1.0), side=replace(trial.side, depth=12))
    need = replace(need, trial=wide)
    for number, (processes, times) in itertools.product(range(rounds), _CASES):
        busy = _busy(quiet)
        found = _preloading(need, folder / f"images{times}", folder / f"{number}-{processes}-{times}", processes)
        yield replace(found, times=times, busy=busy)
    store = next((folder / "0-1-1" / "features").iterdir())
    for number, (processes, times) in itertools.product(range(rounds), _CASES):
        busy = _busy(quiet)
        found = _search(
            folder / f"trials{times}.yaml",
            folder / "images1",
            store,
            folder / f"{number}-{processes}-{times}",
            processes,
        )
        yield replace(found, times=times, busy=busy)


def _busy(quiet: float) -> float:
    """Waits until the machine is no busier than that; how busy it is."""
    while (busy := psutil.cpu_percent(3.0) / 100) > quiet:
        pass
    return busy


def _preloading(need: StoreNeed, images: Path, workdir: Path, processes: int) -> Measured:
    os.environ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"] = "1"  # what Ray counts there are cores, and no GPUs
    with ray_session(local=True, num_cpus=processes, num_gpus=processes):
        started = time.perf_counter()
        store = preload(str(images), need, str(workdir))
        seconds = time.perf_counter() - started
    return Measured(
        work="preloading",
        processes=processes,
        seconds=seconds,
        jobs=tuple(Job(seconds=shard.seconds) for shard in store.shards),
        ready=max(0.0, seconds - store.preload_seconds / processes),
        driver_seconds=0.0,
    )


def _search(space: Path, images: Path, store: Path, workdir: Path, processes: int) -> Measured:
    options = StudyOptions(
        space=str(space),
        images=str(images),
        features=(str(store),),
        workdir=str(workdir),
        study="search",
        local=True,
    )
    with ray_session(local=True, num_cpus=processes):
        result = run_study(options)
    spans = recorded_spans(result.trials)
    workload = recorded_workload(result, gpu_bytes=2**40, per_gpu=1)
    return Measured(
        work="a search",
        processes=processes,
        seconds=max(end for _, end in spans) - min(start for start, _ in spans),
        jobs=tuple(search_jobs(workload)),
        ready=workload.worker_seconds,
        driver_seconds=workload.driver_seconds,
    )


def expected(reference: Measured, processes: int, times: int) -> float:
    """Seconds by the model of ``scaling``, from the parts of a run of one process."""
    ready = [reference.ready] * processes
    return makespan(schedule(reference.jobs * times, ready, reference.driver_seconds))


def measured_line(one: Measured) -> str:
    """A run as a line."""
    return (
        f"{one.work}, {one.processes} at once: {one.seconds:.1f} s for {len(one.jobs)} jobs that took "
        f"{sum(job.seconds for job in one.jobs):.1f} s added up, of which the model makes "
        f"{expected(one, one.processes, 1):.1f} s; the machine was {one.busy:.0%} busy before"
    )


def measured_text(measured: Sequence[Measured]) -> str:
    """Medians over the rounds, and their efficiencies beside those of the model."""
    lines = []
    for work in dict.fromkeys(one.work for one in measured):
        runs = {(one.processes, one.times): [] for one in measured}
        for one in measured:
            if one.work == work:
                runs[one.processes, one.times].append(one)
        real = [statistics.median(one.seconds for one in runs[case]) for case in _CASES]
        model = [statistics.median(expected(one, *case) for one in runs[1, 1]) for case in _CASES]
        lines += [f"{work}, {name}: {_efficiencies(*three)}" for name, three in (("measured", real), ("model", model))]
    return "\n".join(lines)


def _efficiencies(alone: float, strong: float, weak: float) -> str:
    return (
        f"{alone:.1f} s alone; two at once {strong:.1f} s (strong scaling {alone / 2 / strong:.0%}), "
        f"with twice the work {weak:.1f} s (weak scaling {alone / weak:.0%})"
    )
