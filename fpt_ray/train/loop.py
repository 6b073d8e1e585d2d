"""The training loop: ``fit()``, a generator of epochs, and ``evaluate()``. Plain PyTorch: no Ray, no MLflow, no files.

Every random choice is keyed by (seed, epoch, row): order, augmentation and dropout of an image do not depend on how
many workers share the batch or on whether training was interrupted, so 1 and 2 workers, or a resumed and an
uninterrupted run, give the same numbers.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from fpt_ray.config.trial import SIDE_METHODS, SUMMARY_METHODS, TrainingConfig, TrialConfig, reads_images
from fpt_ray.features.rows import Batch
from fpt_ray.images.augmentation import augment
from fpt_ray.images.pixels import normalise
from fpt_ray.metrics.scores import auc
from fpt_ray.models.side_network import dropout_masks, has_dropout
from fpt_ray.models.step import Inputs, Learner, arithmetic_type, autocast, make_learner, take_step, unwrapped
from fpt_ray.models.summary_probes import NearestNeighbours
from fpt_ray.models.together import networks_in
from fpt_ray.train.buffers import Buffers, RowReader, taken_ahead
from fpt_ray.train.checkpoint import Best, Snapshot
from fpt_ray.train.order import epoch_order
from fpt_ray.train.snapshots import better, go_on_from, snapshots


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message says when and what to try."""


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
    train_loss: float | None
    """None where nothing is learnt."""
    val_auc: float
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
    best epoch is the one of highest validation AUC. A network that learns nothing has one epoch, in which it sees every
    training image.

    Raises:
        NonFiniteLossError: the loss is not a number.
    """
    bare, done = unwrapped(model), 0
    if task.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(task.device)
    if isinstance(bare, NearestNeighbours):
        if not resume:
            yield (_remembered(bare, train, val, trial, task),)
        return
    learner, best = _learner(model, train, trial.training, task), [Best()] * networks_in(bare)
    if resume:
        go_on_from(learner, resume)
        best, done = [one.best for one in resume], resume[0].epoch
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
                val_auc=val_auc,
                seconds=seconds / len(best),
                data_seconds=waited / len(best),
                measured_peak_bytes=_measured_peak(task.device, held) if len(best) == 1 else None,
                snapshot=snapshot,
            )
            for loss, val_auc, snapshot in zip(losses, found, snapshots(learner, number, best), strict=True)
        )


def _learner(model: nn.Module, train: RowReader, training: TrainingConfig, task: Task) -> Learner:
    steps = task.num_train // training.batch_size
    if steps == 0:
        raise ValueError(
            f"training.batch_size is {training.batch_size}, but there are {task.num_train} training images"
        )
    weights, arithmetic = class_weights(train, task, training), arithmetic_type(training, task.device)
    return make_learner(model, training, steps * training.epochs, arithmetic, weights)


def _remembered(model: NearestNeighbours, train: RowReader, val: RowReader, trial: TrialConfig, task: Task) -> Epoch:
    """The epoch in which every training image is seen, whichever worker holds it, in the order of the row ids."""
    started = time.perf_counter()
    tokens, waited = _outputs(model.unit_token, train, trial, task)
    tokens, labels = _of_all_workers(train, tokens.numpy(), task)
    model.remember(torch.from_numpy(tokens), torch.as_tensor(labels))
    found = evaluate(model, val, trial, task)
    (best,) = better([Best()], found, 1, model)
    return Epoch(
        number=1,
        train_loss=None,
        val_auc=found[0],
        seconds=time.perf_counter() - started,
        data_seconds=waited,
        measured_peak_bytes=_measured_peak(task.device, train.device_bytes + val.device_bytes),
        snapshot=Snapshot(epoch=1, model=best.model, optimizer={}, schedule={}, best=best),
    )


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


def evaluate(model: nn.Module, rows: RowReader, trial: TrialConfig, task: Task) -> list[float]:
    """The AUC of a model's networks on a split, gathered over all workers; each worker holds a share of its rows."""
    probabilities, _ = predict(model, rows, trial, task)
    probabilities, labels = _of_all_workers(rows, probabilities, task)
    return [auc(one, labels, task.classes) for one in probabilities.reshape(-1, *probabilities.shape[-2:])]


def _of_all_workers(rows: RowReader, found: Float[np.ndarray, "*G M F"], task: Task) -> tuple[np.ndarray, np.ndarray]:
    """What each worker found of its rows, and their labels, in the order of the row ids."""
    if task.num_workers == 1:
        return found, rows.labels
    gathered: list[Any] = [None] * task.num_workers
    dist.all_gather_object(gathered, (rows.row_ids, found, rows.labels))
    row_ids, parts, labels = zip(*gathered, strict=True)
    order = np.argsort(np.concatenate(row_ids))
    return np.concatenate(parts, axis=-2)[..., order, :], np.concatenate(labels)[order]


def predict(
    model: nn.Module, rows: RowReader, trial: TrialConfig, task: Task
) -> tuple[Float[np.ndarray, "*G N C"], Int[np.ndarray, "N"]]:
    """Class probabilities, by each of a model's networks, and labels of all rows, in the order of their ids."""
    if not len(rows):
        return np.zeros((0, len(task.classes)), np.float32), np.zeros(0, np.int64)
    logits, _ = _outputs(model, rows, trial, task)
    return logits.softmax(-1).numpy(), rows.labels


@torch.no_grad()
def _outputs(
    model: nn.Module, rows: RowReader, trial: TrialConfig, task: Task
) -> tuple[Float[Tensor, "*G N F"], float]:
    """What a model's networks say of all rows, in the order of their ids, and the seconds spent on reading."""
    model.eval()
    found, waited, size = [], 0.0, trial.training.batch_size * networks_in(model)  # as many as in a step
    batches = [rows.row_ids[start : start + size] for start in range(0, len(rows), size)]
    for _, batch, seconds in taken_ahead(rows, batches, task.buffers):
        waited += seconds
        with autocast(task.device, arithmetic_type(trial.training, task.device)):
            found.append(model(*network_inputs(batch, None, 0, trial, task)).float().cpu())
    return torch.cat(found, dim=-2), waited


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
                    augment(part, trial.augment, seed=trial.training.seed + repeat, epoch=epoch, rows=ids.tolist())
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
