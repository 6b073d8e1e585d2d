"""Ray Train: a trial over several workers, each with the shards in which its own rows lie."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import ray.data
import ray.train
import ray.train.torch
import torch
from torch import nn

from fpt_ray.cluster import require_resources, whole_worker
from fpt_ray.config.trial import TrialConfig
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import Features
from fpt_ray.features.rows import RowReader
from fpt_ray.models.device import compute_device
from fpt_ray.models.step import learns
from fpt_ray.reading.places import trial_rows
from fpt_ray.search.messages import Message, pack_messages
from fpt_ray.storage.files import located_in
from fpt_ray.train.loop import NonFiniteLossError
from fpt_ray.train.order import worker_rows
from fpt_ray.train.reporting import TrainWork, train_and_report


def split_rows(trial: TrialConfig, store: Features, num_workers: int) -> dict[str, list[range]]:
    """The rows of the training and validation split each worker holds."""
    num_val = store.num_rows("val")
    return {
        "train": worker_rows(store.num_rows("train"), trial.training.batch_size, num_workers),
        "val": [range(w * num_val // num_workers, (w + 1) * num_val // num_workers) for w in range(num_workers)],
    }


class TrainSession:
    """A Ray Train worker's surroundings."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank, self.num_workers = context.get_world_rank(), context.get_world_size()
        compute_device()  # Ray Train would take the CPU in the place of a GPU that PyTorch cannot use
        self.device: torch.device = ray.train.torch.get_device()
        self.started = time.perf_counter()
        self.says_epochs = True

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model itself where it has no other worker to agree with, or nothing to agree on."""
        return ray.train.torch.prepare_model(model) if self.num_workers > 1 and learns(model) else model

    def saved(self) -> AbstractContextManager[str | None]:
        """What an earlier worker of this run reported last."""
        saved = ray.train.get_checkpoint()
        return nullcontext() if saved is None else saved.as_directory()

    def report(self, messages: Sequence[Message], folder: str | None) -> None:
        """To Ray Train's controller, which polls."""
        checkpoint = None if folder is None else ray.train.Checkpoint.from_directory(folder)
        ray.train.report(pack_messages(*messages), checkpoint=checkpoint)


def train_worker(config: dict[str, Any]) -> None:
    """What one Ray Train worker does."""
    work: TrainWork = config["work"]
    session = TrainSession()
    train_and_report(work, lambda split: _worker_rows(work, split, session), session)


def _worker_rows(work: TrainWork, split: str, session: TrainSession) -> RowReader:
    share = split_rows(work.trial, work.store, session.num_workers)[split][session.rank]
    return trial_rows(work.trial, work.store, split, work.reading, session.device, share)


def train(
    work: TrainWork, run_config: ray.train.RunConfig, num_workers: int = 1, resources: Mapping[str, float] | None = None
) -> ray.train.Result:
    """Runs a trial under Ray Train and returns its result, with the last checkpoint.

    ``resources`` are those of one worker; a CPU, and a GPU where there are GPUs, if nothing is given.

    Raises:
        ConfigError: the batch cannot be divided among the workers, the cluster is too small, or the disk is full.
        StorageError: S3 fails.
    """
    batch_size = work.trial.training.batch_size
    if num_workers < 1:
        raise ConfigError(f"num_workers is {num_workers}; give 1 or more", fields=("num_workers",))
    if batch_size % num_workers:
        raise ConfigError(f"training.batch_size is {batch_size}; {num_workers} workers cannot share it equally")
    each = dict(resources or whole_worker())
    require_resources("training", cpus=each["CPU"], gpus=each.get("GPU", 0), workers=num_workers)
    work = replace(work, run=_where(run_config))
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config={"work": work},
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers, use_gpu=bool(each.get("GPU")), resources_per_worker=each
        ),
        run_config=run_config,
    )
    try:
        return trainer.fit()
    except ray.train.WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, ConfigError | OSError):
                raise failure from None
            if isinstance(failure, NonFiniteLossError):
                raise ConfigError(str(failure)) from None
        raise


def _where(run_config: ray.train.RunConfig) -> str:
    path = f"{run_config.storage_path}/{run_config.name}"
    return located_in(run_config.storage_filesystem, path)
