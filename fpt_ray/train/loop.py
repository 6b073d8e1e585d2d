"""The training loop: ``fit()``, a generator of epochs. Plain PyTorch: no Ray, no MLflow, no files.

Every random choice is keyed by (seed, epoch, row): order, augmentation and dropout of an image do not depend on how
many workers share the batch or on whether training was interrupted, so 1 and 2 workers, or a resumed and an
uninterrupted run, give the same numbers.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import nn

from fpt_ray.config.trial import TrainingConfig, TrialConfig
from fpt_ray.features.rows import RowReader
from fpt_ray.models.loss import keep_unit, make_loss
from fpt_ray.models.step import Learner, arithmetic_type, make_learner, take_step, unwrapped
from fpt_ray.models.summary_probes import NearestNeighbours
from fpt_ray.models.together import Together
from fpt_ray.train.buffers import Taken, taken_ahead
from fpt_ray.train.checkpoint import Best, Snapshot
from fpt_ray.train.evaluation import (
    Assignment,
    batches_of,
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
    lost: str
    """Why the network learns no more, while others beside it do; empty as long as it learns."""
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
    """Trains one network: ``fit_together`` of one."""
    for (epoch,) in fit_together(model, train, val, (trial,), assignment, () if resume is None else (resume,)):
        yield epoch


def fit_together(
    model: nn.Module,
    train: RowReader,
    val: RowReader,
    trials: Sequence[TrialConfig],
    assignment: Assignment,
    resume: Sequence[Snapshot],
) -> Iterator[tuple[Epoch, ...]]:
    """Trains and yields after every epoch (section 4.2.1: AdamW, cosine to 0 per step, cross-entropy).

    ``model`` is the network of a trial on the assignment's device, perhaps wrapped for data-parallel training, or those
    of several ``Together``, whose trials differ in nothing but ``config.trial.OF_EACH``; there is an epoch of each, and
    something to go on from of each or none. The best epoch is the one of the highest score on the validation split. A
    network that learns nothing has one epoch, in which it sees every training image. Of several, one whose loss is no
    number is lost for itself and stays among the others; when all are, training ends.

    Raises:
        NonFiniteLossError: the loss of the only network is no number.
    """
    bare, done = unwrapped(model), 0
    if assignment.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(assignment.device)
    if isinstance(bare, NearestNeighbours):
        if not resume:
            yield (_remembered(bare, train, val, trials[0], assignment),)
        return
    labels = labels_of_all_workers(train, assignment)
    learner, best = _learner(model, labels, trials, assignment), [Best()] * len(trials)
    if resume:
        go_on_from(learner, resume)
        best, done = [one.best for one in resume], resume[0].epoch
    epochs = range(done + 1, trials[0].training.epochs + 1)
    in_val = batches_of(bare, val, trials[0])
    orders = (_worker_order(labels, trials, assignment, number) for number in epochs)
    asked = ((rows, ids) for order in orders for rows, batches in ((train, order), (val, in_val)) for ids in batches)
    with closing(taken_ahead(asked, assignment.buffers)) as taken:
        for number in epochs:
            started = time.perf_counter()
            losses, waited = _train_epoch(learner, taken, trials, assignment, number)
            found = evaluate(bare, val, trials[0], assignment, taken)
            _lose(learner, "score", [one.picking for one in found], f"after epoch {number}", trials)
            best = better(best, found, number, bare)
            seconds, held = time.perf_counter() - started, train.device_bytes + val.device_bytes
            yield tuple(
                Epoch(
                    number=number,
                    train_loss=loss,
                    val_score=one.picking,
                    lost=learner.lost.get(at, ""),
                    seconds=seconds / len(best),
                    data_seconds=waited / len(best),
                    measured_peak_bytes=_measured_peak(assignment.device, held) if len(best) == 1 else None,
                    snapshot=snapshot,
                )
                for at, (loss, one, snapshot) in enumerate(
                    zip(losses, found, snapshots(learner, number, best), strict=True)
                )
            )
            if len(learner.lost) == len(trials):
                return


def _learner(model: nn.Module, labels: np.ndarray, trials: Sequence[TrialConfig], assignment: Assignment) -> Learner:
    """What trains a model's networks, by the labels of the whole training split."""
    training = trials[0].training
    steps = assignment.num_train // training.batch_size
    if steps == 0:
        raise ValueError(
            f"training.batch_size is {training.batch_size}, but there are {assignment.num_train} training images"
        )
    loss = make_loss(assignment.target, trials[0].loss, labels, assignment.device)
    keep_unit(unwrapped(model), loss)
    arithmetic = arithmetic_type(training, assignment.device)
    return make_learner(model, [one.training for one in trials], steps * training.epochs, arithmetic, loss)


def _remembered(
    model: NearestNeighbours, train: RowReader, val: RowReader, trial: TrialConfig, assignment: Assignment
) -> Epoch:
    """The epoch in which every training image is seen, whichever worker holds it, in the order of the row ids."""
    started = time.perf_counter()
    tokens, waited = outputs(model.unit_token, train, trial, assignment)
    tokens, labels = of_all_workers(train, tokens.numpy(), assignment)
    model.remember(torch.from_numpy(tokens), torch.as_tensor(labels), assignment.target.task)
    found = evaluate(model, val, trial, assignment)
    if math.isnan(found[0].picking):
        raise NonFiniteLossError(_no_number("score", found[0].picking, "of the neighbours", trial.training))
    (best,) = better([Best()], found, 1, model)
    return Epoch(
        number=1,
        train_loss=None,
        val_score=found[0].picking,
        lost="",
        seconds=time.perf_counter() - started,
        data_seconds=waited,
        measured_peak_bytes=_measured_peak(assignment.device, train.device_bytes + val.device_bytes),
        snapshot=Snapshot(epoch=1, model=best.model, optimizer={}, schedule={}, best=best),
    )


def _worker_order(
    labels: np.ndarray, trials: Sequence[TrialConfig], assignment: Assignment, epoch: int
) -> Int[np.ndarray, "steps rows"]:
    """The training rows of this worker in every step of an epoch, of each of the networks one after the other."""
    training, rank = trials[0].training, assignment.rank
    balanced = labels if training.sampling == "balanced" else None
    size, share = training.batch_size, training.batch_size // assignment.num_workers
    orders = [epoch_order(assignment.num_train, size, (one.training.seed, epoch), balanced) for one in trials]
    return np.concatenate([order[:, rank * share : (rank + 1) * share] for order in orders], axis=1)


def _train_epoch(
    learner: Learner, taken: Iterator[Taken], trials: Sequence[TrialConfig], assignment: Assignment, epoch: int
) -> tuple[list[float], float]:
    """One pass over the training split; returns each network's mean loss over all workers, and seconds of reading."""
    learner.model.train()
    total, waited = torch.zeros(len(trials), device=assignment.device), 0.0
    steps = assignment.num_train // trials[0].training.batch_size
    for step, (row_ids, batch, seconds) in enumerate(islice(taken, steps), start=1):
        waited += seconds
        total += take_step(
            learner,
            (epoch - 1) * steps + step,
            partial(network_inputs, batch, row_ids.reshape(len(trials), -1), epoch, trials, assignment),
            lambda logits, labels=batch.labels: labels.to(logits.device),
            batch.weights,
        )
        if step % 16 == 0 or step == steps:
            _lose(learner, "loss", total.tolist(), f"in epoch {epoch} by step {step}", trials)
    mean = total / steps
    if assignment.num_workers > 1:
        dist.all_reduce(mean)
        mean /= assignment.num_workers
    return mean.tolist(), waited


def _lose(learner: Learner, what: str, values: Sequence[float], when: str, trials: Sequence[TrialConfig]) -> None:
    """Notes the networks whose loss or score is no number; NonFiniteLossError of the only one."""
    for at, (value, trial) in enumerate(zip(values, trials, strict=True)):
        if not math.isfinite(value) and at not in learner.lost:
            learner.lost[at] = _no_number(what, value, when, trial.training)
            if isinstance(learner.model, Together):
                learner.model.lose(at)
    if learner.lost and len(trials) == 1:
        raise NonFiniteLossError(learner.lost[0])


def _no_number(what: str, value: float, when: str, training: TrainingConfig) -> str:
    return (
        f"the {what} is {value} {when} (training.learning_rate {training.learning_rate}, training.seed "
        f"{training.seed}); try a lower learning rate, and check the features for NaN"
    )


def _measured_peak(device: torch.device, held_bytes: int) -> int | None:
    return torch.cuda.max_memory_allocated(device) - held_bytes if device.type == "cuda" else None
