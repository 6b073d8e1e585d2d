"""One trial in a worker, whoever started it: trained epoch by epoch, each reported with a checkpoint."""

import tempfile
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from fpt_ray.config.trial import TrialConfig
from fpt_ray.cost.prediction import trial_costs
from fpt_ray.display.terminal import say
from fpt_ray.features.joining import Features
from fpt_ray.models.hardware import hardware_of
from fpt_ray.search.messages import EpochReport
from fpt_ray.storage.errors import disk_full_as_error
from fpt_ray.storage.files import failure_as_error
from fpt_ray.train.checkpoint import Checkpoint, save_checkpoint
from fpt_ray.train.loop import RowReader
from fpt_ray.train.seeds import epoch_report, fit_seeds, trial_task


@runtime_checkable
class WorkerSession(Protocol):
    """What stands around a worker: Tune, or Ray Train."""

    device: torch.device
    rank: int
    num_workers: int
    started: float
    """``time.perf_counter()`` as it began."""
    says_epochs: bool
    """Whether the worker says its epochs to the person at the terminal; in a search, the driver does."""

    def prepare(self, model: nn.Module) -> nn.Module:
        """Wraps a model for data-parallel training."""
        ...

    def saved(self) -> Checkpoint | None:
        """The checkpoint to go on from."""
        ...

    def report(self, report: EpochReport, folder: str | None) -> None:
        """Hands on an epoch and the folder of its checkpoint, which is of rank 0 alone."""
        ...


def train_and_report(
    trial: TrialConfig,
    seeds: int,
    store: Features,
    rows: Mapping[str, RowReader],
    session: WorkerSession,
    *,
    run: str,
    identity: str,
) -> None:
    """Trains a trial with its seeds and reports every epoch.

    ``rows`` are this worker's of the training and validation split; ``run`` is where checkpoints go, as the user
    knows it; ``identity`` is the digest of ``features.serving.trial_identity``.

    Raises:
        ConfigError: the checkpoint to go on from is of another trial.
        FullError: there is no room for a checkpoint.
        StorageError: S3 fails.
    """
    costs = trial_costs(trial, len(store.classes), hardware_of(session.device))
    task = trial_task(store, session.device, session.rank, session.num_workers)
    steps = fit_seeds(
        trial,
        seeds,
        rows,
        task,
        identity=identity,
        started=session.started,
        prepare=session.prepare,
        resume=session.saved(),
    )
    for progress in steps:
        report = epoch_report(progress, trial, seeds, costs)
        with tempfile.TemporaryDirectory() as folder:
            if session.rank == 0:
                with disk_full_as_error(f"a checkpoint in {folder}"):
                    save_checkpoint(progress.checkpoint, folder)
                if session.says_epochs:
                    epoch = progress.epoch
                    say(f"epoch {epoch.number}: loss {epoch.train_loss:.4f}, val AUC {epoch.val.auc:.4f}")
            with disk_full_as_error(f"a checkpoint in {run}"), failure_as_error(run):
                session.report(report, folder if session.rank == 0 else None)
