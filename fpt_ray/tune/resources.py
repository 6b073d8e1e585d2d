"""What a trial asks of Ray: the share of a GPU that its predicted memory needs, or of the cores that its LPM needs.

So side networks share a card, and a full fine-tuning takes one alone. Ray does not limit memory, it only counts shares.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError

from fpt_ray.cluster import cluster_resources, computing_hosts, require_resources
from fpt_ray.config.trial import TrialConfig, reads_images
from fpt_ray.models.device import compute_device

WAITING_CPU = 0.01
"""What a trial holds that only waits for its workers; Ray refuses 0."""
_ROOM = 1.15
"""Predicted memory is taken this much larger: fragmentation, cuDNN's workspaces, other GPUs' contexts."""
_SMALLEST_GPU_SHARE = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How trials share the cluster."""

    workers: int
    """Workers of one trial."""
    cpus: float | None
    """Of one worker. Default: one, or all of a node where the LPM runs on CPUs in every step."""
    gpus: float | None
    """Share of a GPU of one worker. Default: what its predicted memory needs."""
    node_cpus: int
    """Of the smallest node."""
    gpu_bytes: int
    """Memory of a GPU; 0 where there are none."""

    def worker(self, trial: TrialConfig, peak_memory_bytes: float) -> dict[str, float]:
        """Resources of one worker of a trial."""
        alone = reads_images(trial) and not self.gpu_bytes
        share = {"CPU": self.cpus or float(self.node_cpus if alone else 1)}
        if self.gpu_bytes:
            share["GPU"] = self.gpus or gpu_share(peak_memory_bytes, self.gpu_bytes)
        if self.workers > 1:
            share["CPU"] -= WAITING_CPU
        return share

    def trial(self, trial: TrialConfig, peak_memory_bytes: float) -> dict[str, float]:
        """Resources of a trial itself: its worker's, or next to nothing where it has workers of its own."""
        return {"CPU": WAITING_CPU} if self.workers > 1 else self.worker(trial, peak_memory_bytes)


def gpu_share(peak_memory_bytes: float, gpu_bytes: int) -> float:
    """The share of a GPU, in hundredths; more than half of one is all of it: nothing of its kind fits beside it."""
    share = math.ceil(100 * _ROOM * peak_memory_bytes / gpu_bytes) / 100
    return 1.0 if share > 0.5 else max(_SMALLEST_GPU_SHARE, share)


def plan_packing(workers: int, cpus: float | None, gpus: float | None) -> tuple[Packing, int]:
    """(how trials share this cluster, how many trials at most run at once on what it has now).

    Raises:
        ConfigError: the cluster cannot run one trial.
    """
    all_cpus, all_gpus = cluster_resources()
    require_resources("a trial", cpus=workers * (cpus or 1), gpus=workers * (gpus or 0.01) if all_gpus else 0)
    packing = Packing(
        workers=workers,
        cpus=cpus,
        gpus=gpus,
        node_cpus=min((int(host["CPU"]) for host in computing_hosts()), default=1),
        gpu_bytes=_gpu_bytes() if all_gpus else 0,
    )
    return packing, max(1, int(all_cpus / (workers * (cpus or 1))))


def _gpu_bytes() -> int:
    """Memory of a GPU of this cluster, asked of a task that holds a little of one."""
    ask: Callable[[], Any] = ray.remote(num_gpus=0.01, num_cpus=0)(_memory_of_first_gpu).remote
    try:
        return ray.get(ask())
    except RayTaskError as error:  # a GPU that PyTorch cannot use there, told as it is told here
        raise error.cause from None


def _memory_of_first_gpu() -> int:
    return torch.cuda.get_device_properties(compute_device()).total_memory
