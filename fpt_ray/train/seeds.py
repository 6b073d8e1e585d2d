"""A trial's seeds, trained one after the other or together, and what is reported after each epoch."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from fpt_ray.config.tasks import SHARES
from fpt_ray.config.trial import TrialConfig, num_epochs, reads_images, reads_low_resolution, with_seed
from fpt_ray.features.joining import Features
from fpt_ray.metrics.scores import pme, ppe
from fpt_ray.models.loss import network_for
from fpt_ray.models.together import Together
from fpt_ray.search.messages import EpochReport, SeedEpoch
from fpt_ray.train.buffers import RowReader
from fpt_ray.train.checkpoint import Best, Checkpoint, Seconds, check_identity
from fpt_ray.train.evaluation import Assignment, picked_by
from fpt_ray.train.loop import Epoch, fit_together


def assignment_of(store: Features, device: torch.device, rank: int = 0, num_workers: int = 1) -> Assignment:
    """What is learnt from this store, by one of several workers."""
    return Assignment(
        target=store.target,
        mean=store.spec.mean,
        std=store.spec.std,
        num_train=store.num_rows("train"),
        device=device,
        rank=rank,
        num_workers=num_workers,
    )


def gains_together(trial: TrialConfig, device: str) -> bool:
    """Whether a trial's seeds train faster as one model: where asking for a step's operations takes much of its time.

    A side network's step on a CPU is bound by its arithmetic, and the LPM's everywhere; neighbours take no step.
    """
    return trial.method != "knn" and not reads_images(trial) and (device == "cuda" or not reads_low_resolution(trial))


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """An epoch of one of a trial's seeds, or of several that train together."""

    epochs: tuple[Epoch, ...]
    """Of the seeds after those that are finished; the trial's own is the first."""
    finished: tuple[Best, ...]
    """The best epochs of the seeds that are finished."""
    seconds: Seconds
    """So far, those of earlier workers of this trial included."""
    identity: str
    """Digest of all that determines the trial's numbers."""
    picked_by: str
    """The score on the validation split that picks the best epochs."""

    @property
    def checkpoint(self) -> Checkpoint:
        """All that is needed to go on from here."""
        current = tuple(epoch.snapshot for epoch in self.epochs)
        return Checkpoint(identity=self.identity, seconds=self.seconds, finished=self.finished, current=current)


def fit_seeds(
    trial: TrialConfig,
    seeds: int,
    rows: Mapping[str, RowReader],
    assignment: Assignment,
    *,
    identity: str,
    started: float,
    together: bool = False,
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
    resume: Checkpoint | None = None,
) -> Iterator[Progress]:
    """Trains a trial with several seeds, one after the other or ``together``, and yields after every epoch.

    ``rows`` are the training and validation split; ``prepare`` wraps a model for data-parallel training; ``started`` is
    the ``time.perf_counter()`` at which this worker began. What trained when a checkpoint was made goes on as it was.

    Raises:
        ConfigError: what to resume is of another trial than ``identity`` says.
    """
    if resume is not None:
        check_identity(resume, identity, "resume")
    before = resume.seconds if resume else Seconds()
    finished = resume.finished if resume else ()
    current = resume.current if resume else ()
    spent, waited, picks = 0.0, 0.0, picked_by(trial, assignment.target)
    while len(finished) < seeds:
        first, left = len(finished), seeds - len(finished)
        model = prepare(_model(trial, first, len(current) or (left if together else 1), assignment))
        best = tuple(one.best for one in current)
        for epochs in fit_together(model, rows["train"], rows["val"], with_seed(trial, first), assignment, current):
            best = tuple(epoch.snapshot.best for epoch in epochs)
            spent += sum(epoch.seconds for epoch in epochs)
            waited += sum(epoch.data_seconds for epoch in epochs)
            seconds = Seconds(
                train=before.train + time.perf_counter() - started, fit=before.fit + spent, data=before.data + waited
            )
            yield Progress(epochs=epochs, finished=finished, seconds=seconds, identity=identity, picked_by=picks)
        finished, current = finished + best, ()


def _model(trial: TrialConfig, first: int, count: int, assignment: Assignment) -> nn.Module:
    """The network of a seed, or those of several from it on as one, as the seeds initialise them."""
    made = [network_for(with_seed(trial, first + at), assignment.target).to(assignment.device) for at in range(count)]
    return Together(made) if count > 1 else made[0]


def epoch_report(progress: Progress, trial: TrialConfig, seeds: int, costs: Mapping[str, float]) -> EpochReport:
    """What is said of a trial after an epoch: of the epoch, and of the best epochs so far, averaged over the seeds."""
    epochs, finished, picks = progress.epochs, len(progress.finished), progress.picked_by
    bests = progress.checkpoint.best
    found = [one.val_score for one in bests]
    metrics = {
        **{f"val_{name}": statistics.fmean(one.scores[name] for one in bests) for name in bests[-1].scores},
        f"val_{picks}": statistics.fmean(found),
        "best_epoch": epochs[-1].best_epoch,
        "train_seconds": progress.seconds.train,
        "fit_seconds": progress.seconds.fit,
        "data_seconds": progress.seconds.data,
        **costs,
    }
    if picks in SHARES:
        metrics["ppe"] = ppe(statistics.fmean(found), costs["param_ratio"])
        metrics["pme"] = pme(statistics.fmean(found), costs["memory_ratio"])
    if len(found) > 1:
        metrics[f"val_{picks}_std"] = statistics.stdev(found)
    if epochs[-1].measured_peak_bytes is not None:
        metrics["measured_peak_memory_bytes"] = epochs[-1].measured_peak_bytes
    return EpochReport(
        epochs=finished * num_epochs(trial) + sum(epoch.number for epoch in epochs),
        seeds=tuple(
            SeedEpoch(
                repeat=repeat,
                epoch=epoch.number,
                train_loss=epoch.train_loss,
                val_score_epoch=epoch.val_score,
                val_score=epoch.best_val_score,
            )
            for repeat, epoch in enumerate(epochs, start=finished)
        ),
        epoch_seconds=sum(epoch.seconds for epoch in epochs),
        finished=finished + len(epochs) == seeds and epochs[-1].number == num_epochs(trial),
        picked_by=picks,
        metrics=metrics,
    )
