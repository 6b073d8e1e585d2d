"""Images in class folders become rows whose neighbours are of any class, in an order that the table alone decides.

Batches are compared with those of a random order; training from one place with the same from another.
"""

import dataclasses
import hashlib
from functools import partial

import numpy as np
import pytest
import torch

from fpt_ray.config.space import need_of
from fpt_ray.config.trial import BackboneConfig, FeaturesConfig, SideConfig, TrainingConfig, TrialConfig
from fpt_ray.features import shards
from fpt_ray.features.joining import join
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.shards import shard_table, write_shard
from fpt_ray.features.spec import SUMMARIES, columns_of, store_spec
from fpt_ray.features.store import add_shards, empty_store
from fpt_ray.images.table import ImageRow
from fpt_ray.models.importance import Extracted
from fpt_ray.models.methods import make_model
from fpt_ray.models.step import take_step
from fpt_ray.preload.pipeline import plan_shards
from fpt_ray.train import loop
from fpt_ray.train.loop import fit
from fpt_ray.train.order import epoch_order
from fpt_ray.train.seeds import assignment_of
from tests.conftest import SMALL
from tests.stores import image_table, rows_from_files, rows_in_memory, rows_on_device, rows_on_disk

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
    return image_table(rows, ("0", "1"))


def single_class_share(labels, batch_size):
    batches = labels[epoch_order(len(labels), batch_size, (0, 1))]
    return float(np.mean([len(set(batch)) == 1 for batch in batches]))


def test_batches_are_as_mixed_as_at_random(tmp_path):
    """Of the rows of a split as they stand in the order of hashes; in that of paths, a batch holds the same share."""
    table = class_folders(4000)
    labels = np.array([row.label for row in sorted(table.rows_at(table.of("train")), key=lambda row: row.sha256)])
    assert sum(labels) == 2000
    at_random = 2 * 0.5**8
    assert single_class_share(labels, 8) < 5 * at_random
    plans = plan_shards(table, empty_store("store", store_spec(need_of(TRIAL))), len(table))
    hashes = [image.sha256 for plan in plans for image in plan.images.rows()]
    assert hashes == sorted(row.sha256 for row in table.rows())
    assert len({plan.path for plan in plans}) == len(plans) > 5


@pytest.mark.parametrize(
    ("images", "expected"), [(6, [6]), (64, [8] * 8), (400, [25] * 16), (20_000, [512] * 39 + [32])]
)
def test_few_images_make_more_shards_that_are_smaller(images, expected):
    store = empty_store("store", store_spec(need_of(TRIAL)))
    table = class_folders(images - 2, 0)
    found = plan_shards(table, store, images)
    assert [len(plan.images) for plan in found] == expected
    left = table.take(table.by_hash()[expected[0] :])  # as after a kill
    again = plan_shards(left, store, images) if len(left) else []
    assert [plan.path for plan in again] == [plan.path for plan in found[1:]]


def summary_of(sha256, spec):
    generator = torch.Generator().manual_seed(int(sha256[:8], 16) + 1)
    return torch.randn(spec.backbone_depth, 2, spec.width, generator=generator)


def separable(images, spec):
    """Features that tell the classes apart, the same for an image wherever it stands."""
    pattern = torch.randn(
        2, len(spec.blocks), spec.num_heads, spec.num_kept, spec.head_width, generator=torch.manual_seed(0)
    )
    noise = [
        torch.randn(pattern.shape[1:], generator=torch.Generator().manual_seed(int(image.sha256[:8], 16)))
        for image in images
    ]
    one = torch.stack([0.13 * pattern[image.label] + own for image, own in zip(images, noise, strict=True)], dim=1)
    keys = one.half()
    summaries = torch.stack([summary_of(image.sha256, spec) for image in images], dim=2)
    return Extracted(keys, -keys, torch.zeros(keys.shape[:-1], dtype=torch.long), summaries)


def stored(folder, table, spec, per_generation):
    """A store of this table's images that grew by so many of them at a time, in an order of its own."""
    store = empty_store(str(folder), spec)
    rows = sorted(table.rows(), key=lambda row: row.sha256[::-1])
    for first in range(0, len(rows), per_generation):
        added = []
        for plan in plan_shards(image_table(rows[first : first + per_generation]), store, len(rows)):
            images = plan.images.rows()
            low = [np.zeros((len(plan.images), 32, 32, 3), np.uint8)]
            shard = shard_table(images, low, separable(images, spec), spec)
            added.append((write_shard(plan.uri, shard, spec), plan.images.hashes()))
        store = add_shards(store, added)
    return join(store, table)


def losses(features, read):
    torch.manual_seed(0)
    cut = trial_slice(TRIAL, features.spec)
    rows = {split: read(features, split, cut) for split in ("train", "val")}
    model, steps = make_model(TRIAL, 2), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "take_step", lambda *given: steps.append(take_step(*given)) or steps[-1])
        epochs = list(fit(model, rows["train"], rows["val"], TRIAL, assignment_of(features, torch.device("cpu"))))
    return [float(loss) for loss in steps], epochs[-1].val_score


def test_the_same_seed_gives_the_same_losses_from_every_place_and_however_the_store_grew(tmp_path, monkeypatch):
    """Bit for bit: of a store made at once, and of one of three generations, from each of the four places."""
    spec = dataclasses.replace(store_spec(need_of(TRIAL)), weights_digest="y")
    monkeypatch.setattr(shards, "_ROW_GROUP_BYTES", 8 * sum(shards.column_widths(spec).values()))
    table = class_folders()
    once = stored(tmp_path / "once", table, spec, 402)
    grown = stored(tmp_path / "grown", table, spec, 150)
    assert (len(once.shards), len(grown.shards)) == (16, 6 + 6 + 4)
    hashes = sorted(row.sha256 for row in table.rows_at(table.of("train")))
    assert [bytes(row).hex() for row in once.splits["train"].hashes] == hashes
    on_disk = partial(rows_on_disk, folder=tmp_path / "disk")
    places = (rows_from_files, rows_in_memory, on_disk, rows_on_device)
    found = [losses(features, read) for features in (once, grown) for read in places]
    assert len(found[0][0]) == TRIAL.training.epochs * (240 // 8)
    assert found[0][1] > 0.85
    assert found[1:] == found[:1] * 7


def test_class_tokens_and_mean_patch_tokens_are_the_same_from_every_place(tmp_path):
    """They are those of the image with the row's hash, and nothing else of the store is read."""
    spec = dataclasses.replace(store_spec(need_of(TRIAL)), weights_digest="y")
    table = class_folders(24, 8)
    features = stored(tmp_path / "store", table, spec, 20)
    cut = trial_slice(dataclasses.replace(TRIAL, method="layer_fusion"), spec)
    assert columns_of(spec, cut) == [SUMMARIES]
    on_disk = partial(rows_on_disk, folder=tmp_path / "disk")
    for read in (rows_from_files, rows_in_memory, on_disk, rows_on_device):
        batch = read(features, "train", cut).take(np.array([5, 0, 17]))
        assert (batch.low_res, batch.keys, batch.values) == (None, None, None)
        assert batch.summaries.shape == (3, 12, 2, 192)
        for row, found in zip([5, 0, 17], batch.summaries, strict=True):
            told = summary_of(bytes(features.splits["train"].hashes[row]).hex(), spec)
            assert torch.equal(found, told.half())
