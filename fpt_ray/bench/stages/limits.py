"""What the machine gives at most, measured in the run that is to be compared with it: a product, and a copy."""

import statistics
import time
from collections.abc import Callable

import torch


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of some work, to its end on the device."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def product_flops_per_s(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 2048) -> float:
    """Operations a second of a product of square matrices; the median of five."""
    one, out = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: torch.mm(one, one, out=out), device)


def moved_bytes_per_s(device: torch.device, size_bytes: int = 2**27) -> float:
    """Bytes read and written a second by a copy into memory that is there; the median of five."""
    source, target = (torch.ones(size_bytes, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size_bytes / median_seconds(lambda: target.copy_(source), device)


def median_seconds(work: Callable[[], object], device: torch.device, runs: int = 5) -> float:
    """The median seconds of some runs, after one that does not count."""
    seconds_of(work, device)
    return statistics.median(seconds_of(work, device) for _ in range(runs))
