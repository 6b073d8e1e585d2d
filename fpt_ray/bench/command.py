"""Measures the parts that decide, and shows what a model makes of it: seconds and bytes, as medians of several runs.

Machines are noisy: compare figures of one run, not of two.
"""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from fpt_ray.bench.scaling import Cluster
from fpt_ray.config.trial import Precision, TrialConfig

_PAPER, _CLUSTER = TrialConfig(), Cluster()


def extract(resolution: int = 512, depth: int = 6, runs: int = 3, batch: int = 2) -> None:
    """Time the forward pass of ViT-B/16 with features, with random weights, in float32 and bfloat16.

    Args:
        resolution: The side of the images in pixels.
        depth: The number of layers whose features are taken.
        runs: The number of runs of each kind.
        batch: The number of images a run.
    """
    from fpt_ray.bench.parts import bench_extract

    bench_extract(resolution, depth, runs, batch)


def step(trial: Annotated[TrialConfig, tyro.conf.arg(name="")] = _PAPER, runs: int = 9, json: bool = False) -> None:
    """Time one training step on features that are in memory, in turns with one as the authors' procedure takes it.

    Args:
        trial: The configuration that is trained: FPT+, with any sizes.
        runs: The number of pairs of steps that are timed.
        json: Print ratios and raw seconds as JSON.
    """
    from json import dumps

    from fpt_ray.bench.training_step import measure_step, step_text

    times = measure_step(trial, runs)
    print(dumps(times.as_json()) if json else step_text(times, trial.training.batch_size))


def read(rows: int = 48, runs: int = 9) -> None:
    """Time the copy of 16 rows out of a store in shared memory, at the paper's setting, whole and halved.

    Args:
        rows: The number of rows of the store.
        runs: The number of runs of each kind.
    """
    from fpt_ray.bench.parts import bench_read

    bench_read(rows, runs)


def preload(count: int = 48, size: int = 1024, precision: Precision = "auto") -> None:
    """Run the preload command on random images at the paper's setting: its seconds, and its processes' peak memory.

    Args:
        count: The number of images.
        size: The side of an image in pixels.
        precision: The arithmetic of the LPM.
    """
    from fpt_ray.bench.parts import bench_preload

    bench_preload(count, size, precision)


def startup(runs: int = 5) -> None:
    """Time the import of the package, the list of the commands, and the help of every command.

    Args:
        runs: The number of runs of each.
    """
    from fpt_ray.bench.startup import startup_text

    print(startup_text(runs))


def stopping(space: str, study: str, workdir: str = ".", orders: int = 100) -> None:
    """Tell what early stopping would have saved and lost in a study that was searched without it; nothing is trained.

    Args:
        space: The search space of the study: a YAML file, or the name of one that comes with fpt_ray.
        study: The name of the study.
        workdir: The working directory, whose mlflow.db has the study.
        orders: The number of random orders of the trials that are averaged.
    """
    from fpt_ray.bench.stopping import recorded_curves, stop_early
    from fpt_ray.config.space_yaml import load_space
    from fpt_ray.report.result import read_result
    from fpt_ray.tracking.server import default_uri, open_tracking

    uri, searched = default_uri(workdir), load_space(space)
    client = open_tracking(uri)
    trials = recorded_curves(client, read_result(client, study, uri, workdir))
    print(f"{len(trials)} trials, means over {orders} orders")
    for kind in ("asha", "median"):
        for fair, name in ((True, "among trials that cost no more"), (False, "on the validation AUC alone")):
            found = stop_early(searched, trials, kind, fair=fair, orders=orders)
            print(
                f"{kind} {name}: {found.epochs:.1%} of the epochs, {found.front:.1%} of the front's members trained to "
                f"their end, {found.volume:.1%} of its hyper-volume"
            )


def workers(rounds: int = 1, count: int = 60, epochs: int = 3, quiet: float = 1.0) -> None:
    """Run a preload and a search by one process and by two, and compare their cores with the model of ``scaling``.

    Args:
        rounds: The number of runs of each kind.
        count: The number of images; weak scaling takes twice as many.
        epochs: The number of epochs of eight trials; weak scaling takes sixteen trials.
        quiet: The share of the machine that others may take, at most, when a run starts; until then it waits.
    """
    import tempfile

    from fpt_ray.bench.cores import measure, measured_line, measured_text

    measured = []
    with tempfile.TemporaryDirectory() as folder:
        for one in measure(Path(folder), rounds=rounds, count=count, epochs=epochs, quiet=quiet):
            print(measured_line(one), flush=True)
            measured.append(one)
    print(measured_text(measured))


def scaling(study: str, workdir: str = ".", cluster: Annotated[Cluster, tyro.conf.arg(name="")] = _CLUSTER) -> None:
    """Model a preload and a finished study's search on 1 to 64 GPUs, and print what is assumed.

    Args:
        study: The name of the study.
        workdir: The working directory, whose mlflow.db has the study.
        cluster: What is assumed of GPUs and hosts.
    """
    from fpt_ray.bench.recorded import recorded_workload
    from fpt_ray.bench.scaling import scaling_text
    from fpt_ray.report.result import read_result
    from fpt_ray.tracking.server import default_uri, open_tracking

    uri = default_uri(workdir)
    result = read_result(open_tracking(uri), study, uri, workdir)
    print(scaling_text(recorded_workload(result, cluster.gpu_gib * 2**30, cluster.per_gpu), cluster))


def grow(axis: Literal["trials"], picture: Path | None = None, sizes: tuple[int, ...] = ()) -> None:
    """Measure what users wait for against a size that grows, and fit the exponent of each.

    Args:
        axis: The size that grows: of a made study, the number of its trials.
        picture: A PNG to draw. Default: none is drawn.
        sizes: The sizes, ascending. Default: the axis's own.
    """
    import tempfile

    from fpt_ray.bench.grow import AXES, draw_grow, grow_text

    found = AXES[axis]
    with tempfile.TemporaryDirectory() as folder:
        measured = list(found.measure(Path(folder), sizes or found.sizes))
    print(grow_text(found, measured))
    if picture is not None:
        draw_grow(found, measured, picture)


VERBS = {
    "extract": extract,
    "step": step,
    "read": read,
    "preload": preload,
    "startup": startup,
    "stopping": stopping,
    "workers": workers,
    "scaling": scaling,
    "grow": grow,
}
