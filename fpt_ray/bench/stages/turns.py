"""What all comparisons share: ratios of runs that took turns, and how they are printed."""

import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


def speedup_of(plain_s: Sequence[float], ours_s: Sequence[float]) -> float:
    """How many times as fast ours are: the median over the pairs that took turns."""
    return statistics.median(plain / ours for plain, ours in zip(plain_s, ours_s, strict=True))


def share_of_limit(limit_s: float, ours_s: Sequence[float]) -> float:
    """The share of our median seconds that the machine needs at its own rates."""
    return limit_s / statistics.median(ours_s)


def machine_load() -> float:
    """Processes that ran or waited for a core over the last minute, ours included: beside others, only ratios count."""
    return os.getloadavg()[0]


@contextmanager
def all_cores() -> Iterator[int]:
    """Has PyTorch compute on every core of this process, whatever OMP_NUM_THREADS says; gives their number."""
    before, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    try:
        yield cores
    finally:
        torch.set_num_threads(before)


def seconds_text(name: str, seconds: Sequence[float]) -> tuple[str, str]:
    """A row of the median of some seconds."""
    return name, f"{statistics.median(seconds):.4g} s"


def rows_text(head: str, rows: Sequence[tuple[str, str]]) -> str:
    """A headline, and rows of a name and a value."""
    return "\n".join([head, *(f"  {name:<34}{value}" for name, value in rows)])
