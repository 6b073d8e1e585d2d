"""A trial's checkpoint: what of its training must be kept to go on from there, in memory and as a file.

The file holds plain dictionaries, since PyTorch reads nothing else without running pickled code.
"""

import dataclasses
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fpt_ray.errors import ConfigError
from fpt_ray.storage.files import read_bytes

CHECKPOINT_FILE = "checkpoint.pt"
State = dict[str, Any]
"""A state dict of PyTorch's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The epoch of the highest score on the validation split so far; number 0, before the first, is worse than any."""

    epoch: int = 0
    val_score: float = -math.inf
    """By the score that picks the best epoch (``training.select_by``)."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """On the validation split by their names: that one, and those that were asked for beside it."""
    model: State = field(default_factory=dict)
    """What is learnt, off the device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Where the training of one seed stands at the end of an epoch."""

    epoch: int
    model: State
    """What is learnt, on the device. Of a network by itself the next epoch changes it."""
    optimizer: State
    schedule: State
    best: Best


@dataclass(frozen=True, kw_only=True, slots=True)
class Seconds:
    """How long a trial has taken, over all workers that it has had one after the other, and all its seeds."""

    train: float = 0.0
    """From the start of a worker to its last epoch."""
    fit: float = 0.0
    """Of these, in epochs."""
    data: float = 0.0
    """Of these, waiting for rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Where a trial stands at the end of an epoch."""

    identity: str = ""
    """Digest of all that determines the trial's numbers; see ``features.serving.trial_identity``."""
    seconds: Seconds = field(default_factory=Seconds)
    finished: tuple[Best, ...]
    """Of the seeds that are trained to their end."""
    current: tuple[Snapshot, ...]
    """Of the seeds after these that train now, together: one or several."""

    @property
    def best(self) -> tuple[Best, ...]:
        """The best epoch of every seed so far."""
        return (*self.finished, *(one.best for one in self.current))


def checkpoint_folders(folder: str, trials: int) -> list[str]:
    """Where the checkpoint of each of so many trials lies that train as one model: of one, in the folder itself."""
    return [folder] if trials == 1 else [f"{folder}/{at}" for at in range(trials)]


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Writes the checkpoint whole or not at all; the folder is made."""
    final = Path(folder) / CHECKPOINT_FILE
    final.parent.mkdir(exist_ok=True)
    temporary = final.with_suffix(".tmp")
    with temporary.open("wb") as file:  # opened here, so that a full disk is an OSError
        torch.save(packed(checkpoint), file)
    os.replace(temporary, final)


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Reads a checkpoint from a local folder or one on S3; tensors and plain values only, never pickled code."""
    content = io.BytesIO(read_bytes(f"{folder}/{CHECKPOINT_FILE}"))
    return unpacked(torch.load(content, map_location="cpu", weights_only=True))


def check_identity(checkpoint: Checkpoint, identity: str, where: str) -> None:
    """ConfigError unless a checkpoint is of the trial with this identity."""
    if checkpoint.identity != identity:
        raise ConfigError(
            f"{where}: its checkpoint is of another trial, store or image table (identity {checkpoint.identity[:12]}, "
            f"asked is {identity[:12]}); it is not used"
        )


def packed(checkpoint: Checkpoint) -> dict[str, Any]:
    """The plain dictionary that a checkpoint's file holds; tensors are not copied."""
    return {
        "identity": checkpoint.identity,
        "seconds": dataclasses.asdict(checkpoint.seconds),
        "finished": [_packed_best(best) for best in checkpoint.finished],
        "current": [
            {
                "epoch": one.epoch,
                "model": one.model,
                "optimizer": one.optimizer,
                "schedule": one.schedule,
                "best": _packed_best(one.best),
            }
            for one in checkpoint.current
        ],
    }


def unpacked(plain: dict[str, Any]) -> Checkpoint:
    """The checkpoint that ``packed`` made plain; of seeds that always trained one by one, it named one in no list."""
    current = plain["current"] if isinstance(plain["current"], list) else [plain["current"]]
    return Checkpoint(
        identity=plain["identity"],
        seconds=Seconds(**plain["seconds"]),
        finished=tuple(map(_unpacked_best, plain["finished"])),
        current=tuple(Snapshot(**{**one, "best": _unpacked_best(one["best"])}) for one in current),
    )


def _packed_best(best: Best) -> dict[str, Any]:
    return {"epoch": best.epoch, "val_score": best.val_score, "scores": dict(best.scores), "model": best.model}


def _unpacked_best(plain: dict[str, Any]) -> Best:
    """The only score was once the AUC."""
    if "val_auc" in plain:
        return Best(epoch=plain["epoch"], val_score=plain["val_auc"], model=plain["model"])
    return Best(**plain)
