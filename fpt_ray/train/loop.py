"""The training loop: ``fit()``, a generator of epochs, and ``evaluate()``. Plain PyTorch: no Ray, no MLflow, no files.

Every random choice is keyed by (seed, epoch, row): order, augmentation and dropout of an image do not depend on how
many workers share the batch or on whether training was interrupted, so 1 and 2 workers, or a resumed and an
uninterrupted run, give the same numbers.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from fpt_ray.config.trial import SIDE_METHODS, SUMMARY_METHODS, TrainingConfig, TrialConfig, reads_images
from fpt_ray.features.rows import Batch, Memory, fresh_memory
from fpt_ray.images.augmentation import augment
from fpt_ray.images.pixels import normalise
from fpt_ray.metrics.scores import Scores, scores
from fpt_ray.models.side_network import dropout_masks, has_dropout
from fpt_ray.models.step import Inputs, Learner, arithmetic_type, autocast, make_learner, take_step, unwrapped
from fpt_ray.models.together import networks_in
from fpt_ray.train.buffers import Buffers
from fpt_ray.train.checkpoint import Best, Snapshot
from fpt_ray.train.order import epoch_order
from fpt_ray.train.snapshots import better, go_on_from, snapshots


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message says when and what to try."""


@runtime_checkable
class RowReader(Protocol):
    """Reads the rows of a split, or of one worker's share of it; ``features.Rows`` is one."""

    row_ids: np.ndarray
    labels: np.ndarray
    device_bytes: int
    """What it holds on the GPU."""

    def __len__(self) -> int: ...

    def take(self, row_ids: Any, memory: Memory = fresh_memory) -> Batch:
        """The rows of these numbers, in this order, in this memory or in what it holds on the GPU."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is learnt, beside the configuration: classes, preprocessing, and this worker's part of the work."""

    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_train: int
    """Rows of the training split over all workers."""
    device: torch.device
    rank: int = 0
    num_workers: int = 1
    buffers: Buffers = field(default_factory=Buffers, compare=False, repr=False)
    """What this worker's rows are read and converted into."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """One finished epoch of one seed. Epochs count from 1; seconds are this worker's, seeds together share them."""

    number: int
    train_loss: float
    val: Scores
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
    def best_val_auc(self) -> float:
        """The validation AUC of the best epoch so far."""
        return self.snapshot.best.val_auc


def fit(
    model: nn.Module,
    train: RowReader,
    val: RowReader,
    trial: TrialConfig,
    task: Task,
    resume: Snapshot | None = None,
) -> Iterator[Epoch]:
    """Trains one network: ``fit_together`` of one seed."""
    for (epoch,) in fit_together(model, train, val, trial, task, () if resume is None else (resume,)):
        yield epoch


def fit_together(
    model: nn.Module, train: RowReader, val: RowReader, trial: TrialConfig, task: Task, resume: Sequence[Snapshot]
) -> Iterator[tuple[Epoch, ...]]:
    """Trains and yields after every epoch (section 4.2.1: AdamW, cosine to 0 per step, cross-entropy).

    ``model`` is on the task's device, perhaps wrapped for data-parallel training, or the networks of several seeds
    ``Together``, from the trial's own on; there is an epoch of each, and something to go on from of each or none. The
    best epoch is the one of highest validation AUC.

    Raises:
        NonFiniteLossError: the loss is not a number.
    """
    bare, done = unwrapped(model), 0
    learner, best = _learner(model, train, trial.training, task), [Best()] * networks_in(bare)
    if resume:
        go_on_from(learner, resume)
        best, done = [one.best for one in resume], resume[0].epoch
    if task.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(task.device)
    for number in range(done + 1, trial.training.epochs + 1):
        started = time.perf_counter()
        losses, waited = _train_epoch(learner, train, trial, task, number)
        found = evaluate(bare, val, trial, task)
        best = better(best, found, number, bare)
        seconds, held = time.perf_counter() - started, train.device_bytes + val.device_bytes
        yield tuple(
            Epoch(
                number=number,
                train_loss=loss,
                val=val_scores,
                seconds=seconds / len(best),
                data_seconds=waited / len(best),
                measured_peak_bytes=_measured_peak(task.device, held) if len(best) == 1 else None,
                snapshot=snapshot,
            )
            for loss, val_scores, snapshot in zip(losses, found, snapshots(learner, number, best), strict=True)
        )


def _learner(model: nn.Module, train: RowReader, training: TrainingConfig, task: Task) -> Learner:
    steps = task.num_train // training.batch_size
    if steps == 0:
        raise ValueError(
            f"training.batch_size is {training.batch_size}, but there are {task.num_train} training images"
        )
    weights, arithmetic = class_weights(train, task, training), arithmetic_type(training, task.device)
    return make_learner(model, training, steps * training.epochs, arithmetic, weights)


def _train_epoch(
    learner: Learner, train: RowReader, trial: TrialConfig, task: Task, epoch: int
) -> tuple[list[float], float]:
    """One pass over the training split; returns each seed's mean loss over all workers and the seconds of reading."""
    training = trial.training
    seeds = range(training.seed, training.seed + networks_in(learner.model))
    orders = [epoch_order(task.num_train, training.batch_size, (seed, epoch)) for seed in seeds]
    learner.model.train()
    total, waited = torch.zeros(len(seeds), device=task.device), 0.0
    share = training.batch_size // task.num_workers
    own = np.stack(orders, axis=1)[..., task.rank * share : (task.rank + 1) * share]
    taken = taken_ahead(train, own.reshape(len(own), -1), task.buffers)
    for step, ((_, batch, seconds), row_ids) in enumerate(zip(taken, own, strict=True), start=1):
        waited += seconds
        total += take_step(
            learner,
            (epoch - 1) * len(own) + step,
            partial(network_inputs, batch, row_ids, epoch, trial, task),
            lambda logits, labels=batch.labels: labels.to(logits.device),
        )
        if step % 16 == 0 or step == len(own):
            _require_finite(total.tolist(), epoch, step, training)
    mean = total / len(own)
    if task.num_workers > 1:
        dist.all_reduce(mean)
        mean /= task.num_workers
    return mean.tolist(), waited


def taken_ahead(rows: RowReader, batches: Iterable[Any], buffers: Buffers) -> Iterator[tuple[Any, Batch, float]]:
    """(row ids, their rows, seconds waited for) of every batch; the next is read while one is worked on.

    Rows are good until the next are asked for.
    """

    def taken(turn: int, row_ids: Any) -> Batch:
        return rows.take(row_ids, buffers.memory(turn))

    with ThreadPoolExecutor(1) as reader:
        asked = ((turn, row_ids, reader.submit(taken, turn, row_ids)) for turn, row_ids in enumerate(batches))
        ahead = next(asked, None)
        while ahead is not None:
            started = time.perf_counter()
            turn, row_ids, batch = ahead[0], ahead[1], ahead[2].result()
            waited, ahead = time.perf_counter() - started, next(asked, None)
            yield row_ids, batch, waited
            buffers.worked_on(turn)


def evaluate(model: nn.Module, rows: RowReader, trial: TrialConfig, task: Task) -> list[Scores]:
    """Scores of a model's networks on a split, gathered over all workers; each worker holds a share of its rows."""
    probabilities, labels = predict(model, rows, trial, task)
    if task.num_workers > 1:
        gathered: list[Any] = [None] * task.num_workers
        dist.all_gather_object(gathered, (rows.row_ids, probabilities, labels))
        order = np.argsort(np.concatenate([part[0] for part in gathered]))
        probabilities = np.concatenate([part[1] for part in gathered])[order]
        labels = np.concatenate([part[2] for part in gathered])[order]
    return [scores(one, labels, task.classes) for one in probabilities.reshape(-1, *probabilities.shape[-2:])]


@torch.no_grad()
def predict(
    model: nn.Module, rows: RowReader, trial: TrialConfig, task: Task
) -> tuple[Float[np.ndarray, "*G N C"], Int[np.ndarray, "N"]]:
    """Class probabilities, by each of a model's networks, and labels of all rows, in the order of their ids."""
    model.eval()
    probabilities, size = [], trial.training.batch_size * networks_in(model)  # as many as in a step
    batches = [rows.row_ids[start : start + size] for start in range(0, len(rows), size)]
    for _, batch, _ in taken_ahead(rows, batches, task.buffers):
        with autocast(model, arithmetic_type(trial.training, task.device)):
            logits = model(*network_inputs(batch, None, 0, trial, task))
        probabilities.append(logits.float().softmax(-1).cpu())
    if not probabilities:
        return np.zeros((0, len(task.classes)), np.float32), np.zeros(0, np.int64)
    return torch.cat(probabilities, dim=-2).numpy(), rows.labels


def network_inputs(batch: Batch, row_ids: Any, epoch: int, trial: TrialConfig, task: Task) -> Inputs:
    """A batch as the network takes it; with row ids given, the images it reads are augmented (section 3.6).

    Of several seeds together, each has a row of row ids, and the batch has what they name one after the other.
    """
    images, masks, device = batch.low_res, None, task.device
    drawn = () if row_ids is None else tuple(enumerate(np.atleast_2d(row_ids)))
    if images is not None:
        images = images.to(device, non_blocking=True)
        if drawn and trial.training.augment:
            images = torch.cat(
                [
                    augment(part, seed=trial.training.seed + repeat, epoch=epoch, rows=ids.tolist())
                    for part, (repeat, ids) in zip(images.chunk(len(drawn)), drawn, strict=True)
                ]
            )
        images = normalise(images, task.mean, task.std)
    if drawn and has_dropout(trial):
        masks = torch.cat([dropout_masks(trial, ids, epoch, repeat) for repeat, ids in drawn], dim=1).to(device)
    if trial.method not in SIDE_METHODS:
        return (images,)
    if reads_images(trial):
        return images, masks
    arithmetic = arithmetic_type(trial.training, device)
    keys, values, summaries = (
        None if kind is None else task.buffers.converted(name, kind, device, arithmetic)
        for name, kind in (("keys", batch.keys), ("values", batch.values), ("summaries", batch.summaries))
    )
    return (summaries,) if trial.method in SUMMARY_METHODS else (images, keys, values, masks)


def class_weights(train: RowReader, task: Task, training: TrainingConfig) -> Float[Tensor, "C"] | None:
    """Inverse class frequencies of the training split, 1 on average over its images; None unless asked for."""
    if not training.class_weights:
        return None
    counts = torch.bincount(torch.as_tensor(train.labels), minlength=len(task.classes)).to(task.device)
    if task.num_workers > 1:
        dist.all_reduce(counts)
    return counts.sum() / (len(task.classes) * counts.float())


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
