"""What a model says of a split, and how well: the inputs it is given, its outputs over all workers, their scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import SIDE_METHODS, SUMMARY_METHODS, TrialConfig, reads_images
from fpt_ray.features.rows import Batch, RowReader
from fpt_ray.images.augmentation import augment
from fpt_ray.images.pixels import normalise
from fpt_ray.metrics.scores import score
from fpt_ray.models.loss import says
from fpt_ray.models.side_network import dropout_masks, has_dropout
from fpt_ray.models.step import Inputs, arithmetic_type, autocast, unwrapped
from fpt_ray.models.together import networks_in
from fpt_ray.reading.of_each import RowsOfEach
from fpt_ray.train.buffers import Buffers, Taken, taken_ahead


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What is learnt, beside the configuration: target, preprocessing, and this worker's part of the work."""

    target: Target
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_train: int
    """Rows of the training split over all workers."""
    device: torch.device
    also: tuple[str, ...] = ()
    """Scores of the validation split beside the one that picks the best epoch."""
    rank: int = 0
    num_workers: int = 1
    buffers: Buffers = field(default_factory=Buffers, compare=False, repr=False)
    """What this worker's rows are read and converted into."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """How well a network does on a split."""

    picking: float
    """By the score that picks the best epoch; NaN where what the network says is no number."""
    scores: Mapping[str, float]
    """By their names: that one, and those that are asked for beside it."""


def picked_by(trial: TrialConfig, target: Target) -> str:
    """The name of the score that picks a trial's best epoch."""
    asked = trial.training.select_by
    return target.scores[0] if asked == "auto" else asked


def evaluate(
    model: nn.Module,
    rows: RowReader,
    trial: TrialConfig,
    assignment: Assignment,
    taken: Iterator[Taken] | None = None,
) -> list[Found]:
    """The scores of a model's networks on a split, gathered over all workers; each worker holds a share of its rows.

    ``taken`` has the split's ``batches_of`` next, where they are read ahead already.
    """
    said, _ = predict(model, rows, trial, assignment, taken)
    said, labels = of_all_workers(rows, said, assignment)
    target, picks = assignment.target, picked_by(trial, assignment.target)
    found = []
    for one in said.reshape(-1, *said.shape[-2:]):
        names = {picks, *assignment.also}
        told = bool(np.isfinite(one).all())
        values = {name: score(name, one, labels, target.classes, target.task) if told else np.nan for name in names}
        found.append(Found(picking=values[picks], scores=values))
    return found


def labels_of_all_workers(rows: RowReader, assignment: Assignment) -> np.ndarray:
    """The labels of a split, whichever worker holds them, in the order of the row ids."""
    return of_all_workers(rows, np.zeros((len(rows), 0)), assignment)[1]


def of_all_workers(
    rows: RowReader, found: Float[np.ndarray, "*G M F"], assignment: Assignment
) -> tuple[np.ndarray, np.ndarray]:
    """What each worker found of its rows, and their labels, in the order of the row ids."""
    if assignment.num_workers == 1:
        return found, rows.labels
    gathered: list[Any] = [None] * assignment.num_workers
    dist.all_gather_object(gathered, (rows.row_ids, found, rows.labels))
    row_ids, parts, labels = zip(*gathered, strict=True)
    order = np.argsort(np.concatenate(row_ids))
    return np.concatenate(parts, axis=-2)[..., order, :], np.concatenate(labels)[order]


def predict(
    model: nn.Module,
    rows: RowReader,
    trial: TrialConfig,
    assignment: Assignment,
    taken: Iterator[Taken] | None = None,
) -> tuple[Float[np.ndarray, "*G N C"], np.ndarray]:
    """What each of a model's networks says (``loss.says``), and labels, of all rows in the order of their ids."""
    if not len(rows):
        return np.zeros((0, len(assignment.target.classes)), np.float32), rows.labels
    logits, _ = outputs(model, rows, trial, assignment, taken)
    return says(assignment.target.task, logits, unwrapped(model)).cpu().numpy(), rows.labels


def batches_of(model: nn.Module, rows: RowReader, trial: TrialConfig) -> list[Int[np.ndarray, " B"]]:
    """The row ids of all rows in order, a batch each, which has as many images as a training step."""
    each = networks_in(model)
    times = each if isinstance(rows, RowsOfEach) else 1  # that an image is read
    size = trial.training.batch_size * each // times
    return [np.tile(rows.row_ids[start : start + size], times) for start in range(0, len(rows), size)]


@torch.no_grad()
def outputs(
    model: nn.Module,
    rows: RowReader,
    trial: TrialConfig,
    assignment: Assignment,
    taken: Iterator[Taken] | None = None,
) -> tuple[Float[Tensor, "*G N F"], float]:
    """What a model's networks say of all rows, in the order of their ids, and the seconds spent on reading."""
    model.eval()
    batches, found, waited = batches_of(model, rows, trial), [], 0.0
    if taken is None:
        taken = taken_ahead(((rows, row_ids) for row_ids in batches), assignment.buffers)
    for _, (_, batch, seconds) in zip(batches, taken, strict=False):
        waited += seconds
        with autocast(assignment.device, arithmetic_type(trial.training, assignment.device)):
            found.append(model(*network_inputs(batch, None, 0, (trial,), assignment)).float().cpu())
    return torch.cat(found, dim=-2), waited


def network_inputs(
    batch: Batch, row_ids: Any, epoch: int, trials: Sequence[TrialConfig], assignment: Assignment
) -> Inputs:
    """A batch as the network takes it; with row ids given, the images it reads are augmented (section 3.6).

    Of the networks of several trials together, each has a row of row ids, and the batch has what they name one after
    the other.
    """
    images, masks, device, trial = batch.low_res, None, assignment.device, trials[0]
    drawn = () if row_ids is None else tuple(zip(trials, np.atleast_2d(row_ids), strict=True))
    if images is not None:
        images = images.to(device, non_blocking=True)
        if drawn and trial.training.augment:
            images = torch.cat(
                [
                    augment(part, one.augment, seed=one.training.seed, epoch=epoch, rows=ids.tolist())
                    for part, (one, ids) in zip(images.chunk(len(drawn)), drawn, strict=True)
                ]
            )
        images = normalise(images, assignment.mean, assignment.std)
    if drawn and any(map(has_dropout, trials)):
        masks = torch.cat([dropout_masks(one, ids, epoch) for one, ids in drawn], dim=1).to(device)
    if trial.method not in SIDE_METHODS:
        return (images,)
    if reads_images(trial):
        return images, masks
    arithmetic, move = arithmetic_type(trial.training, device), assignment.buffers.moved
    keys, values, summaries = (
        None if kind is None else move(name, kind, device, arithmetic)
        for name, kind in (("keys", batch.keys), ("values", batch.values), ("summaries", batch.summaries))
    )
    if trial.method in SUMMARY_METHODS:
        assert summaries is not None
        return (summaries.to(arithmetic),)
    return images, keys, values, masks
