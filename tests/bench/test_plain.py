"""What ours is timed against computes the same: features, losses and answers are those of ours, within float32.

So no ratio is that of a baseline that does something else.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from fpt_ray.bench.made import inspected_here, made_features, write_jpegs
from fpt_ray.bench.plain import extraction
from fpt_ray.bench.plain.extraction import features_file, plain_extractor, plain_preload
from fpt_ray.bench.plain.step import plain_network, plain_probabilities, plain_step
from fpt_ray.bench.plain.training import PlainImages, plain_epochs
from fpt_ray.bench.stages.epoch import our_epochs, plain_copies
from fpt_ray.bench.stages.epoch import shared_rows as in_memory
from fpt_ray.bench.stages.epoch import stored_rows as in_files
from fpt_ray.config.trial import override, trial_from
from fpt_ray.images.decoding import decode
from fpt_ray.images.picture import resize
from fpt_ray.images.pixels import normalise
from fpt_ray.models.importance import extract
from fpt_ray.models.weights import load_backbone
from fpt_ray.train import loop
from fpt_ray.train.order import epoch_order

CPU = torch.device("cpu")
TRIAL = trial_from(
    {
        "backbone.name": "vit_tiny_patch16_224",
        "backbone.weights": "random",
        "features.resolution": 64,
        "features.token_ratio": 0.3,
        "features.dtype": "float32",
        "side.depth": 2,
        "side.num_prompts": 3,
        "side.reduction": 4,
        "side.resolution": 32,
        "side.prompt_dropout": 0.0,
        "training.augment": False,
        "training.batch_size": 4,
        "training.epochs": 2,
        "training.learning_rate": 0.01,
        "training.precision": "float32",
    }
)


@pytest.fixture(scope="module")
def lpm():
    """An LPM whose attention tells tokens apart: at random, all are nearly as important."""
    model = load_backbone(TRIAL.backbone, 64)
    for block in model.blocks:
        block.attn.qkv.weight.mul_(8)
    return model


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_jpegs(tmp_path_factory.mktemp("images"), {"train": 8, "val": 5, "test": 2}, size=64)


# --- extraction ---------------------------------------------------------------------------------------------------


def test_their_keys_and_values_are_ours_in_the_same_order(lpm):
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ours = extract(lpm, pixels, blocks=(4, 11), num_kept=7)
    keys, values = plain_extractor(copy.deepcopy(lpm), (4, 11), 7)(pixels)
    torch.testing.assert_close(keys, ours.keys, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(values, ours.values, atol=1e-4, rtol=1e-4)


def test_each_image_becomes_a_file_of_float32(images, lpm, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "load_backbone", lambda *_: copy.deepcopy(lpm))
    files = sorted(images.rglob("*.jpg"))
    plain_preload(files, TRIAL, tmp_path, CPU)
    assert sorted(file.stem for file in tmp_path.iterdir()) == sorted(file.stem for file in files)
    pixels = torch.from_numpy(resize(decode(files[3].read_bytes(), ""), 64))[None]
    ours = extract(lpm, normalise(pixels, (0.5,) * 3, (0.5,) * 3), blocks=(10, 11), num_kept=5)
    found = load_file(features_file(files[3], tmp_path))
    assert found["keys"].dtype == found["values"].dtype == torch.float32
    torch.testing.assert_close(found["keys"], ours.keys[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["values"], ours.values[:, 0], atol=1e-4, rtol=1e-4)


# --- training -----------------------------------------------------------------------------------------------------


class OurOrder:
    """The rows of every step in the order of our loop, epoch after epoch."""

    def __init__(self):
        self.epoch = 0

    def __len__(self):
        return 2

    def __iter__(self):
        self.epoch += 1
        return iter(epoch_order(8, 4, (TRIAL.training.seed, self.epoch)).tolist())


@pytest.mark.parametrize("read", [in_files, in_memory])
def test_their_epochs_take_the_losses_of_ours_on_the_same_rows(images, tmp_path, monkeypatch, read):
    """From the first step of the first epoch to the last one's validation: pixels, features, steps and answers."""
    table = inspected_here(images)
    features = made_features(str(tmp_path / "store"), table, TRIAL)
    splits = plain_copies(table, features, TRIAL, tmp_path / "plain")
    train, val = (PlainImages(splits[name], tmp_path / "plain", TRIAL, augmented=False) for name in ("train", "val"))
    loaders = {"train": DataLoader(train, batch_sampler=OurOrder()), "val": DataLoader(val, batch_size=4)}
    theirs = list(plain_epochs(loaders, TRIAL, table.classes, CPU))

    steps, take_step = [], loop.take_step
    monkeypatch.setattr(loop, "take_step", lambda *given: steps.append(take_step(*given)) or steps[-1])
    rows = [read(features, split, TRIAL) for split in ("train", "val")]
    ours = list(our_epochs(TRIAL, features, rows, CPU))
    assert [loss for epoch in theirs for loss in epoch.losses] == pytest.approx([float(one) for one in steps], abs=1e-5)
    assert len(steps) == 4
    assert steps[0] != pytest.approx(float(steps[3]), abs=1e-3), "the updates must move the weights"
    assert [epoch.val["auc"] for epoch in theirs] == [epoch.val_score for epoch in ours]
    assert all(0 < epoch.data_seconds < epoch.seconds for epoch in theirs)


def test_what_they_say_of_a_batch_knows_no_dropout_and_training_does():
    trial = override(TRIAL, {"side.prompt_dropout": 0.5})
    generator = torch.Generator().manual_seed(0)
    keys, values = torch.randn(2, 4, 2, 3, 5, 64, generator=generator)
    batch = (torch.rand(4, 3, 32, 32, generator=generator), keys, values, torch.tensor([0, 1, 0, 1]))
    network, quiet = plain_network(trial, 2), plain_network(TRIAL, 2)
    assert torch.equal(plain_probabilities(network, batch, trial), plain_probabilities(quiet, batch, TRIAL))
    steps = {name: plain_step(one.train(), TRIAL, 2) for name, one in (("dropped", network), ("whole", quiet))}
    losses = {name: [float(step(batch)) for _ in range(2)] for name, step in steps.items()}
    assert losses["dropped"][1] != losses["whole"][1]


def test_their_training_images_are_augmented_from_the_original_each_time(images, tmp_path):
    files = sorted((images / "train").rglob("*.jpg"))[:1]
    extraction.save_features(files[0], tmp_path, torch.zeros(2, 3, 5, 64), torch.ones(2, 3, 5, 64))
    labelled = [(files[0], 1)]
    augmented, plain = (PlainImages(labelled, tmp_path, TRIAL, augmented=one) for one in (True, False))
    assert not torch.equal(augmented[0][0], augmented[0][0])
    low_res, keys, values, label = plain[0]
    expected = np.array(resize(decode(Path(files[0]).read_bytes(), ""), 32), np.float32) / 255
    torch.testing.assert_close(low_res, torch.from_numpy(expected).permute(2, 0, 1))
    assert (float(keys.sum()), float(values.mean()), label) == (0.0, 1.0, 1)
