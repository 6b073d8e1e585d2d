"""The training loop: ``fit()``, a generator of epochs. Plain PyTorch: no Ray, no MLflow, no files.

Every random choice is keyed by (seed, epoch, row): order, augmentation and dropout of an image do not depend on how
many workers share the batch or on whether training was interrupted, so 1 and 2 workers, or a resumed and an
uninterrupted run, give the same numbers.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from fpt_ray.config.trial import TrainingConfig, TrialConfig
from fpt_ray.models.loss import keep_unit, make_loss
from fpt_ray.models.step import Learner, arithmetic_type, make_learner, take_step, unwrapped
from fpt_ray.models.summary_probes import NearestNeighbours
from fpt_ray.models.together import networks_in
from fpt_ray.train.buffers import RowReader, taken_ahead
from fpt_ray.train.checkpoint import Best, Snapshot
from fpt_ray.train.evaluation import (
    Assignment,
    evaluate,
    labels_of_all_workers,
    network_inputs,
    of_all_workers,
    outputs,
)
from fpt_ray.train.order import epoch_order
from fpt_ray.train.snapshots import better, go_on_from, snapshots


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message says when and what to try."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """One finished epoch of one seed. Epochs count from 1; seconds are this worker's, seeds together share them."""

    number: int
    train_loss: float | None
    """None where nothing is learnt."""
    val_score: float
    """On the validation split, by the score that picks the best epoch."""
    seconds: float
    data_seconds: float
    """Seconds spent waiting for rows, part of ``seconds``."""
    measured_peak_bytes: int | None
    """CUDA's own peak of allocated memory since the start, rows that are held there left out; nothing on a CPU, nor of
    one of several seeds together."""
    snapshot: Snapshot
    """All that is needed to go on from here, with the best weights so far; save it before asking for the next epoch."""

    @property
    def best_epoch(self) -> int:
        """The number of the best epoch so far."""
        return self.snapshot.best.epoch

    @property
    def best_val_score(self) -> float:
        """The score of the best epoch so far."""
        return self.snapshot.best.val_score


def fit(
    model: nn.Module,
    train: RowReader,
    val: RowReader,
    trial: TrialConfig,
    assignment: Assignment,
    resume: Snapshot | None = None,
) -> Iterator[Epoch]:
    """Trains one network: ``fit_together`` of one seed."""
    for (epoch,) in fit_together(model, train, val, trial, assignment, () if resume is None else (resume,)):
        yield epoch


def fit_together(
    model: nn.Module,
    train: RowReader,
    val: RowReader,
    trial: TrialConfig,
    assignment: Assignment,
    resume: Sequence[Snapshot],
) -> Iterator[tuple[Epoch, ...]]:
    """Trains and yields after every epoch (section 4.2.1: AdamW, cosine to 0 per step, cross-entropy).

    ``model`` is on the assignment's device, perhaps wrapped for data-parallel training, or the networks of several
    seeds ``Together``, from the trial's own on; there is an epoch of each, and something to go on from of each or none.
    The best epoch is the one of the highest score on the validation split. A network that learns nothing has one epoch,
    in which it sees every training image.

    Raises:
        NonFiniteLossError: the loss is not a number.
    """
    bare, done = unwrapped(model), 0
    if assignment.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(assignment.device)
    if isinstance(bare, NearestNeighbours):
        if not resume:
            yield (_remembered(bare, train, val, trial, assignment),)
        return
    labels = labels_of_all_workers(train, assignment)
    learner, best = _learner(model, labels, trial, assignment), [Best()] * networks_in(bare)
    if resume:
        go_on_from(learner, resume)
        best, done = [one.best for one in resume], resume[0].epoch
    for number in range(done + 1, trial.training.epochs + 1):
        started = time.perf_counter()
        losses, waited = _train_epoch(learner, train, labels, trial, assignment, number)
        found = evaluate(bare, val, trial, assignment)
        best = better(best, found, number, bare)
        seconds, held = time.perf_counter() - started, train.device_bytes + val.device_bytes
        yield tuple(
            Epoch(
                number=number,
                train_loss=loss,
                val_score=one.picking,
                seconds=seconds / len(best),
                data_seconds=waited / len(best),
                measured_peak_bytes=_measured_peak(assignment.device, held) if len(best) == 1 else None,
                snapshot=snapshot,
            )
            for loss, one, snapshot in zip(losses, found, snapshots(learner, number, best), strict=True)
        )


def _learner(model: nn.Module, labels: np.ndarray, trial: TrialConfig, assignment: Assignment) -> Learner:
    """What trains a network, by the labels of the whole training split."""
    training = trial.training
    steps = assignment.num_train // training.batch_size
    if steps == 0:
        raise ValueError(
            f"training.batch_size is {training.batch_size}, but there are {assignment.num_train} training images"
        )
    loss = make_loss(assignment.target, trial.loss, labels, assignment.device)
    keep_unit(unwrapped(model), loss)
    return make_learner(model, training, steps * training.epochs, arithmetic_type(training, assignment.device), loss)


def _remembered(
    model: NearestNeighbours, train: RowReader, val: RowReader, trial: TrialConfig, assignment: Assignment
) -> Epoch:
    """The epoch in which every training image is seen, whichever worker holds it, in the order of the row ids."""
    started = time.perf_counter()
    tokens, waited = outputs(model.unit_token, train, trial, assignment)
    tokens, labels = of_all_workers(train, tokens.numpy(), assignment)
    model.remember(torch.from_numpy(tokens), torch.as_tensor(labels), assignment.target.task)
    found = evaluate(model, val, trial, assignment)
    (best,) = better([Best()], found, 1, model)
    return Epoch(
        number=1,
        train_loss=None,
        val_score=found[0].picking,
        seconds=time.perf_counter() - started,
        data_seconds=waited,
        measured_peak_bytes=_measured_peak(assignment.device, train.device_bytes + val.device_bytes),
        snapshot=Snapshot(epoch=1, model=best.model, optimizer={}, schedule={}, best=best),
    )


def _train_epoch(
    learner: Learner, train: RowReader, labels: np.ndarray, trial: TrialConfig, assignment: Assignment, epoch: int
) -> tuple[list[float], float]:
    """One pass over the training split; returns each seed's mean loss over all workers and the seconds of reading."""
    training = trial.training
    seeds = range(training.seed, training.seed + networks_in(learner.model))
    balanced = labels if training.sampling == "balanced" else None
    orders = [epoch_order(assignment.num_train, training.batch_size, (seed, epoch), balanced) for seed in seeds]
    learner.model.train()
    total, waited = torch.zeros(len(seeds), device=assignment.device), 0.0
    share = training.batch_size // assignment.num_workers
    own = np.stack(orders, axis=1)[..., assignment.rank * share : (assignment.rank + 1) * share]
    taken = taken_ahead(train, own.reshape(len(own), -1), assignment.buffers)
    for step, ((_, batch, seconds), row_ids) in enumerate(zip(taken, own, strict=True), start=1):
        waited += seconds
        total += take_step(
            learner,
            (epoch - 1) * len(own) + step,
            partial(network_inputs, batch, row_ids, epoch, trial, assignment),
            lambda logits, labels=batch.labels: labels.to(logits.device),
            batch.weights,
        )
        if step % 16 == 0 or step == len(own):
            _require_finite(total.tolist(), epoch, step, training)
    mean = total / len(own)
    if assignment.num_workers > 1:
        dist.all_reduce(mean)
        mean /= assignment.num_workers
    return mean.tolist(), waited


def _require_finite(totals: Sequence[float], epoch: int, step: int, training: TrainingConfig) -> None:
    for repeat, total in enumerate(totals):
        if not math.isfinite(total):
            raise NonFiniteLossError(
                f"the loss is {total} in epoch {epoch} by step {step} (training.learning_rate "
                f"{training.learning_rate}, training.seed {training.seed + repeat}); try a lower learning rate, and "
                "check the features for NaN"
            )


def _measured_peak(device: torch.device, held_bytes: int) -> int | None:
    return torch.cuda.max_memory_allocated(device) - held_bytes if device.type == "cuda" else None
