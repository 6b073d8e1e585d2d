"""Evidence by a worker, whose GPU the predictions were made on; the driver's host may have none."""

from functools import partial
from typing import Any

import pyarrow as pa
import ray
import torch

from fpt_ray.cluster import ask_worker, working_hosts
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.predict.ensemble import Ensemble, handed_over, taken_over
from fpt_ray.predict.evidence.writing import TABLE_FILE, Plan, write_evidence
from fpt_ray.predict.listing import Listing
from fpt_ray.storage.files import exists


def evidence_by_worker(ensemble: Ensemble, listing: Listing, plan: Plan, answers: pa.Table, workdir: str) -> str:
    """``write_evidence`` of the best member on a worker; Ray runs. All hosts must see the folders that it names.

    Raises:
        ConfigError: an image has gone, or the folder that the worker wrote is not seen here.
        StorageError: S3 fails.
    """
    say(f"evidence: a worker looks at {len(plan.chosen)} images")
    best = Ensemble(members=ensemble.members[:1])
    threads = int(min((host.get("CPU", 1) for host in working_hosts()), default=1))
    shared = (ray.put(handed_over(best)),)
    text = ask_worker(partial(_written, shared, max(1, threads), listing, plan, answers, workdir))
    if not exists(f"{plan.folder}/{TABLE_FILE}"):
        raise ConfigError(
            f"evidence: a worker wrote {plan.folder} on its own host; give a folder that all hosts see, or s3://..."
        )
    return text


def _written(shared: tuple[Any], threads: int, listing: Listing, plan: Plan, answers: pa.Table, workdir: str) -> str:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # no actor computes meanwhile; Ray gives a small task one
    try:
        return write_evidence(taken_over(ray.get(shared[0])).members[0], listing, plan, answers, workdir)
    finally:
        torch.set_num_threads(before)
