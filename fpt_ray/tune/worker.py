"""What runs in a Tune worker: one trial, here or through Ray Train, over features that all trials of a host share."""

import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from fpt_ray.config.space import SearchSpace
from fpt_ray.config.trial import TrialConfig, image_resolution
from fpt_ray.cost.prediction import trial_costs
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.features.rows import Rows, rows_from_files, rows_from_tables
from fpt_ray.features.serving import feature_bytes, store_for, trial_slice
from fpt_ray.features.store import Store
from fpt_ray.models.weights import anchored
from fpt_ray.search.messages import HALT, NUMBER, OUT_OF_MEMORY, REASON, SEEDS, plain_values, seeded_trial
from fpt_ray.storage import s3
from fpt_ray.storage.errors import FullError, disk_full_as_error
from fpt_ray.storage.files import filesystem
from fpt_ray.train.checkpoint import load_checkpoint, save_checkpoint
from fpt_ray.train.loop import NonFiniteLossError
from fpt_ray.train.ray_train import Blocks, fits_in_memory, read_split, train
from fpt_ray.train.seeds import fit_seeds, outcome, trial_task
from fpt_ray.tune.resources import Packing


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """What all trials of a study read: blocks in Ray's shared memory (one copy a host), unless they stream."""

    space: SearchSpace
    stores: tuple[Store, ...]
    blocks: dict[str, Blocks]
    """{store's uri: {split: references to Arrow tables}}; empty where the features are streamed."""
    packing: Packing
    workdir: str
    """The study's: s3://bucket/prefix, or a folder that all hosts see."""
    folder: str
    """The driver's; relative paths of weights are found from there."""

    def costs(self, trial: TrialConfig) -> dict[str, float]:
        """What a trial costs, known before it is trained."""
        store = store_for(trial, self.stores)
        device = torch.device("cuda" if self.packing.gpu_bytes else "cpu")
        return {**trial_costs(trial, len(store.classes), device), "feature_bytes": float(feature_bytes(trial, store))}

    def resources(self, values: dict[str, Any]) -> dict[str, float]:
        """What a proposal's trial asks of Ray."""
        trial = self.space.trial(plain_values(values))
        return self.packing.trial(trial, self.costs(trial)["peak_memory_bytes"])


def run_trial(values: dict[str, Any], shared: Shared) -> None:
    """One trial, in the Tune worker itself or, with several workers, through Ray Train."""
    number, seeds = values[NUMBER], values[SEEDS]
    trial = seeded_trial(shared.space, values)
    trial = replace(trial, backbone=anchored(trial.backbone, shared.folder))
    store = store_for(trial, shared.stores)
    try:
        if shared.packing.workers > 1:
            _train_in_workers(trial, (number, seeds), store, shared)
        else:
            train_here(trial, seeds, store, shared)
    except (FullError, s3.StorageError) as error:
        tune.report({"epochs": 0, HALT: str(error)})
    except Exception as error:  # whatever it is, it belongs to this trial and must not end the search
        traceback.print_exc()
        tune.report({"epochs": 0, REASON: reason_of(error), **_memory_that_ran_out(error)})


def _memory_that_ran_out(error: Exception) -> dict[str, int]:
    """What had been allocated of a GPU when its memory was not enough."""
    if not isinstance(error, torch.cuda.OutOfMemoryError):
        return {}
    return {OUT_OF_MEMORY: torch.cuda.max_memory_allocated()}


def reason_of(error: Exception) -> str:
    """Why a trial came to no result, in one line; the whole of it is in the worker's log."""
    lines = str(error).strip().splitlines() or [""]
    expected = isinstance(error, (ConfigError, NonFiniteLossError))
    return lines[-1] if expected else f"{type(error).__name__}: {lines[-1]}"


def _train_in_workers(trial: TrialConfig, which: tuple[int, int], store: Store, shared: Shared) -> None:
    number, seeds = which
    system, runs = filesystem(f"{shared.workdir}/runs")
    run_config = ray.train.RunConfig(
        name=f"trial-{number:04d}",
        storage_path=runs,
        storage_filesystem=system,
        callbacks=[TuneReportCallback()],
    )
    blocks = shared.blocks.get(store.uri)
    train(
        trial,
        store,
        run_config,
        shared.packing.workers,
        seeds=seeds,
        resources=shared.packing.worker(trial, shared.costs(trial)["peak_memory_bytes"]),
        blocks=blocks,
        streamed=blocks is None,
    )


def train_here(trial: TrialConfig, seeds: int, store: Store, shared: Shared) -> None:
    """Trains in this process and reports every epoch, with a checkpoint, to Tune."""
    torch.set_num_threads(max(1, int(shared.packing.worker(trial, 0)["CPU"])))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started = time.perf_counter()
    costs = trial_costs(trial, len(store.classes), device)
    rows = {split: trial_rows(trial, store, split, shared) for split in ("train", "val")}
    resume = None
    if (saved := tune.get_checkpoint()) is not None:
        with saved.as_directory() as folder:
            resume = load_checkpoint(folder)
    for progress in fit_seeds(trial, seeds, rows, trial_task(store, device), resume=resume):
        numbers = outcome(progress, trial, seeds, costs, started)
        with tempfile.TemporaryDirectory() as folder:
            with disk_full_as_error(f"a checkpoint in {folder}"):
                save_checkpoint(progress.checkpoint, folder)
            with disk_full_as_error(f"a checkpoint in {shared.workdir}"), s3.failure_as_error(shared.workdir):
                tune.report(numbers, checkpoint=tune.Checkpoint.from_directory(folder))


def trial_rows(trial: TrialConfig, store: Store, split: str, shared: Shared) -> Rows:
    """A split as this trial sees it: views of the host's shared blocks, or streamed."""
    cut = trial_slice(trial, store)
    if store.uri not in shared.blocks:
        return rows_from_files(store, split, cut, image_resolution(trial))
    return rows_from_tables(ray.get(shared.blocks[store.uri][split]), store.spec, cut, image_resolution(trial))


def shared_features(space: SearchSpace, stores: Sequence[Store], packing: Packing, workdir: str) -> Shared:
    """Reads what the trials need once, if it fits into Ray's shared memory."""
    columns: dict[str, list[str]] = {}
    for wide in space.stores():
        store = store_for(wide, stores)
        wanted = store.columns(trial_slice(wide, store))
        columns[store.uri] = list(dict.fromkeys([*columns.get(store.uri, []), *wanted]))
    used = [store for store in stores if store.uri in columns]
    size = sum(store.column_bytes(columns[store.uri], ("train", "val")) for store in used)
    blocks: dict[str, dict[str, list[Any]]] = {}
    fits = fits_in_memory(size)
    if fits:
        for store in used:
            splits = {split: read_split(store, split, columns[store.uri]) for split in ("train", "val")}
            blocks[store.uri] = {split: dataset.to_arrow_refs() for split, dataset in splits.items()}
    how = "read once into shared memory" if fits else "streamed from Parquet by every trial"
    say(f"features: {size / 1e9:.2f} GB, {how}")
    return Shared(
        space=space,
        stores=tuple(stores),
        blocks=blocks,
        packing=packing,
        workdir=workdir,
        folder=str(Path.cwd()),
    )
