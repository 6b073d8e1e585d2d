"""A trial's seeds, trained one after the other, and what is reported after each epoch."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from fpt_ray.config.trial import TrialConfig, num_epochs
from fpt_ray.features.joining import Features
from fpt_ray.metrics.scores import pme, ppe
from fpt_ray.models.methods import make_model
from fpt_ray.search.messages import EpochReport
from fpt_ray.train.buffers import RowReader
from fpt_ray.train.checkpoint import Best, Checkpoint, Seconds, check_identity
from fpt_ray.train.loop import Epoch, Task, fit


def trial_task(store: Features, device: torch.device, rank: int = 0, num_workers: int = 1) -> Task:
    """What is learnt from this store, by one of several workers."""
    return Task(
        classes=store.classes,
        mean=store.spec.mean,
        std=store.spec.std,
        num_train=store.num_rows("train"),
        device=device,
        rank=rank,
        num_workers=num_workers,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """An epoch of one of a trial's seeds."""

    repeat: int
    """Which seed, from 0; the trial's own is the first."""
    epoch: Epoch
    earlier: tuple[Best, ...]
    """The best epochs of the seeds that are finished."""
    seconds: Seconds
    """So far, those of earlier workers of this trial included."""
    identity: str
    """Digest of all that determines the trial's numbers."""

    @property
    def checkpoint(self) -> Checkpoint:
        """All that is needed to go on from here."""
        return Checkpoint(
            identity=self.identity, seconds=self.seconds, finished=self.earlier, current=self.epoch.snapshot
        )


def fit_seeds(
    trial: TrialConfig,
    seeds: int,
    rows: Mapping[str, RowReader],
    task: Task,
    *,
    identity: str,
    started: float,
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
    resume: Checkpoint | None = None,
) -> Iterator[Progress]:
    """Trains a trial with several seeds, one after the other, and yields after every epoch.

    ``rows`` are the training and validation split; ``prepare`` wraps a model for data-parallel training; ``started`` is
    the ``time.perf_counter()`` at which this worker began.

    Raises:
        ConfigError: what to resume is of another trial than ``identity`` says.
    """
    if resume is not None:
        check_identity(resume, identity, "resume")
    before = resume.seconds if resume else Seconds()
    finished = list(resume.finished) if resume else []
    current = resume.current if resume else None
    spent, waited = 0.0, 0.0
    for repeat in range(len(finished), seeds):
        training = replace(trial.training, seed=trial.training.seed + repeat)
        seeded = replace(trial, training=training)
        model = prepare(make_model(seeded, len(task.classes)).to(task.device))
        best = current.best if current else Best()
        for epoch in fit(model, rows["train"], rows["val"], seeded, task, current):
            best = epoch.snapshot.best
            spent, waited = spent + epoch.seconds, waited + epoch.data_seconds
            yield Progress(
                repeat=repeat,
                epoch=epoch,
                earlier=tuple(finished),
                seconds=Seconds(
                    train=before.train + time.perf_counter() - started,
                    fit=before.fit + spent,
                    data=before.data + waited,
                ),
                identity=identity,
            )
        finished.append(best)
        current = None


def epoch_report(progress: Progress, trial: TrialConfig, seeds: int, costs: Mapping[str, float]) -> EpochReport:
    """What is said of a trial after an epoch: of the epoch, and of the best epochs so far, averaged over the seeds."""
    epoch = progress.epoch
    best = [*(one.val_auc for one in progress.earlier), epoch.best_val_auc]
    metrics = {
        "val_auc": statistics.fmean(best),
        "best_epoch": epoch.best_epoch,
        "ppe": ppe(statistics.fmean(best), costs["param_ratio"]),
        "pme": pme(statistics.fmean(best), costs["memory_ratio"]),
        "train_seconds": progress.seconds.train,
        "fit_seconds": progress.seconds.fit,
        "data_seconds": progress.seconds.data,
        **costs,
    }
    if len(best) > 1:
        metrics["val_auc_std"] = statistics.stdev(best)
    if epoch.measured_peak_bytes is not None:
        metrics["measured_peak_memory_bytes"] = epoch.measured_peak_bytes
    return EpochReport(
        epochs=progress.repeat * num_epochs(trial) + epoch.number,
        repeat=progress.repeat,
        epoch_of_seed=epoch.number,
        train_loss=epoch.train_loss,
        val_auc_epoch=epoch.val.auc,
        val_auc_seed=epoch.best_val_auc,
        epoch_seconds=epoch.seconds,
        finished=progress.repeat + 1 == seeds and epoch.number == num_epochs(trial),
        metrics=metrics,
    )
