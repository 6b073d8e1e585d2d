"""What a trial asks of Ray: the share of a GPU that its predicted memory needs, or of the cores that its LPM needs.

So side networks share a card, and a full fine-tuning takes one alone. Ray does not limit memory, it only counts shares.
"""

import math
from dataclasses import dataclass

from fpt_ray.cluster import hosts_may_join, require_resources, room_for, working_hosts
from fpt_ray.config.trial import TrialConfig, reads_images
from fpt_ray.models.hardware import Hardware

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
    hardware: Hardware
    """Of a worker."""

    def worker(self, trial: TrialConfig, peak_memory_bytes: float) -> dict[str, float]:
        """Resources of one worker of a trial."""
        on_gpu = self.hardware.device == "cuda"
        alone = reads_images(trial) and not on_gpu
        share = {"CPU": self.cpus or float(self.node_cpus if alone else 1)}
        if on_gpu:
            share["GPU"] = self.gpus or gpu_share(peak_memory_bytes, self.hardware.memory_bytes)
        if self.workers > 1:
            share["CPU"] -= WAITING_CPU
        return share

    def trial(self, trial: TrialConfig, peak_memory_bytes: float) -> dict[str, float]:
        """Resources of a trial itself: its worker's, or next to nothing where it has workers of its own."""
        return {"CPU": WAITING_CPU} if self.workers > 1 else self.worker(trial, peak_memory_bytes)

    def has_room(self, peak_memory_bytes: float) -> bool:
        """Whether a trial's only worker can hold so much: on a GPU, in its share; a CPU's memory is not counted."""
        limit = (self.gpus or 1) * self.hardware.memory_bytes if self.hardware.device == "cuda" else math.inf
        return self.workers == 1 and _ROOM * peak_memory_bytes <= limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Crowd:
    """How many trials run at a time."""

    at_once: int | None
    """Of Tune's; None: as many as find room."""
    together: int
    """At most so many of the study's train as one model, which is one of Tune's."""
    spread: bool = False
    """They are fewer where some of Tune's that may run at once would have none."""

    def most_together(self, left: int) -> int:
        """How many train as one model where so many are left."""
        share = math.ceil(left / (self.at_once or 1)) if self.spread else left
        return max(1, min(self.together, share))


def gpu_share(peak_memory_bytes: float, gpu_bytes: int) -> float:
    """The share of a GPU, in hundredths; more than half of one is all of it: nothing of its kind fits beside it."""
    share = math.ceil(100 * _ROOM * peak_memory_bytes / gpu_bytes) / 100
    return 1.0 if share > 0.5 else max(_SMALLEST_GPU_SHARE, share)


def plan_packing(
    workers: int, cpus: float | None, gpus: float | None, hardware: Hardware
) -> tuple[Packing, int | None]:
    """(how trials share this cluster, how many trials at most run at once).

    It is as many as there is room for now. Where hosts may join it is None: Tune always has one trial more that waits
    for room, which brings the next host, until none can join. Trials with workers of their own hold next to nothing
    themselves, so that they are counted all the same. ``hardware`` is what a worker says of itself.

    Raises:
        ConfigError: the cluster cannot run one trial.
    """
    least = {"CPU": cpus or 1.0, "GPU": (gpus or _SMALLEST_GPU_SHARE) if hardware.device == "cuda" else 0.0}
    require_resources("a trial", cpus=least["CPU"], gpus=least["GPU"], workers=workers)
    hosts = working_hosts()
    packing = Packing(
        workers=workers,
        cpus=cpus,
        gpus=gpus,
        node_cpus=min((int(host.get("CPU", 0)) for host in hosts), default=1),
        hardware=hardware,
    )
    if workers == 1 and hosts_may_join():
        return packing, None
    return packing, max(1, room_for(least, hosts) // workers)
