"""Several trials at once on one device, in processes of their own or as one model, rows on the device. No Ray."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.multiprocessing.spawn import spawn

from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import TrialConfig, with_seed
from fpt_ray.features.rows import Batch, Memory, fresh_memory
from fpt_ray.models.backbone import backbone_shape, kept_tokens
from fpt_ray.models.methods import make_model
from fpt_ray.models.together import Together
from fpt_ray.train.evaluation import Assignment
from fpt_ray.train.loop import fit_together

_CLASSES = ("0", "1")
_PATIENCE_S = 600
"""So long a process may take to its first epoch's end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialsAtOnce:
    """What so many processes did that trained at once, each so many trials as one model."""

    processes: int
    as_one: int
    seconds_per_epoch: float
    """Of the slowest process."""
    trials_per_hour: float
    """Of all trials, of as many epochs as the configuration has; start-up left out."""
    allocated_bytes: int
    """At most, of one process, by CUDA's allocator; 0 on a CPU."""
    reserved_bytes: int


class ResidentRows:
    """Random rows of a trial that lie on a device."""

    def __init__(self, trial: TrialConfig, count: int, device: torch.device) -> None:
        shape, side = backbone_shape(trial.backbone.name), trial.side
        kept = kept_tokens(shape.num_tokens(trial.features.resolution), trial.features.token_ratio)
        size, stored = (
            (side.depth, count, shape.num_heads, kept, shape.head_width),
            getattr(torch, trial.features.dtype),
        )
        generator = torch.Generator(device).manual_seed(0)
        self.keys, self.values = (torch.randn(size, dtype=stored, device=device, generator=generator) for _ in range(2))
        pixels = (count, side.resolution, side.resolution, 3)
        self.low_res = torch.randint(0, 256, pixels, dtype=torch.uint8, device=device, generator=generator)
        self.row_ids = np.arange(count)
        self.labels = self.row_ids % len(_CLASSES)
        self.device_bytes = sum(kind.nbytes for kind in (self.keys, self.values, self.low_res))

    def __len__(self) -> int:
        return len(self.row_ids)

    def take(self, row_ids: Any, memory: Memory = fresh_memory) -> Batch:
        """A copy of these rows, on the device."""
        del memory  # the host's
        ids = np.asarray(row_ids)
        at = torch.as_tensor(ids, device=self.keys.device)
        labels = torch.as_tensor(self.labels[ids], device=at.device)
        return Batch(low_res=self.low_res[at], keys=self.keys[:, at], values=self.values[:, at], labels=labels)


def measure_at_once(
    trial: TrialConfig, processes: int, as_one: int = 1, *, rows: int, epochs: int, device: torch.device
) -> TrialsAtOnce:
    """Trains equal trials at once for some epochs, from the moment when all have finished one.

    In each of so many processes there are ``as_one`` of them, of different seeds, as one model.

    Raises:
        torch.multiprocessing.ProcessRaisedException: a process failed.
    """
    context = torch.multiprocessing.get_context("spawn")
    together, found = context.Barrier(processes), context.SimpleQueue()
    training = replace(trial.training, epochs=1 + epochs)
    arguments = (replace(trial, training=training), as_one, rows, str(device), together, found)
    spawn(_train, arguments, nprocs=processes)
    taken: list[tuple[float, int, int]] = [found.get() for _ in range(processes)]
    seconds, allocated, reserved = (max(kind) for kind in zip(*taken, strict=True))
    per_epoch = seconds / epochs
    return TrialsAtOnce(
        processes=processes,
        as_one=as_one,
        seconds_per_epoch=per_epoch,
        trials_per_hour=processes * as_one * 3600 / (per_epoch * trial.training.epochs),
        allocated_bytes=int(allocated),
        reserved_bytes=int(reserved),
    )


def _train(_rank: int, trial: TrialConfig, as_one: int, rows: int, device_name: str, together: Any, found: Any) -> None:
    """A process: trains, and says how long it took from the start that all share, and what it held at most."""
    device, shape = torch.device(device_name), backbone_shape(trial.backbone.name)
    held = ResidentRows(trial, rows, device)
    target = Target(task="multiclass", classes=_CLASSES)
    assignment = Assignment(target=target, mean=shape.mean, std=shape.std, num_train=rows, device=device)
    trials = [with_seed(trial, further) for further in range(as_one)]
    networks = [make_model(one, len(_CLASSES)).to(device) for one in trials]
    model = Together(networks) if as_one > 1 else networks[0]
    epochs = fit_together(model, held, held, trials, assignment, ())
    next(epochs)
    together.wait(_PATIENCE_S)
    seconds = sum(epoch.seconds for each in epochs for epoch in each)
    on_gpu = device.type == "cuda"
    allocated = torch.cuda.max_memory_allocated(device) if on_gpu else 0
    found.put((seconds, allocated, torch.cuda.max_memory_reserved(device) if on_gpu else 0))
