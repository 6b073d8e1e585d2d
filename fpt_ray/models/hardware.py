"""What a process computes on: taken where the work is done, and passed along to where decisions are made."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from fpt_ray.models.device import compute_device


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """A device as far as precision, memory and predicted cost depend on it."""

    device: Literal["cpu", "cuda"]
    name: str
    """The GPU's own, or cpu."""
    has_bfloat16: bool
    """Whether it multiplies bfloat16 itself; emulation does not count."""
    memory_bytes: int = 0
    """Of a GPU."""


def hardware_here() -> Hardware:
    """What this process computes on. A driver asks a worker, whose host may be of another kind."""
    return hardware_of(compute_device())


@lru_cache(maxsize=32)
def hardware_of(device: torch.device) -> Hardware:
    """What a device of this process is."""
    if device.type != "cuda":
        return Hardware(device="cpu", name="cpu", has_bfloat16=torch.cpu._is_avx512_bf16_supported())
    properties = torch.cuda.get_device_properties(device)
    return Hardware(
        device="cuda",
        name=properties.name,
        has_bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        memory_bytes=properties.total_memory,
    )
