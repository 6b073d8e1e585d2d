"""In which order an epoch visits the rows, and which of them each of several workers holds."""

import itertools

import numpy as np
from jaxtyping import Float, Int

_TURNS = 50


def epoch_order(
    num_rows: int, batch_size: int, key: tuple[int, int], balanced: Int[np.ndarray, " rows"] | None = None
) -> Int[np.ndarray, "steps batch_size"]:
    """The row ids of every step of an epoch; rows beyond the last whole batch are left out (drop_last).

    The split is cut into strands of neighbouring rows, one for each place in the batch; each strand is shuffled by
    itself and gives one row to each step. So a worker needs only the rows of its own strands (see ``worker_rows``), and
    the batches are the same for any number of workers, and wherever the rows are read from.

    With the classes of all rows (``balanced``), each strand gives as many rows of a class as brings the classes of the
    epoch to equal shares: rows of rare ones several times, of common ones not all.
    """
    generator = np.random.default_rng((*key, 0))
    steps = num_rows // batch_size
    bounds = [strand * num_rows // batch_size for strand in range(batch_size + 1)]
    strands = [np.arange(*ends) for ends in itertools.pairwise(bounds)]
    if balanced is None:
        return np.stack([generator.permutation(strand)[:steps] for strand in strands], axis=1)
    _, classes = np.unique(balanced, return_inverse=True)
    shares = _class_shares(np.stack([np.bincount(classes[strand], minlength=classes.max() + 1) for strand in strands]))
    drawn = [_drawn(strand, classes[strand], of, steps, generator) for strand, of in zip(strands, shares, strict=True)]
    return np.stack(drawn, axis=1)


def _class_shares(counts: Int[np.ndarray, "strands C"]) -> Float[np.ndarray, "strands C"]:
    """The share of each class in what each strand gives: 1 over the classes, and alike over the strands.

    Both are met in turns (iterative proportional fitting), as far as a class stands in enough strands.
    """
    shares = counts / counts.sum(axis=0)
    for _ in range(_TURNS):
        shares = shares / shares.sum(axis=0)
        shares = shares / shares.sum(axis=1, keepdims=True)
    return shares


def _drawn(
    rows: Int[np.ndarray, " R"],
    classes: Int[np.ndarray, " R"],
    shares: Float[np.ndarray, " C"],
    steps: int,
    generator: np.random.Generator,
) -> Int[np.ndarray, " steps"]:
    """So many rows of a strand, by the shares of their classes; a row comes again once all of its class have come."""
    wanted = generator.choice(len(shares), steps, p=shares)
    found = np.empty(steps, np.int64)
    for one in np.unique(wanted):
        places, members = np.flatnonzero(wanted == one), rows[classes == one]
        rounds = [generator.permutation(members) for _ in range(-(-len(places) // len(members)))]
        found[places] = np.concatenate(rounds)[: len(places)]
    return found


def worker_rows(num_rows: int, batch_size: int, num_workers: int) -> list[range]:
    """The training rows each worker needs: those of its strands, which are neighbours."""
    firsts = [worker * (batch_size // num_workers) for worker in range(num_workers + 1)]
    return [range(*ends) for ends in itertools.pairwise(strand * num_rows // batch_size for strand in firsts)]
