"""Every task on every method: trained on images and features whose content tells the labels, better than by chance;
resumed against uninterrupted, seeds together against alone, two workers against one; nearest neighbours by hand."""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fpt_ray.config.tasks import Target
from fpt_ray.config.training import TrainingConfig
from fpt_ray.config.trial import FeaturesConfig, PetlConfig, TrialConfig, override
from fpt_ray.models.backbone import backbone_shape
from fpt_ray.models.loss import network_for
from fpt_ray.models.methods import load_learnable_state
from fpt_ray.models.step import learns
from fpt_ray.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fpt_ray.train.evaluation import Assignment, predict
from fpt_ray.train.loop import fit
from fpt_ray.train.order import worker_rows
from tests.conftest import SMALL, FakeRows
from tests.seeds import fit_one

TARGETS = {
    "binary": Target(task="binary", classes=("no", "yes")),
    "multiclass": Target(task="multiclass", classes=("a", "b", "c")),
    "ordinal": Target(task="ordinal", classes=("0", "1", "2")),
    "multilabel": Target(task="multilabel", classes=("x", "y")),
    "regression": Target(task="regression", classes=("age",)),
}
SIDE = ("fpt+", "fpt", "probe", "layer_fusion", "stored_linear_probe", "knn")
IMAGES = (
    "full_fine_tuning",
    "linear_probing",
    "prompt_tuning",
    "attention_tuning",
    "adapter",
    "bitfit",
    "lora",
    "adalora",
    "mlp_transfer",
)


def labels_of(task, kinds):
    """Labels that follow from which of three kinds an image is of; of several labels, some are missing."""
    if task == "binary":
        return np.minimum(kinds, 1)
    if task == "multilabel":
        labels = np.stack([kinds == 1, kinds >= 1], axis=1).astype(np.float32)
        labels[::5, 0] = np.nan
        return labels
    return 300.0 + 20.0 * kinds if task == "regression" else kinds


class TaskRows(FakeRows):
    """The features of ``FakeRows`` with labels of a task, and images of three brightnesses."""

    def __init__(self, task, rows, trial, part=None, split="train"):
        super().__init__(rows, trial, backbone_shape(SMALL), part, split)
        kinds = self.all_labels
        if trial.method in IMAGES:
            size = trial.features.resolution
            noise = torch.randint(0, 60, (rows, size, size, 3), generator=torch.Generator().manual_seed(3))
            self.low_res = (noise + 90 * torch.as_tensor(kinds)[:, None, None, None]).to(torch.uint8)
        self.all_labels = labels_of(task, kinds)
        self.labels = self.all_labels[self.row_ids]


def trial_of(method, **training):
    options = {"epochs": 2, "batch_size": 4, "learning_rate": 3e-3, "precision": "float32", "augment": False}
    trial = TrialConfig(
        method=method,
        features=FeaturesConfig(resolution=32),
        petl=PetlConfig(num_prompts=2, bottleneck=4),
        training=TrainingConfig(**{**options, **training}),
    )
    small = {"backbone.name": SMALL, "backbone.weights": "random", "side.depth": 2, "side.num_prompts": 3}
    return override(trial, {**small, "side.reduction": 4, "side.resolution": 32, "knn.neighbours": 5})


def setting(name, rows=18, **options):
    return Assignment(
        device=torch.device("cpu"), target=TARGETS[name], mean=(0.5,) * 3, std=(0.5,) * 3, num_train=rows, **options
    )


def trained(name, trial, resume=None, stop_after=None):
    """The epochs, and the last one."""
    rows = {split: TaskRows(name, size, trial, split=split) for split, size in (("train", 18), ("val", 12))}
    model, found = network_for(trial, TARGETS[name]), []
    for epoch in fit(model, rows["train"], rows["val"], trial, setting(name), resume):
        found.append((epoch.train_loss, epoch.val_score))
        if epoch.number == stop_after:
            break
    return found, epoch, rows["val"]


@pytest.mark.parametrize("method", [*SIDE, *IMAGES])
@pytest.mark.parametrize("name", TARGETS)
def test_every_head_on_every_method(name, method, tmp_path):
    """It trains, and what its checkpoint keeps says the same again, in the target's unit."""
    trial, target = trial_of(method), TARGETS[name]
    found, epoch, val = trained(name, trial)
    assert len(found) == (1 if method == "knn" else 2)
    save_checkpoint(Checkpoint(finished=(epoch.snapshot.best,), current=()), tmp_path)
    (best,) = load_checkpoint(tmp_path).best
    again = network_for(trial, target)
    load_learnable_state(again, best.model)
    said, labels = predict(again, val, trial, setting(name))
    assert said.shape == (12, len(target.classes))
    assert np.isfinite(said).all()
    if name == "regression":
        assert 250 < said.mean() < 390
    elif name != "multilabel":
        assert said.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert best.val_score == max(one for _, one in found)
    assert best.scores.keys() == {target.scores[0]}
    assert labels is val.labels


@pytest.mark.parametrize("name", TARGETS)
def test_it_learns_each_task(name):
    found, _, _ = trained(name, trial_of("stored_linear_probe", epochs=12, learning_rate=1e-2))
    assert found[-1][0] < found[0][0] / 2
    assert found[-1][1] > 0.9


@pytest.mark.parametrize("name", ["ordinal", "multilabel", "regression"])
def test_resumed_equals_uninterrupted_in_each_task(name, tmp_path):
    trial = trial_of("layer_fusion", epochs=3)
    whole, _, _ = trained(name, trial)
    before, epoch, _ = trained(name, trial, stop_after=1)
    save_checkpoint(Checkpoint(finished=(), current=(epoch.snapshot,)), tmp_path)
    after, _, _ = trained(name, trial, resume=load_checkpoint(tmp_path).current[0])
    assert before + after == whole


@pytest.mark.parametrize("name", ["ordinal", "multilabel", "regression"])
def test_seeds_together_give_what_each_gives_alone(name):
    trial = trial_of("probe", epochs=2)
    rows = {split: TaskRows(name, 18, trial, split=split) for split in ("train", "val")}
    steps = [
        list(fit_one(trial, 3, rows, setting(name), identity="one", started=0.0, together=together))
        for together in (False, True)
    ]
    alone, together = (found[-1].checkpoint.best for found in steps)
    assert len(alone) == len(together) == 3
    for own, other in zip(alone, together, strict=True):
        assert other.val_score == pytest.approx(own.val_score, abs=1e-4)
        for key, value in own.model.items():
            torch.testing.assert_close(other.model[key], value, atol=1e-4, rtol=1e-4)
        assert ("target_unit" in own.model) == (name == "regression")


SHARED = (
    ("multilabel", "probe", {}),
    ("regression", "stored_linear_probe", {}),
    ("ordinal", "stored_linear_probe", {"sampling": "balanced"}),
    ("multilabel", "knn", {}),
)


def worker(rank, port):
    """One of two workers' numbers, of each case."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = []
    for name, method, training in SHARED:
        trial = trial_of(method, batch_size=6, **training)
        rows = TaskRows(name, 18, trial, worker_rows(18, trial.training.batch_size, 2)[rank])
        val = TaskRows(name, 12, trial, (range(5), range(5, 12))[rank], split="val")
        model = network_for(trial, TARGETS[name])
        model = torch.nn.parallel.DistributedDataParallel(model) if learns(model) else model
        epochs = fit(model, rows, val, trial, setting(name, rank=rank, num_workers=2))
        found += [(epoch.train_loss or 0, epoch.val_score) for epoch in epochs]
    dist.destroy_process_group()
    return found


@pytest.mark.slow
def test_two_workers_equal_one():
    alone = [one for name, method, more in SHARED for one in trained(name, trial_of(method, batch_size=6, **more))[0]]
    port = 22000 + os.getpid() % 20000
    other = mp.get_context("spawn").Process(target=worker, args=(1, port))
    other.start()
    numbers = worker(0, port)
    other.join()
    assert other.exitcode == 0
    np.testing.assert_allclose(numbers, [(loss or 0, score) for loss, score in alone], atol=1e-5)


def test_neighbours_vote_for_labels_and_grades_and_give_the_mean_of_values():
    """By hand, with the cosine similarities of the class tokens, centred as the LPM's norm does."""
    trial = trial_of("knn")
    for name in TARGETS:
        train, val = (TaskRows(name, 18, trial, split=split) for split in ("train", "val"))
        model = network_for(trial, TARGETS[name])
        list(fit(model, train, val, trial, setting(name)))
        said, _ = predict(model, val, trial, setting(name))
        own, theirs = (rows.summaries[:, -1, 0].half().double().numpy() for rows in (val, train))
        units = [one - one.mean(axis=1, keepdims=True) for one in (own, theirs)]
        units = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in units]
        for row, similar in enumerate(units[0] @ units[1].T):
            nearest = np.argsort(-similar)[:5]
            votes, labels = np.exp(similar[nearest] / 0.07), train.labels[nearest]
            if name == "regression":
                expected = [np.average(labels, weights=votes)]
            elif name == "multilabel":
                known = ~np.isnan(labels)
                expected = [np.average(labels[k, at], weights=votes[k]) for at, k in enumerate(known.T)]
            else:
                expected = [votes[labels == c].sum() / votes.sum() for c in range(len(TARGETS[name].classes))]
            assert said[row] == pytest.approx(expected, rel=1e-3, abs=1e-4), name


def test_a_network_of_values_is_asked_for_its_unit_alone():
    """Of targets far from 0 with little spread, an untrained network says their mean."""
    trial = trial_of("stored_linear_probe", learning_rate=1e-9, epochs=1)
    rows = TaskRows("regression", 18, trial)
    model = network_for(trial, TARGETS["regression"])
    list(fit(model, rows, rows, trial, setting("regression")))
    said, labels = predict(model, rows, trial, setting("regression"))
    assert said.mean() == pytest.approx(labels.mean(), abs=labels.std())
