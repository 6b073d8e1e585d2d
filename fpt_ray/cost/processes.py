"""Many predictions at once."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from tqdm.auto import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
    """The function's results in order, from several processes where there are many."""
    if len(items) < 5:
        return [function(item) for item in items]
    # Forked from a process that has imported what takes seconds, once for all, and has none of autograd's threads, that
    # do not survive a fork.
    context = get_context("forkserver")
    context.set_forkserver_preload(["fpt_ray.cost.garbage", "fpt_ray.cost.prediction", "peft"])  # in this order
    with ProcessPoolExecutor(mp_context=context) as pool:
        return list(tqdm(pool.map(function, items), total=len(items), desc="predict"))
