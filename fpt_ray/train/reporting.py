"""One trial in a worker, whoever started it: trained epoch by epoch, each reported with a checkpoint."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from fpt_ray.config.tasks import TITLES
from fpt_ray.config.trial import TrialConfig
from fpt_ray.display.terminal import say
from fpt_ray.features.joining import Features
from fpt_ray.reading.places import Reading
from fpt_ray.search.messages import EpochReport
from fpt_ray.storage.errors import disk_full_as_error
from fpt_ray.storage.files import failure_as_error
from fpt_ray.train.buffers import RowReader
from fpt_ray.train.checkpoint import Checkpoint, save_checkpoint
from fpt_ray.train.seeds import assignment_of, epoch_report, fit_seeds


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


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainWork:
    """What every worker of a trial is told."""

    trial: TrialConfig
    store: Features
    reading: Reading
    costs: Mapping[str, float]
    """What the trial costs, known before it is trained."""
    identity: str
    """Digest of ``features.serving.trial_identity``, of all that determines its numbers."""
    seeds: int = 1
    together: bool = False
    """Its seeds train as one model."""
    also: tuple[str, ...] = ()
    """Scores of the validation split beside the one that picks the best epoch."""
    run: str = ""
    """Where its checkpoints go, as the user knows it."""


def train_and_report(work: TrainWork, rows: Mapping[str, RowReader], session: WorkerSession) -> None:
    """Trains a trial with its seeds and reports every epoch; ``rows`` are this worker's of both splits.

    Raises:
        ConfigError: the checkpoint to go on from is of another trial.
        FullError: there is no room for a checkpoint.
        StorageError: S3 fails.
    """
    trial = work.trial
    assignment = replace(assignment_of(work.store, session.device, session.rank, session.num_workers), also=work.also)
    steps = fit_seeds(
        trial,
        work.seeds,
        rows,
        assignment,
        identity=work.identity,
        started=session.started,
        together=work.together,
        prepare=session.prepare,
        resume=session.saved(),
    )
    for progress in steps:
        report = epoch_report(progress, trial, work.seeds, work.costs)
        with tempfile.TemporaryDirectory() as folder:
            if session.rank == 0:
                with disk_full_as_error(f"a checkpoint in {folder}"):
                    save_checkpoint(progress.checkpoint, folder)
                for epoch in progress.epochs if session.says_epochs else ():
                    loss = "" if epoch.train_loss is None else f"loss {epoch.train_loss:.4f}, "
                    say(f"epoch {epoch.number}: {loss}val {TITLES[report.picked_by]} {epoch.val_score:.4f}")
            with disk_full_as_error(f"a checkpoint in {work.run}"), failure_as_error(work.run):
                session.report(report, folder if session.rank == 0 else None)
