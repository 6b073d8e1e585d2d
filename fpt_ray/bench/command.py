"""Measures the parts that decide, and shows what a model makes of it: seconds and bytes, as medians of several runs.

Machines are noisy: compare figures of one run, not of two.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from fpt_ray.bench.scaling import Cluster
from fpt_ray.bench.stages.settings import EpochSetting, GpuSetting, PreloadSetting, SearchSetting, ServeSetting
from fpt_ray.config.trial import BackboneConfig, TrialConfig
from fpt_ray.errors import ConfigError

_Setting = TypeVar("_Setting")
_Flat = Annotated[_Setting, tyro.conf.arg(name="")]
_Trial = _Flat[TrialConfig]
_RANDOM = TrialConfig(backbone=BackboneConfig(weights="random"))
"""The paper's configuration on weights that need not be had: what is timed does not depend on them."""
_CLUSTER, _PRELOAD, _EPOCH = Cluster(), PreloadSetting(), EpochSetting()
_SEARCH, _GPU, _SERVE = SearchSetting(), GpuSetting(), ServeSetting()


def preload(trial: _Trial = _RANDOM, setting: _Flat[PreloadSetting] = _PRELOAD, json: bool = False) -> None:
    """Time the LPM's features of an image, and the preload command, in turns with the authors' way of both.

    Args:
        trial: The configuration whose features are preloaded: FPT+, with any backbone and sizes.
        setting: What is preloaded.
        json: Print ratios and raw seconds as JSON.
    """
    from fpt_ray.bench.stages.extraction import extraction_text, measure_extraction
    from fpt_ray.bench.stages.turns import all_cores
    from fpt_ray.models.device import compute_device

    with all_cores():
        alone = measure_extraction(trial, setting.batch, setting.runs, compute_device())
    found, texts = alone.as_json(), [extraction_text(alone)]
    if setting.count:
        from fpt_ray.bench.stages.preload import measure_preload, preload_text

        with _folder() as folder:
            command = measure_preload(trial, setting, folder)
        speedups = {name: found[name] for name in ("speedup_bf16", "speedup_fp32")}
        found = command.as_json() | speedups | {"extraction": found}
        texts.append(preload_text(command))
    _print(found, "\n".join(texts), as_json=json)


def step(trial: _Trial = _RANDOM, runs: int = 9, json: bool = False) -> None:
    """Time one training step on features that are in memory, in turns with one as the authors' procedure takes it.

    Args:
        trial: The configuration that is trained: FPT+, with any sizes.
        runs: The number of pairs of steps that are timed.
        json: Print ratios and raw seconds as JSON.
    """
    from fpt_ray.bench.stages.step import measure_step, step_text
    from fpt_ray.models.device import compute_device

    times = measure_step(trial, runs, compute_device())
    _print(times.as_json(), step_text(times, trial.training.batch_size), as_json=json)


def epoch(trial: _Trial = _RANDOM, setting: _Flat[EpochSetting] = _EPOCH, json: bool = False) -> None:
    """Time an epoch from a feature store and from memory, in turns with one as the authors' procedure has it.

    Args:
        trial: The configuration that is trained: FPT+, with any sizes.
        setting: What an epoch is of.
        json: Print ratios and raw seconds as JSON.
    """
    from fpt_ray.bench.stages.epoch import epoch_text, measure_epoch
    from fpt_ray.models.device import compute_device

    with _folder() as folder:
        times = measure_epoch(trial, setting, folder, compute_device())
    _print(times.as_json(), epoch_text(times), as_json=json)


def search(trial: _Trial = _RANDOM, setting: _Flat[SearchSetting] = _SEARCH, json: bool = False) -> None:
    """Time a search of some points beside as many runs of the authors' procedure, which preload and train anew.

    Args:
        trial: The configuration in the middle of the space: FPT+, with any backbone and sizes.
        setting: What is searched, and how much of the authors' way is timed.
        json: Print the ratio and raw seconds as JSON.
    """
    from fpt_ray.bench.stages.search import measure_search, search_text

    with _folder() as folder:
        times = measure_search(trial, setting, folder)
    _print(times.as_json(), search_text(times), as_json=json)


def gpu(trial: _Trial = _RANDOM, setting: _Flat[GpuSetting] = _GPU, json: bool = False) -> None:
    """Measure a GPU without Ray: extraction, a step, several trials at once, memory beside its prediction.

    Args:
        trial: The configuration that is run: FPT+, with any backbone and sizes.
        setting: What the GPU is given.
        json: Print ratios, raw seconds and bytes as JSON.
    """
    from fpt_ray.bench.stages.gpu import gpu_text, measure_gpu

    figures = measure_gpu(trial, setting)
    _print(figures.as_json(), gpu_text(figures, trial.training.batch_size), as_json=json)


def serve(setting: _Flat[ServeSetting] = _SERVE, json: bool = False) -> None:
    """Time a served bundle on loopback in turns with a plain loop of predict; then send it good and bad requests.

    Args:
        setting: What is served, and how much it is asked.
        json: Print ratios and raw seconds as JSON.
    """
    from fpt_ray.bench.served.turns import measure_serving, serve_text

    with _folder() as folder:
        times = measure_serving(setting, folder)
    _print(times.as_json(), serve_text(times), as_json=json)


def read(rows: int = 48, runs: int = 9) -> None:
    """Time the copy of 16 rows out of a store in shared memory, at the paper's setting, whole and halved.

    Args:
        rows: The number of rows of the store.
        runs: The number of runs of each kind.
    """
    from fpt_ray.bench.reading import bench_read

    bench_read(rows, runs)


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
    result = read_result(client, study, uri, workdir)
    trials = recorded_curves(client, result)
    if result.score != "val_auc" or not trials:
        raise ConfigError(
            f"study {study!r} has {len(trials)} finished trials with a curve of the validation AUC, and is scored by "
            f"{result.score}; give one that is scored by val_auc and has ended"
        )
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
    from fpt_ray.bench.cores import measure, measured_line, measured_text

    measured = []
    with _folder() as folder:
        for one in measure(folder, rounds=rounds, count=count, epochs=epochs, quiet=quiet):
            print(measured_line(one), flush=True)
            measured.append(one)
    print(measured_text(measured))


def scaling(study: str, workdir: str = ".", cluster: _Flat[Cluster] = _CLUSTER) -> None:
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


def grow(
    axis: Literal["trials", "rows", "shards", "resolution", "ratio"],
    picture: Path | None = None,
    sizes: tuple[int, ...] = (),
) -> None:
    """Measure what users wait for against a size that grows, and fit the exponent of each.

    Args:
        axis: The size that grows: trials of a study; rows or shards of a store; resolution or kept tokens of an image.
        picture: A PNG to draw. Default: none is drawn.
        sizes: The sizes, ascending. Default: the axis's own.
    """
    from fpt_ray.bench.grow.axes import AXES
    from fpt_ray.bench.grow.growth import draw_grow, grow_text

    found = AXES[axis]
    with _folder() as folder:
        measured = list(found.measure(folder, sizes or found.sizes))
    print(grow_text(found, measured))
    if picture is not None:
        draw_grow(found, measured, picture)


@contextmanager
def _folder() -> Iterator[Path]:
    """An empty folder, which is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _print(found: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    print(dumps(found) if as_json else text)


VERBS = {
    "preload": preload,
    "step": step,
    "epoch": epoch,
    "search": search,
    "gpu": gpu,
    "serve": serve,
    "read": read,
    "startup": startup,
    "stopping": stopping,
    "workers": workers,
    "scaling": scaling,
    "grow": grow,
}
