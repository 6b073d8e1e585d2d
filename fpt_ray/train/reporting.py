"""Trials in a worker, whoever started it: trained epoch by epoch, each reported with a checkpoint."""

import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import psutil
import torch
from torch import nn

from fpt_ray.config.tasks import TITLES
from fpt_ray.config.trial import TrialConfig
from fpt_ray.display.terminal import say
from fpt_ray.features.joining import Features
from fpt_ray.features.rows import RowReader
from fpt_ray.models.backbone import uses_bfloat16
from fpt_ray.models.device import DeviceError
from fpt_ray.models.hardware import Hardware, hardware_of
from fpt_ray.reading.places import Reading
from fpt_ray.search.messages import Message
from fpt_ray.storage.errors import disk_full_as_error
from fpt_ray.storage.files import failure_as_error
from fpt_ray.train.checkpoint import checkpoint_folders, load_checkpoint, save_checkpoint
from fpt_ray.train.seeds import Member, Progress, assignment_of, fit_seeds, message_of


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

    def saved(self) -> AbstractContextManager[str | None]:
        """The folder of the checkpoint to go on from."""
        ...

    def report(self, messages: Sequence[Message], folder: str | None) -> None:
        """Hands on an epoch of each trial and the folder of their checkpoint, which is of rank 0 alone."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainWork:
    """What every worker of a trial is told, or of several that train as one model."""

    members: tuple[Member, ...]
    """The trials; of several, all seeds train together."""
    stores: tuple[Features, ...]
    """Those that serve them."""
    reading: Reading
    planned: Hardware
    """What their identities and costs were told by: that of one of the workers."""
    together: bool = False
    """The seeds of one train as one model."""
    also: tuple[str, ...] = ()
    """Scores of the validation split beside the one that picks the best epoch."""
    run: str = ""
    """Where its checkpoints go, as the user knows it."""

    @property
    def trial(self) -> TrialConfig:
        """The first, which the others are of a shape with."""
        return self.members[0].trial

    @property
    def store(self) -> Features:
        """The one that serves the first; others are of the same images."""
        return self.stores[0]


def train_and_report(work: TrainWork, read: Callable[[str], RowReader], session: WorkerSession) -> None:
    """Trains trials with their seeds and reports every epoch; ``read`` gives this worker's rows of a split.

    Raises:
        ConfigError: the checkpoint to go on from is of another trial.
        DeviceError: this worker would compute in another type than was planned.
        FullError: there is no room for a checkpoint.
        StorageError: S3 fails.
    """
    for member in work.members:
        check_arithmetic(member.trial, hardware_of(session.device), work.planned)
    rows = {split: read(split) for split in ("train", "val")}
    with session.saved() as folder:
        resume = (
            [] if folder is None else [load_checkpoint(one) for one in checkpoint_folders(folder, len(work.members))]
        )
    assignment = replace(assignment_of(work.store, session.device, session.rank, session.num_workers), also=work.also)
    steps = fit_seeds(
        work.members,
        rows,
        assignment,
        started=session.started,
        together=work.together or len(work.members) > 1,
        prepare=session.prepare,
        resume=resume,
    )
    process = psutil.Process()
    process.cpu_percent()  # each call says what was used since the one before
    for each in steps:
        load = _load(process)
        messages = [message_of(one, member, load) for one, member in zip(each, work.members, strict=True)]
        with tempfile.TemporaryDirectory() as folder:
            if session.rank == 0:
                with disk_full_as_error(f"a checkpoint in {folder}"):
                    for progress, own in zip(each, checkpoint_folders(folder, len(each)), strict=True):
                        save_checkpoint(progress.checkpoint, own)
                _say_epochs(each if session.says_epochs else ())
            with disk_full_as_error(f"a checkpoint in {work.run}"), failure_as_error(work.run):
                session.report(messages, folder if session.rank == 0 else None)


def check_arithmetic(trial: TrialConfig, here: Hardware, planned: Hardware) -> None:
    """DeviceError where a trial would be computed in another type than its identity and its memory were told by."""
    types = ["bfloat16" if uses_bfloat16(trial.training.precision, one) else "float32" for one in (here, planned)]
    if types[0] != types[1]:
        raise DeviceError(
            f"training.precision auto is {types[0]} on {here.name} of the host {socket.gethostname()}, and {types[1]} "
            f"on {planned.name}, by which the training was planned; give training.precision float32 (to a search under "
            "another --study), or hosts of one kind"
        )


def _say_epochs(each: Sequence[Progress]) -> None:
    for progress in each:
        for epoch in progress.epochs:
            loss = "" if epoch.train_loss is None else f"loss {epoch.train_loss:.4f}, "
            say(f"epoch {epoch.number}: {loss}val {TITLES[progress.picked_by]} {epoch.val_score:.4f}")


def _load(process: psutil.Process) -> dict[str, float]:
    resident = process.memory_info().rss / 1e6
    return {"process_cpu_percentage": process.cpu_percent(), "process_memory_megabytes": resident}
