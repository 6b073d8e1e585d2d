"""Trials' seeds, trained one after the other or together, and what is reported after each epoch."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from fpt_ray.config.tasks import SHARES
from fpt_ray.config.trial import TrialConfig, num_epochs, reads_images, reads_low_resolution, with_seed
from fpt_ray.features.joining import Features
from fpt_ray.features.rows import RowReader
from fpt_ray.metrics.scores import pme, ppe
from fpt_ray.models.loss import network_for
from fpt_ray.models.together import Together
from fpt_ray.reading.of_each import RowsOfEach
from fpt_ray.search.messages import EpochReport, Message, SeedEpoch, TrialFailure
from fpt_ray.train.checkpoint import Best, Checkpoint, Seconds, check_identity
from fpt_ray.train.evaluation import Assignment, picked_by
from fpt_ray.train.loop import Epoch, NonFiniteLossError, fit_together


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
    """Whether networks of its shape train faster as one: where asking for a step's operations takes much of its time.

    A side network's step on a CPU is bound by its arithmetic, and the LPM's everywhere; neighbours take no step.
    """
    return trial.method != "knn" and not reads_images(trial) and (device == "cuda" or not reads_low_resolution(trial))


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A trial that is trained, by itself or with others of its shape as one model."""

    trial: TrialConfig
    costs: Mapping[str, float]
    """What it costs alone, known before it is trained."""
    identity: str
    """Digest of ``features.serving.trial_identity``, of all that determines its numbers."""
    seeds: int = 1


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
    members: Sequence[Member],
    rows: Mapping[str, RowReader],
    assignment: Assignment,
    *,
    started: float,
    together: bool = False,
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
    resume: Sequence[Checkpoint] = (),
) -> Iterator[tuple[Progress, ...]]:
    """Trains a trial with several seeds, one after the other or ``together``, and yields after every epoch.

    Several trials of one shape (``config.trial.OF_EACH``) and as many seeds train all of them together; there is the
    progress of each, and a checkpoint to go on from of each or none. ``rows`` are the training and validation split;
    ``prepare`` wraps a model for data-parallel training; ``started`` is the ``time.perf_counter()`` at which this
    worker began. What trained when a checkpoint was made goes on as it was.

    Raises:
        ConfigError: what to resume is of another trial than a member's identity says.
        NonFiniteLossError: the only trial is lost, with one of its seeds.
    """
    for saved, member in zip(resume, members, strict=bool(resume)):
        check_identity(saved, member.identity, "resume")
    spent = [one.seconds for one in resume] or [Seconds()] * len(members)
    finished: list[tuple[Best, ...]] = [one.finished for one in resume] or [()] * len(members)
    current = [one.current for one in resume] or [()] * len(members)
    picks = picked_by(members[0].trial, assignment.target)
    while (first := len(finished[0])) < members[0].seeds:
        seeds = range(first, first + (len(current[0]) or (members[0].seeds - first if together else 1)))
        trials = [with_seed(member.trial, seed) for member in members for seed in seeds]
        model = prepare(_model(trials, assignment, apart=isinstance(rows["train"], RowsOfEach)))
        best = [tuple(one.best for one in each) for each in current]
        resumed = tuple(itertools.chain(*current))
        for epochs in fit_together(model, rows["train"], rows["val"], trials, assignment, resumed):
            each = [epochs[at : at + len(seeds)] for at in range(0, len(epochs), len(seeds))]
            best = [tuple(epoch.snapshot.best for epoch in own) for own in each]
            spent = [_longer(one, own) for one, own in zip(spent, each, strict=True)]
            worked = (time.perf_counter() - started) / len(members)
            if len(members) == 1:
                _require_learning(epochs)
            yield tuple(
                Progress(
                    epochs=own,
                    finished=ended,
                    seconds=replace(one, train=one.train + worked),
                    identity=member.identity,
                    picked_by=picks,
                )
                for own, ended, one, member in zip(each, finished, spent, members, strict=True)
            )
        finished, current = [ended + new for ended, new in zip(finished, best, strict=True)], [()] * len(members)


def _model(trials: Sequence[TrialConfig], assignment: Assignment, *, apart: bool) -> nn.Module:
    """The network of a trial, or those of several as one, as their seeds initialise them."""
    made = [network_for(trial, assignment.target).to(assignment.device) for trial in trials]
    return Together(made, apart=apart) if len(made) > 1 else made[0]


def _longer(spent: Seconds, epochs: Sequence[Epoch]) -> Seconds:
    """With these epochs; the time of the worker is added when it is asked."""
    return replace(
        spent,
        fit=spent.fit + sum(epoch.seconds for epoch in epochs),
        data=spent.data + sum(epoch.data_seconds for epoch in epochs),
    )


def _require_learning(epochs: Sequence[Epoch]) -> None:
    """NonFiniteLossError where one of a trial's seeds is lost, and the trial with it."""
    for epoch in epochs:
        if epoch.lost:
            raise NonFiniteLossError(epoch.lost)


def message_of(progress: Progress, member: Member, load: Mapping[str, float]) -> Message:
    """What is said of a trial after an epoch: its report, or why one of its seeds learns no more beside others."""
    lost = next((epoch.lost for epoch in progress.epochs if epoch.lost), None)
    return replace(epoch_report(progress, member), load=load) if lost is None else TrialFailure(reason=lost)


def epoch_report(progress: Progress, member: Member) -> EpochReport:
    """What is said of a trial after an epoch: of the epoch, and of the best epochs so far, averaged over the seeds."""
    trial, seeds, costs = member.trial, member.seeds, member.costs
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
