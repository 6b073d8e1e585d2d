"""One trial on a feature store, without Ray: what it reads, what it costs, its checkpoint and its numbers."""

import io
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from fpt_ray.backbone import backbone_shape, check_depth, check_resolution, kept_tokens
from fpt_ray.config import SIDE_METHODS, ConfigError, TrialConfig, image_resolution, reads_images
from fpt_ray.loop import Checkpoint, Epoch, Rows, Task, fit, predict, uses_bfloat16
from fpt_ray.methods import load_learnable_state, make_model
from fpt_ray.metrics import Scores, pme, ppe, scores
from fpt_ray.prediction import fine_tuning_memory, learnable_parameters, param_ratio, training_memory
from fpt_ray.rows import rows_from_files
from fpt_ray.side_network import side_width
from fpt_ray.storage import read_bytes
from fpt_ray.store import Store
from fpt_ray.store_spec import Slice, column_widths

CHECKPOINT_FILE = "checkpoint.pt"
_FINAL_METRICS = (
    "val_auc",
    "val_auc_std",
    "best_epoch",
    "epochs",
    "ppe",
    "pme",
    "param_ratio",
    "memory_ratio",
    "learnable_parameters",
    "peak_memory_bytes",
    "measured_peak_memory_bytes",
    "train_seconds",
    "fit_seconds",
    "data_seconds",
)


# --- what a trial reads ---------------------------------------------------------------------------------------


def check_trial(trial: TrialConfig) -> None:
    """ConfigError if the side network cannot be built on this backbone."""
    shape = backbone_shape(trial.backbone.name)
    check_resolution(shape, trial.features.resolution)
    if trial.method in SIDE_METHODS:
        check_resolution(shape, trial.side.resolution, "side.resolution")
        check_depth(shape, trial.side.depth)
        side_width(trial, shape)


def store_for(trial: TrialConfig, stores: Sequence[Store]) -> Store:
    """The store that serves this trial.

    Raises:
        ConfigError: none does; the message names the field in which the nearest store falls short.
    """
    lacking = ""
    for store in stores:
        lacking = _lacks(trial, store)
        if not lacking:
            return store
    raise ConfigError(f"no feature store serves this trial: {lacking or 'none was given'}")


def _lacks(trial: TrialConfig, store: Store) -> str:
    spec, shape = store.spec, backbone_shape(trial.backbone.name)
    if reads_images(trial):
        if spec.depth or spec.low_resolution != trial.features.resolution:
            held = f"features of {spec.resolution} px" if spec.depth else f"images of {spec.low_resolution} px"
            return f"{trial.method} reads images of {trial.features.resolution} px, {store.uri} holds {held}"
        return "" if spec.backbone == shape.name else f"{store.uri} is normalised for {spec.backbone}"
    kept = kept_tokens(shape.num_tokens(trial.features.resolution), trial.features.token_ratio)
    same = (
        ("backbone.name", trial.backbone.name, spec.backbone),
        ("features.resolution", trial.features.resolution, spec.resolution),
        ("features.importance", trial.features.importance, spec.importance),
        ("features.dtype", trial.features.dtype, spec.dtype),
    )
    at_most = (
        ("side.depth", trial.side.depth, spec.depth),
        ("features.token_ratio", kept, spec.num_kept),
        ("side.resolution", trial.side.resolution, spec.low_resolution),
    )
    for name, asked, held in same:
        if asked != held:
            return f"{name} is {asked!r}, {store.uri} holds {held!r}; preload another store"
    for name, asked, held in at_most:
        if asked > held:
            return f"{name} asks for {asked}, {store.uri} holds at most {held}; preload a wider store"
    return ""


def trial_slice(trial: TrialConfig, store: Store) -> Slice:
    """The part of the store's columns this trial reads; a side network without prompts reads no keys or values."""
    if reads_images(trial):
        return Slice(depth=0, num_kept=0)
    kept = kept_tokens(store.spec.num_tokens, trial.features.token_ratio)
    return Slice(depth=trial.side.depth if trial.side.num_prompts else 0, num_kept=kept)


def feature_bytes(trial: TrialConfig, store: Store) -> int:
    """Bytes that a trial reads of one image, in an epoch."""
    columns = store.columns(trial_slice(trial, store))
    return sum(column_widths(store.spec).get(column, 8) for column in columns)


def trial_task(store: Store, device: torch.device, rank: int = 0, num_workers: int = 1) -> Task:
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


# --- what it costs and what came out --------------------------------------------------------------------------


def trial_costs(trial: TrialConfig, num_classes: int, device: torch.device) -> dict[str, float]:
    """Known before training: learnable parameters, predicted peak memory, and both as ratios (section 4.2.2).

    ``memory_ratio`` is against full fine-tuning of the same backbone at the same resolution, batch and precision, both
    sides predicted by the same estimator.
    """
    precision = "bfloat16" if uses_bfloat16(trial.training.precision, device) else "float32"
    memory = training_memory(trial, num_classes, precision=precision)
    reference = fine_tuning_memory(trial, num_classes, precision=precision)
    return {
        "learnable_parameters": learnable_parameters(trial, num_classes),
        "param_ratio": param_ratio(trial, num_classes),
        "memory_ratio": memory.process_bytes / reference.process_bytes,
        "peak_memory_bytes": memory.process_bytes,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """An epoch of one of a trial's seeds."""

    repeat: int
    """Which seed, from 0; the trial's own is the first."""
    epoch: Epoch
    earlier: tuple[Checkpoint, ...]
    """The best epochs of the seeds that are finished."""
    fit_seconds: float
    """Of all epochs of this process so far."""
    data_seconds: float
    """Of these, waiting for rows."""

    @property
    def checkpoint(self) -> Checkpoint:
        """All that is needed to go on from here."""
        return {"finished": list(self.earlier), "current": self.epoch.checkpoint}


def fit_seeds(
    trial: TrialConfig,
    seeds: int,
    rows: Mapping[str, Rows],
    task: Task,
    *,
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
    resume: Checkpoint | None = None,
) -> Iterator[Progress]:
    """Trains a trial with several seeds, one after the other, and yields after every epoch.

    ``rows`` are the training and validation split; ``prepare`` wraps a model for data-parallel training.
    """
    finished: list[Checkpoint] = list(resume["finished"]) if resume else []
    current = resume["current"] if resume else None
    spent, waited = 0.0, 0.0
    for repeat in range(len(finished), seeds):
        training = replace(trial.training, seed=trial.training.seed + repeat)
        seeded = replace(trial, training=training)
        model = prepare(make_model(seeded, len(task.classes)).to(task.device))
        best: Checkpoint = current["best"] if current else {}
        for epoch in fit(model, rows["train"], rows["val"], seeded, task, current):
            best = epoch.checkpoint["best"]
            spent, waited = spent + epoch.seconds, waited + epoch.data_seconds
            earlier = tuple(finished)
            yield Progress(repeat=repeat, epoch=epoch, earlier=earlier, fit_seconds=spent, data_seconds=waited)
        finished.append(best)
        current = None


def outcome(
    progress: Progress, trial: TrialConfig, seeds: int, costs: Mapping[str, float], started: float
) -> dict[str, Any]:
    """The numbers of a trial after an epoch: of the epoch, and of the best epochs so far, averaged over the seeds."""
    epoch = progress.epoch
    best = [*(one["val_auc"] for one in progress.earlier), epoch.best_val_auc]
    numbers = {
        "epochs": progress.repeat * trial.training.epochs + epoch.number,
        "repeat": progress.repeat,
        "epoch_of_seed": epoch.number,
        "train_loss": epoch.train_loss,
        "val_auc_epoch": epoch.val.auc,
        "val_auc_seed": epoch.best_val_auc,
        "val_auc": statistics.fmean(best),
        "best_epoch": epoch.best_epoch,
        "ppe": ppe(statistics.fmean(best), costs["param_ratio"]),
        "pme": pme(statistics.fmean(best), costs["memory_ratio"]),
        "train_seconds": time.perf_counter() - started,
        "fit_seconds": progress.fit_seconds,
        "data_seconds": progress.data_seconds,
        "epoch_seconds": epoch.seconds,
        "finished": progress.repeat + 1 == seeds and epoch.number == trial.training.epochs,
        **costs,
    }
    if len(best) > 1:
        numbers["val_auc_std"] = statistics.stdev(best)
    if epoch.measured_peak_bytes is not None:
        numbers["measured_peak_memory_bytes"] = epoch.measured_peak_bytes
    return numbers


def final_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a trial's last result that stay with it; what is missing or not finite is left out."""
    return {name: float(value) for name in _FINAL_METRICS if is_finite(value := result.get(name))}


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether a result holds a number that can be told."""
    return isinstance(value, (int, float)) and math.isfinite(value)


# --- checkpoints ----------------------------------------------------------------------------------------------


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Writes the checkpoint whole or not at all."""
    final = Path(folder) / CHECKPOINT_FILE
    temporary = final.with_suffix(".tmp")
    with temporary.open("wb") as file:  # opened here, so that a full disk is an OSError
        torch.save(checkpoint, file)
    os.replace(temporary, final)


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Reads a checkpoint from a local folder or one on S3; tensors and plain values only, never pickled code."""
    content = io.BytesIO(read_bytes(f"{folder}/{CHECKPOINT_FILE}"))
    return torch.load(content, map_location="cpu", weights_only=True)


def scores_of_best(trial: TrialConfig, store: Store, split: str, checkpoint: Checkpoint) -> list[Scores]:
    """Scores of the best epoch's weights of every seed on a split, read from the store's files."""
    found, labels = predictions_of_best(trial, store, split, checkpoint)
    return [scores(probabilities, labels, store.classes) for probabilities in found]


def predictions_of_best(
    trial: TrialConfig, store: Store, split: str, checkpoint: Checkpoint
) -> tuple[list[Float[np.ndarray, "N C"]], Int[np.ndarray, " N"]]:
    """Class probabilities by the best epoch's weights of every seed on a split, and its labels; read from files."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = make_model(trial, len(store.classes)).to(device)
    rows = rows_from_files(store, split, trial_slice(trial, store), image_resolution(trial))
    found = []
    for best in (*checkpoint["finished"], checkpoint["current"]["best"]):
        load_learnable_state(model, best["model"])
        found.append(predict(model, rows, trial, trial_task(store, device))[0])
    return found, rows.labels
