"""Images in class folders become rows whose neighbours are of any class: what a streaming reader sees is mixed.

Batches are compared with those of a random order; a network that streams, with the same one that reads from memory.
"""

import dataclasses
import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fpt_ray.config.trial import BackboneConfig, FeaturesConfig, SideConfig, TrainingConfig, TrialConfig
from fpt_ray.features import shards
from fpt_ray.features.rows import rows_from_files, rows_from_tables
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.shards import shard_table, write_shard
from fpt_ray.features.spec import store_spec
from fpt_ray.features.store import open_store, write_manifest
from fpt_ray.images.table import ImageRow, ImageTable
from fpt_ray.models.importance import Extracted
from fpt_ray.models.methods import make_model
from fpt_ray.preload.pipeline import plan_shards
from fpt_ray.train.loop import fit
from fpt_ray.train.order import epoch_order
from fpt_ray.train.seeds import trial_task
from tests.conftest import SMALL

TRIAL = TrialConfig(
    backbone=BackboneConfig(name=SMALL, weights="random"),
    features=FeaturesConfig(resolution=96, token_ratio=0.1),
    side=SideConfig(depth=2, num_prompts=3, reduction=4, resolution=32),
    training=TrainingConfig(epochs=4, batch_size=8, learning_rate=2e-3, augment=False),
)


def class_folders(train=240, val=160):
    """Images as a walk through class folders gives them: by path, all of a class together."""
    rows = [
        ImageRow(path=f"{label}/{i:04}.png", label=label, split=split, sha256=hashlib.sha256(name.encode()).hexdigest())
        for split, number in (("train", train), ("val", val), ("test", 2))
        for label in (0, 1)
        for i in range(number // 2)
        for name in [f"{split}{label}{i}"]
    ]
    return ImageTable(root="root", classes=("0", "1"), rows=tuple(rows))


def single_class_share(labels, batch_size, window):
    batches = labels[epoch_order(len(labels), batch_size, (0, 1), window)]
    return float(np.mean([len(set(batch)) == 1 for batch in batches]))


def test_batches_of_a_stream_are_as_mixed_as_at_random():
    table, spec = class_folders(4000), store_spec(TRIAL)
    plans = [plan for plan in plan_shards(table, spec, "store") if plan.split == "train"]
    labels = np.array([image.label for plan in plans for image in plan.images])
    assert sum(labels) == 2000
    by_folder = np.array([row.label for row in table.of("train")])
    assert single_class_share(by_folder, 8, 32) > 0.95
    at_random = 2 * 0.5**8
    assert single_class_share(labels, 8, 32) < 5 * at_random
    assert [plan.first_row for plan in plans] == [sum(len(p.images) for p in plans[:i]) for i in range(len(plans))]


def separable(images, spec):
    """Features that tell the classes apart, the same for an image wherever it stands."""
    pattern = torch.randn(2, spec.depth, spec.num_heads, spec.num_kept, spec.head_width, generator=torch.manual_seed(0))
    noise = [
        torch.randn(pattern.shape[1:], generator=torch.Generator().manual_seed(int(image.sha256[:8], 16)))
        for image in images
    ]
    one = torch.stack([0.13 * pattern[image.label] + own for image, own in zip(images, noise, strict=True)], dim=1)
    keys = one.half()
    return Extracted(keys, -keys, torch.zeros(keys.shape[:-1], dtype=torch.long))


@pytest.mark.parametrize("in_class_order", [False, True])
def test_a_stream_teaches_what_memory_teaches(in_class_order, tmp_path, monkeypatch):
    """In the order of paths it does not: the control, by which the test is seen to be able to fail."""
    spec = dataclasses.replace(store_spec(TRIAL), images_digest="x", weights_digest="y")
    monkeypatch.setattr(shards, "_ROW_GROUP_BYTES", 8 * sum(shards.column_widths(spec).values()))
    plans = plan_shards(class_folders(), spec, str(tmp_path))
    if in_class_order:
        plans = [
            dataclasses.replace(plan, images=tuple(sorted(plan.images, key=lambda image: image.path))) for plan in plans
        ]
    entries = []
    for plan in plans:
        low = np.zeros((len(plan.images), 32, 32, 3), np.uint8)
        table = shard_table(plan.images, plan.first_row, low, separable(plan.images, spec), spec)
        entries.append(write_shard(plan.uri, plan.split, table, spec))
    write_manifest(str(tmp_path), spec, ("0", "1"), entries)
    store = open_store(str(tmp_path))

    def best(read):
        torch.manual_seed(0)
        rows = {split: read(split) for split in ("train", "val")}
        model = make_model(TRIAL, 2)
        epochs = list(fit(model, rows["train"], rows["val"], TRIAL, trial_task(store, torch.device("cpu"))))
        return rows["train"].window, epochs[-1].val.auc

    cut = trial_slice(TRIAL, store)
    window, streamed = best(lambda split: rows_from_files(store, split, cut, 32))
    whole, kept = best(
        lambda split: rows_from_tables([pq.read_table(uri) for uri in store.shard_uris(split)], store.spec, cut, 32)
    )
    assert (window, whole) == (32, None)
    assert kept > 0.85
    assert (streamed > kept - 0.1) == (not in_class_order), (streamed, kept)
