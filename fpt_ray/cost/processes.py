"""Many predictions at once."""

import gc
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, get_context
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


_NEEDED = ["fpt_ray.cost.prediction", "peft"]
"""Modules whose import takes seconds: once, in the process that the others are forked from, which does nothing else."""


def begin() -> None:
    """Has them imported from now on, beside this process's own imports."""
    forkserver.set_forkserver_preload(_NEEDED)
    forkserver.ensure_running()


def each(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
    """The function's results in order, from several processes where there are many."""
    if len(items) < 5:
        return [function(item) for item in items]
    begin()
    context = get_context("forkserver")  # of a process without autograd's threads, which do not survive a fork
    # Few of the objects of a trace are garbage while it lasts, and to look for it takes a fifth of the time.
    with ProcessPoolExecutor(mp_context=context, initializer=gc.set_threshold, initargs=(100_000,)) as pool:
        return list(tqdm(pool.map(function, items), total=len(items), desc="predict"))
