"""Seconds to copy a batch of rows out of memory."""

from dataclasses import replace

import numpy as np
import torch

from fpt_ray.bench.made import random_shard
from fpt_ray.bench.stages.limits import median_seconds
from fpt_ray.config.space import need_of
from fpt_ray.config.trial import TrialConfig
from fpt_ray.features.joining import Features, SplitRows
from fpt_ray.features.places import GroupsAtHand
from fpt_ray.features.rows import Rows, group_of
from fpt_ray.features.spec import StoreSpec, bytes_per_row, everything, store_spec
from fpt_ray.images.table import ImageRow, content_hashes


def bench_read(rows: int, runs: int) -> None:
    """Seconds to copy a batch of 16 rows out of a store in shared memory, at the paper's setting, whole and halved."""
    spec = store_spec(need_of(TrialConfig()))
    place, features = _random_rows(spec, rows)
    ids = np.random.default_rng(0).permutation(rows)[:16]
    print(f"{bytes_per_row(spec) / 1e6:.2f} MB a row")
    for cut in (everything(spec), replace(everything(spec), blocks=spec.blocks[3:], num_kept=102)):
        view = Rows(place, features, "train", cut)
        seconds = median_seconds(lambda view=view: view.take(ids), torch.device("cpu"), runs)
        batch = view.take(ids)
        assert batch.keys is not None
        print(f"{cut}: {seconds * 1e3:.1f} ms a batch, {2 * batch.keys.nbytes / seconds / 1e9:.2f} GB/s")


def _random_rows(spec: StoreSpec, rows: int) -> tuple[GroupsAtHand, Features]:
    images = tuple(ImageRow(path=str(i), label=0, split="train", sha256=f"{i:064x}") for i in range(rows))
    low = [np.zeros((rows, side, side, 3), np.uint8) for side in spec.low_resolutions]
    table, numbers = random_shard(images, low, spec, seed=0), np.arange(rows)
    split = SplitRows(hashes=content_hashes(images), labels=numbers * 0, shards=numbers * 0, rows=numbers)
    features = Features(
        uri="", spec=spec, shards=(), classes=(), splits={"train": split}, table_digest="", data_note="", skipped=()
    )
    return GroupsAtHand({0: (numbers, group_of(table, spec, everything(spec)))}), features
