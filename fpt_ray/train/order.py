"""In which order an epoch visits the rows, and which of them each of several workers holds."""

import itertools

import numpy as np
from jaxtyping import Int


def epoch_order(num_rows: int, batch_size: int, key: tuple[int, int]) -> Int[np.ndarray, "steps batch_size"]:
    """The row ids of every step of an epoch; rows beyond the last whole batch are left out (drop_last).

    The split is cut into strands of neighbouring rows, one for each place in the batch; each strand is shuffled by
    itself and gives one row to each step. So a worker needs only the rows of its own strands (see ``worker_rows``), and
    the batches are the same for any number of workers, and wherever the rows are read from.
    """
    generator = np.random.default_rng((*key, 0))
    steps = num_rows // batch_size
    bounds = [strand * num_rows // batch_size for strand in range(batch_size + 1)]
    strands = [generator.permutation(np.arange(*ends))[:steps] for ends in itertools.pairwise(bounds)]
    return np.stack(strands, axis=1)


def worker_rows(num_rows: int, batch_size: int, num_workers: int) -> list[range]:
    """The training rows each worker needs: those of its strands, which are neighbours."""
    firsts = [worker * (batch_size // num_workers) for worker in range(num_workers + 1)]
    return [range(*ends) for ends in itertools.pairwise(strand * num_rows // batch_size for strand in firsts)]
