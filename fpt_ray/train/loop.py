"""The training loop: ``fit()``, a generator of epochs, and ``evaluate()``. Plain PyTorch: no Ray, no MLflow, no files.

Every random choice is keyed by (seed, epoch, row): order, augmentation and dropout of an image do not depend on how
many workers share the batch or on whether training was interrupted, so 1 and 2 workers, or a resumed and an
uninterrupted run, give the same numbers.
"""

import copy
import math
import time
from collections.abc import Iterator
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
from fpt_ray.metrics.scores import Scores, scores
from fpt_ray.models.backbone import backbone_shape
from fpt_ray.models.methods import learnable_state, load_learnable_state
from fpt_ray.models.side_network import side_width
from fpt_ray.models.step import Inputs, Learner, arithmetic_type, autocast, make_learner, take_step, unwrapped
from fpt_ray.models.summary_probes import NearestNeighbours
from fpt_ray.train.buffers import Buffers, RowReader, taken_ahead
from fpt_ray.train.checkpoint import Best, Snapshot, State
from fpt_ray.train.order import epoch_order


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
    """One finished epoch. Epochs count from 1; seconds are this worker's."""

    number: int
    train_loss: float | None
    """None where nothing is learnt."""
    val: Scores
    seconds: float
    data_seconds: float
    """Seconds spent waiting for rows, part of ``seconds``."""
    measured_peak_bytes: int | None
    """CUDA's own peak of allocated memory since the start, rows that are held there left out; nothing on a CPU."""
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
    """Trains and yields after every epoch (section 4.2.1: AdamW, cosine to 0 per step, cross-entropy).

    ``model`` is on the task's device, perhaps wrapped for data-parallel training. The best epoch is the one of highest
    validation AUC. A network that learns nothing has one epoch, in which it sees every training image.

    Raises:
        NonFiniteLossError: the loss is not a number.
    """
    bare = unwrapped(model)
    if task.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(task.device)
    if isinstance(bare, NearestNeighbours):
        if resume is None:
            yield _remembered(bare, train, val, trial, task)
        return
    learner, best, done = _learner(model, train, trial.training, task), Best(), 0
    if resume is not None:
        load_learnable_state(bare, resume.model)
        learner.optimizer.load_state_dict(resume.optimizer)
        learner.schedule.load_state_dict(resume.schedule)
        best, done = resume.best, resume.epoch
    for number in range(done + 1, trial.training.epochs + 1):
        started = time.perf_counter()
        loss, waited = _train_epoch(learner, train, trial, task, number)
        val_scores = evaluate(bare, val, trial, task)
        if val_scores.auc > best.val_auc:
            best = Best(epoch=number, val_auc=val_scores.auc, model=_copied(learnable_state(bare)))
        yield Epoch(
            number=number,
            train_loss=loss,
            val=val_scores,
            seconds=time.perf_counter() - started,
            data_seconds=waited,
            measured_peak_bytes=_measured_peak(task.device, train.device_bytes + val.device_bytes),
            snapshot=_snapshot(learner, number, best),
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
    val_scores = evaluate(model, val, trial, task)
    best = Best(epoch=1, val_auc=val_scores.auc, model=_copied(learnable_state(model)))
    return Epoch(
        number=1,
        train_loss=None,
        val=val_scores,
        seconds=time.perf_counter() - started,
        data_seconds=waited,
        measured_peak_bytes=_measured_peak(task.device, train.device_bytes + val.device_bytes),
        snapshot=Snapshot(epoch=1, model=best.model, optimizer={}, schedule={}, best=best),
    )


def _snapshot(learner: Learner, epoch: int, best: Best) -> Snapshot:
    return Snapshot(
        epoch=epoch,
        model=learnable_state(unwrapped(learner.model)),
        optimizer=learner.optimizer.state_dict(),
        schedule=learner.schedule.state_dict(),
        best=best,
    )


def _train_epoch(learner: Learner, train: RowReader, trial: TrialConfig, task: Task, epoch: int) -> tuple[float, float]:
    """One pass over the training split; returns the mean loss over all workers and the seconds spent on reading."""
    training = trial.training
    order = epoch_order(task.num_train, training.batch_size, (training.seed, epoch))
    learner.model.train()
    total, waited = torch.zeros((), device=task.device), 0.0
    share = training.batch_size // task.num_workers
    own = order[:, task.rank * share : (task.rank + 1) * share]
    for step, (row_ids, batch, seconds) in enumerate(taken_ahead(train, own, task.buffers), start=1):
        waited += seconds
        total += take_step(
            learner,
            (epoch - 1) * len(order) + step,
            partial(network_inputs, batch, row_ids, epoch, trial, task),
            lambda logits, labels=batch.labels: labels.to(logits.device),
        )
        if step % 16 == 0 or step == len(order):
            _require_finite(total, epoch, step, training)
    mean = total / len(order)
    if task.num_workers > 1:
        dist.all_reduce(mean)
        mean /= task.num_workers
    return float(mean), waited


def evaluate(model: nn.Module, rows: RowReader, trial: TrialConfig, task: Task) -> Scores:
    """Scores on a split, gathered over all workers; each worker holds a share of its rows."""
    probabilities, _ = predict(model, rows, trial, task)
    return scores(*_of_all_workers(rows, probabilities, task), task.classes)


def _of_all_workers(rows: RowReader, found: Float[np.ndarray, "M F"], task: Task) -> tuple[np.ndarray, np.ndarray]:
    """What each worker found of its rows, and their labels, in the order of the row ids."""
    if task.num_workers == 1:
        return found, rows.labels
    gathered: list[Any] = [None] * task.num_workers
    dist.all_gather_object(gathered, (rows.row_ids, found, rows.labels))
    row_ids, found, labels = (np.concatenate(parts) for parts in zip(*gathered, strict=True))
    order = np.argsort(row_ids)
    return found[order], labels[order]


def predict(
    model: nn.Module, rows: RowReader, trial: TrialConfig, task: Task
) -> tuple[Float[np.ndarray, "N C"], Int[np.ndarray, "N"]]:
    """Class probabilities and labels of all rows, in the order of their ids."""
    if not len(rows):
        return np.zeros((0, len(task.classes)), np.float32), np.zeros(0, np.int64)
    logits, _ = _outputs(model, rows, trial, task)
    return logits.softmax(-1).numpy(), rows.labels


@torch.no_grad()
def _outputs(model: nn.Module, rows: RowReader, trial: TrialConfig, task: Task) -> tuple[Float[Tensor, "N F"], float]:
    """What a network says of all rows, in the order of their ids, and the seconds spent on reading."""
    model.eval()
    found, waited, size = [], 0.0, trial.training.batch_size
    batches = [rows.row_ids[start : start + size] for start in range(0, len(rows), size)]
    for _, batch, seconds in taken_ahead(rows, batches, task.buffers):
        waited += seconds
        with autocast(task.device, arithmetic_type(trial.training, task.device)):
            found.append(model(*network_inputs(batch, None, 0, trial, task)).float().cpu())
    return torch.cat(found), waited


def network_inputs(batch: Batch, row_ids: Any, epoch: int, trial: TrialConfig, task: Task) -> Inputs:
    """A batch as the network takes it; with row ids given, the images it reads are augmented (section 3.6)."""
    images, masks, device = batch.low_res, None, task.device
    if images is not None:
        images = images.to(device, non_blocking=True)
        if row_ids is not None and trial.training.augment:
            images = augment(images, seed=trial.training.seed, epoch=epoch, rows=[int(row) for row in row_ids])
        images = normalise(images, task.mean, task.std)
    if row_ids is not None and (drawn := dropout_masks(trial, row_ids, epoch)) is not None:
        masks = drawn.to(device)
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


def dropout_masks(trial: TrialConfig, row_ids: Any, epoch: int) -> Float[Tensor, "L B P W"] | None:
    """Which prompt outputs are kept (0 or 1/(1-p)), drawn for each row by itself."""
    side, training = trial.side, trial.training
    if trial.method not in ("fpt+", "fpt") or not side.num_prompts or not side.prompt_dropout:
        return None
    width = side_width(trial, backbone_shape(trial.backbone.name))
    masks = torch.empty(len(row_ids), side.depth, side.num_prompts, width)
    for mask, row in zip(masks, row_ids, strict=True):
        seed = int(np.random.SeedSequence((training.seed, epoch, int(row), 1)).generate_state(1, np.uint64)[0])
        mask.bernoulli_(1 - side.prompt_dropout, generator=torch.Generator().manual_seed(seed))
    return masks.transpose(0, 1).div_(1 - side.prompt_dropout)


def class_weights(train: RowReader, task: Task, training: TrainingConfig) -> Float[Tensor, "C"] | None:
    """Inverse class frequencies of the training split, 1 on average over its images; None unless asked for."""
    if not training.class_weights:
        return None
    counts = torch.bincount(torch.as_tensor(train.labels), minlength=len(task.classes)).to(task.device)
    if task.num_workers > 1:
        dist.all_reduce(counts)
    return counts.sum() / (len(task.classes) * counts.float())


def _require_finite(total: Tensor, epoch: int, step: int, training: TrainingConfig) -> None:
    if not math.isfinite(float(total)):
        raise NonFiniteLossError(
            f"the loss is {float(total)} in epoch {epoch} by step {step} (training.learning_rate "
            f"{training.learning_rate}); try a lower learning rate, and check the features for NaN"
        )


def _copied(state: State) -> State:
    """A copy that stays as it is, off the device: on it, it would count as memory of training."""
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in state.items()
    }


def _measured_peak(device: torch.device, held_bytes: int) -> int | None:
    return torch.cuda.max_memory_allocated(device) - held_bytes if device.type == "cuda" else None
