"""Ray Train: a trial over several workers, each with Ray Data's shard of the rows it needs."""

import tempfile
import time
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
import ray.train
import ray.train.torch
from pyarrow.fs import S3FileSystem
from ray.data.dataset import MaterializedDataset
from ray.exceptions import RayTaskError
from typing_extensions import override

from fpt_ray.cluster import cluster_resources, computing_hosts, require_resources
from fpt_ray.config.trial import TrialConfig, image_resolution
from fpt_ray.cost.prediction import trial_costs
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.features.rows import Rows, rows_from_files, rows_from_tables
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.shards import read_shard
from fpt_ray.features.store import Store
from fpt_ray.storage import s3
from fpt_ray.storage.errors import disk_full_as_error
from fpt_ray.train.checkpoint import load_checkpoint, save_checkpoint
from fpt_ray.train.order import worker_rows
from fpt_ray.train.seeds import fit_seeds, outcome, trial_task

Blocks = dict[str, list[Any]]
"""{split: references to Arrow tables in Ray's shared memory}."""
SHARED_MEMORY_SHARE = 0.6
"""Of the object store's memory, what features may fill; beyond it they are streamed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What every worker is told."""

    trial: TrialConfig
    seeds: int
    store: Store
    blocks: Blocks | None
    streamed: bool
    run: str
    """Where its checkpoints go, as the user knows it."""


class WorkerShards(ray.train.DataConfig):
    """Gives worker r the r-th of the parts a split was cut into, so that it holds the rows of its own strands."""

    def __init__(self, parts: dict[str, list[Any]]) -> None:
        super().__init__()
        self.parts = parts

    @override
    def configure(self, datasets: Any, world_size: int, *_: Any, **__: Any) -> list[dict[str, Any]]:
        """One {split: iterator} for each worker."""
        return [{split: parts[rank].iterator() for split, parts in self.parts.items()} for rank in range(world_size)]


def split_rows(trial: TrialConfig, store: Store, num_workers: int) -> dict[str, list[range]]:
    """The rows of the training and validation split each worker holds."""
    num_val = store.num_rows("val")
    return {
        "train": worker_rows(store.num_rows("train"), trial.training.batch_size, num_workers),
        "val": [range(w * num_val // num_workers, (w + 1) * num_val // num_workers) for w in range(num_workers)],
    }


def fits_in_memory(size_bytes: int) -> bool:
    """Whether features of that size may be held in Ray's shared memory, of which every host needs a copy."""
    smallest = min((host.get("object_store_memory", 0.0) for host in computing_hosts()), default=0.0)
    return size_bytes < SHARED_MEMORY_SHARE * smallest


def read_split(store: Store, split: str, columns: list[str]) -> MaterializedDataset:
    """A split's columns in Ray's shared memory, read once, in the order of its rows; a task a file.

    Ray Data's own reader does not look at Parquet's page checksums.

    Raises:
        StoreError: a file is damaged or not of this store.
        StorageError: S3 fails.
    """
    read = ray.remote(read_shard)
    places = zip(store.shard_uris(split), store.row_ranges(split), strict=True)
    try:
        tables: Any = [read.remote(uri, columns, store.spec, rows) for uri, rows in places]
        return ray.data.from_arrow_refs(tables)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, ConfigError) else error from None


def train_worker(config: dict[str, Any]) -> None:
    """What one Ray Train worker does."""
    job: Job = config["job"]
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    trial, store = job.trial, job.store
    costs = trial_costs(trial, len(store.classes), device)
    rows = {split: _worker_split(job, split) for split in ("train", "val")}
    resume = None
    if (saved := ray.train.get_checkpoint()) is not None:
        with saved.as_directory() as folder:
            resume = load_checkpoint(folder)
    started = time.perf_counter()
    task = trial_task(store, device, rank, num_workers)
    prepare = ray.train.torch.prepare_model if num_workers > 1 else (lambda model: model)
    for progress in fit_seeds(trial, job.seeds, rows, task, prepare=prepare, resume=resume):
        numbers, epoch = outcome(progress, trial, job.seeds, costs, started), progress.epoch
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank == 0:
                with disk_full_as_error(f"a checkpoint in {folder}"):
                    save_checkpoint(progress.checkpoint, folder)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
                say(f"epoch {epoch.number}: loss {epoch.train_loss:.4f}, val AUC {epoch.val.auc:.4f}")
            with disk_full_as_error(f"a checkpoint in {job.run}"), s3.failure_as_error(job.run):
                ray.train.report(numbers, checkpoint=checkpoint)


def _worker_split(job: Job, split: str) -> Rows:
    cut, context = trial_slice(job.trial, job.store), ray.train.get_context()
    share = split_rows(job.trial, job.store, context.get_world_size())[split][context.get_world_rank()]
    if job.streamed:
        return rows_from_files(job.store, split, cut, image_resolution(job.trial)).within(share)
    if job.blocks is not None:
        tables = ray.get(job.blocks[split])
    else:
        shard = ray.train.get_dataset_shard(split)
        tables = list(shard.iter_batches(batch_size=None, batch_format="pyarrow"))  # type: ignore[union-attr]
    return rows_from_tables(tables, job.store.spec, cut, image_resolution(job.trial)).within(share)


def train(
    trial: TrialConfig,
    store: Store,
    run_config: ray.train.RunConfig,
    num_workers: int = 1,
    *,
    seeds: int = 1,
    resources: dict[str, float] | None = None,
    blocks: Blocks | None = None,
    streamed: bool = False,
) -> ray.train.Result:
    """Runs a trial under Ray Train and returns its result, with the last checkpoint.

    ``resources`` are those of one worker; a CPU, and a GPU where there are GPUs, if nothing is given.
    ``blocks`` are features that a study's trials share in Ray's memory; a trial cannot read them itself, since its
    placement group has no CPU for Ray Data's tasks. Else Ray Data reads what fits and hands every worker its shard.
    ``streamed``, or what does not fit, is read from the files by each worker.

    Raises:
        ConfigError: the batch cannot be divided among the workers, the cluster is too small, or the disk is full.
        StorageError: S3 fails.
    """
    if trial.training.batch_size % num_workers:
        raise ConfigError(
            f"training.batch_size is {trial.training.batch_size}; {num_workers} workers cannot share it equally"
        )
    _, gpus = cluster_resources()
    each = resources or {"CPU": 1, "GPU": 1 if gpus else 0}
    needed = {name.lower() + "s": share * num_workers for name, share in {"GPU": 0, **each}.items()}
    require_resources(f"training with {num_workers} workers", **needed)
    parts: dict[str, list[Any]] = {}
    if blocks is None and not streamed:
        columns = store.columns(trial_slice(trial, store))
        streamed = not fits_in_memory(store.column_bytes(columns, ("train", "val")))
        say(f"features: {'streamed from Parquet' if streamed else 'read once into shared memory'}")
        if not streamed:
            parts = _shards(trial, store, columns, num_workers)
    run = _where(run_config)
    job = Job(trial=trial, seeds=seeds, store=store, blocks=blocks, streamed=streamed, run=run)
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers, use_gpu=bool(each.get("GPU")), resources_per_worker=each
        ),
        run_config=run_config,
        datasets={split: part[0] for split, part in parts.items()},
        dataset_config=WorkerShards(parts),
    )
    try:
        return trainer.fit()
    except ray.train.WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, ConfigError):
                raise failure from None
        raise


def _where(run_config: ray.train.RunConfig) -> str:
    path = f"{run_config.storage_path}/{run_config.name}"
    return f"{s3.SCHEME}{path}" if isinstance(run_config.storage_filesystem, S3FileSystem) else path


def _shards(trial: TrialConfig, store: Store, columns: list[str], num_workers: int) -> dict[str, list[Any]]:
    """Ray Data's shards of both splits, one a worker."""
    shards: dict[str, list[Any]] = {}
    for split, ranges in split_rows(trial, store, num_workers).items():
        whole = read_split(store, split, columns)
        starts = [rows.start for rows in ranges[1:]]
        shards[split] = whole.split_at_indices(starts) if starts else [whole]
    return shards
