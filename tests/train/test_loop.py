"""Training is compared with itself: one worker against two real processes, resumed against uninterrupted, streamed
order against plain. ``test_by_hand`` has the steps themselves."""

import dataclasses
import itertools
import math
import os
import tempfile
import threading
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fpt_ray.config.training import LossConfig, TrainingConfig
from fpt_ray.config.trial import override
from fpt_ray.errors import ConfigError
from fpt_ray.features.rows import Batch
from fpt_ray.models.methods import make_model
from fpt_ray.models.side_network import dropout_masks
from fpt_ray.models.step import learns, take_step, unwrapped
from fpt_ray.train.buffers import Buffers, taken_ahead
from fpt_ray.train.checkpoint import Best, Checkpoint, Snapshot, load_checkpoint, save_checkpoint
from fpt_ray.train.evaluation import Assignment, Found, evaluate
from fpt_ray.train.loop import NonFiniteLossError, fit
from fpt_ray.train.order import epoch_order, worker_rows
from fpt_ray.train.seeds import epoch_report
from tests.conftest import ABC, FakeRows
from tests.seeds import fit_one, member

OTHERS = ("probe", "layer_fusion", "stored_linear_probe")
"""Methods on stored features that differ from fpt+ and knn in the network alone."""


def assignment(num_train=18, **options):
    return Assignment(
        device=torch.device("cpu"), target=ABC, mean=(0.5,) * 3, std=(0.5,) * 3, num_train=num_train, **options
    )


def run(trial, shape, resume=None, stop_after=None):
    model = make_model(trial, 3)
    epochs = []
    for epoch in fit(
        model, FakeRows(18, trial, shape), FakeRows(9, trial, shape, split="val"), trial, assignment(), resume
    ):
        epochs.append((epoch.number, epoch.train_loss, epoch.val_score, epoch.best_epoch))
        if epoch.number == stop_after:
            return epochs, stored(epoch.snapshot)
    return epochs, {name: tensor.clone() for name, tensor in arrays(model).items()}


def test_what_an_image_loses_counts_by_its_weight(small_trial, small_shape):
    """At a learning rate of nothing: three images weigh 4, the others 1."""
    still = dataclasses.replace(small_trial, training=dataclasses.replace(small_trial.training, learning_rate=1e-30))

    def loss_of(weights):
        train = FakeRows(18, still, small_shape)
        train.weights = weights
        val = FakeRows(9, still, small_shape, split="val")
        return next(fit(make_model(still, 3), train, val, still, assignment())).train_loss

    plain, ones = loss_of(None), np.ones(18, np.float32)
    assert loss_of(ones) == plain
    each = []
    for number in range(3):
        heavy = ones.copy()
        heavy[number] = 4
        each.append(loss_of(heavy) - plain)
    together = np.where(np.arange(18) < 3, 4, 1).astype(np.float32)
    assert min(each) > 0
    assert loss_of(together) - plain == pytest.approx(sum(each), rel=1e-4)


def stored(snapshot):
    """What comes back from a checkpoint's file."""
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Checkpoint(finished=(), current=(snapshot,)), folder)
        return load_checkpoint(folder).current[0]


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(small_trial, small_shape):
    first, weights = run(small_trial, small_shape)
    second, again = run(small_trial, small_shape)
    other, _ = run(
        dataclasses.replace(small_trial, training=dataclasses.replace(small_trial.training, seed=1)), small_shape
    )
    assert first == second
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert first != other


def test_resumed_equals_uninterrupted(small_trial, small_shape):
    whole, weights = run(small_trial, small_shape)
    before, checkpoint = run(small_trial, small_shape, stop_after=1)
    after, resumed = run(small_trial, small_shape, resume=checkpoint)
    assert before + after == whole
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_a_resumed_trial_has_taken_the_time_of_both_workers(small_trial, small_shape, monkeypatch):
    """With a clock that tells 1 s more at every look; and a checkpoint of another trial is not gone on with."""
    clock = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    rows = {"train": FakeRows(18, small_trial, small_shape), "val": FakeRows(9, small_trial, small_shape, split="val")}

    def steps(resume=None, identity="own"):
        started = float(next(clock))
        return fit_one(small_trial, 1, rows, assignment(), identity=identity, started=started, resume=resume)

    first = next(steps())
    assert first.seconds.train > first.seconds.fit > first.seconds.data > 0
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(first.checkpoint, folder)
        saved = load_checkpoint(folder)
    before = next(clock)
    second = next(steps(resume=saved))
    passed = next(clock) - before
    assert first.seconds.train < second.seconds.train <= first.seconds.train + passed
    assert second.seconds.train > passed / 2 + first.seconds.train
    assert second.seconds.fit > first.seconds.fit
    assert second.seconds.data > first.seconds.data
    assert epoch_report(second, member(small_trial)).metrics["train_seconds"] == second.seconds.train
    with pytest.raises(ConfigError, match="its checkpoint is of another trial, store or image table"):
        next(steps(resume=saved, identity="other"))


def worker(rank, port, trial, shape):
    """Trains on one of two workers' rows; numbers and weights."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    rows = FakeRows(18, trial, shape, worker_rows(18, trial.training.batch_size, 2)[rank])
    val = FakeRows(9, trial, shape, (range(4), range(4, 9))[rank], split="val")
    model = make_model(trial, 3)
    model = torch.nn.parallel.DistributedDataParallel(model) if learns(model) else model
    numbers = [
        (epoch.train_loss or 0, epoch.val_score)
        for epoch in fit(model, rows, val, trial, assignment(rank=rank, num_workers=2))
    ]
    dist.destroy_process_group()
    return numbers, arrays(unwrapped(model))


def arrays(model):
    """All of a network's state by its names, what it remembers too."""
    state = model.state_dict()
    remembered = state.pop("_extra_state", {})
    return {**state, **{name: value for name, value in remembered.items() if name != "task"}}


@pytest.mark.parametrize("method", ["fpt+", "knn", *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)])
def test_two_workers_equal_one(small_trial, small_shape, method):
    training = dataclasses.replace(small_trial.training, batch_size=6)
    trial = dataclasses.replace(small_trial, method=method, training=training, loss=LossConfig(weights="balanced"))
    alone, weights = run(trial, small_shape)
    port = 20000 + os.getpid() % 20000
    other = mp.get_context("spawn").Process(target=worker, args=(1, port, trial, small_shape))
    other.start()
    numbers, shared = worker(0, port, trial, small_shape)
    other.join()
    assert other.exitcode == 0
    np.testing.assert_allclose(numbers, [(loss or 0, auc) for _, loss, auc, _ in alone], atol=1e-5)
    for name, tensor in weights.items():
        np.testing.assert_allclose(shared[name].numpy(), tensor.numpy(), atol=1e-4)


def test_neighbours_are_remembered_once_whatever_is_set_for_training(small_trial, small_shape):
    """Every training image, those of the last batch too, which is not whole: by hand from the rows."""
    trial = dataclasses.replace(small_trial, method="knn")
    rows, val = FakeRows(18, trial, small_shape), FakeRows(9, trial, small_shape, split="val")
    splits = {"train": rows, "val": val}
    (first, second) = fit_one(trial, 2, splits, assignment(), identity="own", started=0.0)
    for progress in (first, second):
        (epoch,) = progress.epochs
        assert (epoch.number, epoch.train_loss, epoch.best_epoch) == (1, None, 1)
    assert first.epochs[0].val_score == second.epochs[0].val_score
    said = [
        epoch_report(one, member(trial, 2, costs={"param_ratio": 0.0, "memory_ratio": 0.1})) for one in (first, second)
    ]
    assert [(one.epochs, one.finished) for one in said] == [(1, False), (2, True)]
    assert said[1].metrics["ppe"] == said[1].metrics["val_auc"] == first.epochs[0].val_score > 0.9
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(first.checkpoint, folder)
        saved = load_checkpoint(folder)
    resumed = list(fit_one(trial, 2, splits, assignment(), identity="own", started=0.0, resume=saved))
    assert [(len(one.finished), one.epochs[0].val_score) for one in resumed] == [(1, second.epochs[0].val_score)]
    remembered = saved.current[0].best.model["_extra_state"]
    tokens = rows.summaries[:, -1, 0].half().double()
    tokens = tokens - tokens.mean(dim=1, keepdim=True)
    expected = tokens / tokens.norm(dim=1, keepdim=True)
    torch.testing.assert_close(remembered["tokens"].double(), expected, atol=1e-5, rtol=1e-4)
    assert remembered["labels"].tolist() == rows.labels.tolist()


def test_no_row_is_in_both_splits(small_trial, small_shape):
    train, val = (FakeRows(9, small_trial, small_shape, split=split) for split in ("train", "val"))
    assert (train.features == val.features).float().mean() < 0.01
    assert (train.low_res == val.low_res).float().mean() < 0.01


def test_it_learns(small_trial, small_shape):
    trial = dataclasses.replace(small_trial, training=TrainingConfig(epochs=12, batch_size=4, learning_rate=3e-3))
    epochs, _ = run(trial, small_shape)
    assert epochs[-1][1] < epochs[0][1]
    assert max(auc for _, _, auc, _ in epochs) > 0.9


def test_best_epoch_is_kept(small_trial, small_shape):
    trial = dataclasses.replace(small_trial, training=dataclasses.replace(small_trial.training, epochs=6))
    model = make_model(trial, 3)
    val = FakeRows(9, trial, small_shape, split="val")
    last = list(fit(model, FakeRows(18, trial, small_shape), val, trial, assignment()))[-1]
    best = last.snapshot.best
    model.load_state_dict(best.model)
    assert (
        [one.picking for one in evaluate(model, val, trial, assignment())] == [best.val_score] == [last.best_val_score]
    )


def test_a_checkpoints_file_holds_plain_values_and_gives_the_same_records_back(tmp_path):
    finished = Best(epoch=3, val_score=0.75, model={"head": torch.ones(2)})
    snapshot = Snapshot(
        epoch=2, model={"head": torch.zeros(2)}, optimizer={"state": {0: 1}}, schedule={"t": 4}, best=Best()
    )
    save_checkpoint(Checkpoint(finished=(finished,), current=(snapshot,)), tmp_path)
    plain = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert list(plain) == ["identity", "seconds", "finished", "current"]
    assert [list(part) for part in plain["finished"]] == [["epoch", "val_score", "scores", "model"]]
    (current,) = plain["current"]
    assert list(current) == ["epoch", "model", "optimizer", "schedule", "best"]
    assert current["best"] == {"epoch": 0, "val_score": -math.inf, "scores": {}, "model": {}}
    found = load_checkpoint(tmp_path)
    assert dataclasses.replace(found.current[0], model={}) == dataclasses.replace(snapshot, model={})
    assert [(best.epoch, best.val_score) for best in found.best] == [(3, 0.75), (0, -math.inf)]
    assert torch.equal(found.finished[0].model["head"], torch.ones(2))
    assert torch.equal(found.current[0].model["head"], torch.zeros(2))


def test_nan_ends_the_trial_with_a_reason(small_trial, small_shape):
    rows = FakeRows(18, small_trial, small_shape)
    rows.features[3] = torch.nan
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan in epoch 1 .*learning_rate"):
        list(fit(make_model(small_trial, 3), rows, rows, small_trial, assignment()))


def test_an_epoch_visits_rows_once_and_drops_the_remainder():
    order = epoch_order(23, 4, (0, 1))
    assert order.shape == (5, 4)
    assert len(set(order.ravel())) == 20
    assert set(order.ravel()) <= set(range(23))
    assert not np.array_equal(order, epoch_order(23, 4, (0, 2)))
    assert np.array_equal(order, epoch_order(23, 4, (0, 1)))


def test_workers_hold_the_rows_of_their_strands():
    order = epoch_order(23, 4, (0, 1))
    for rank, rows in enumerate(worker_rows(23, 4, 2)):
        assert set(order[:, rank * 2 : rank * 2 + 2].ravel()) <= set(rows)
    assert [len(rows) for rows in worker_rows(23, 4, 4)] == [5, 6, 6, 6]


# --- what the loop hands on ---------------------------------------------------------------------------------------


def test_dropout_masks_keep_the_mean_and_depend_on_epoch_and_row_alone(small_trial):
    masks = dropout_masks(small_trial, np.arange(40), 1)
    assert masks.shape == (2, 40, 3, 48)
    assert masks.unique().tolist() == [0, 2]  # half is dropped
    assert float(masks.mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(dropout_masks(small_trial, np.array([7, 3]), 1), masks[:, [7, 3]])
    assert not torch.equal(masks[:, 0], masks[:, 1])
    assert not torch.equal(dropout_masks(small_trial, np.arange(40), 2), masks)


def test_the_mode_is_trainings_in_steps_and_evaluations_in_between(small_trial, small_shape):
    model, seen = make_model(small_trial, 3), []
    model.register_forward_pre_hook(lambda module, _: seen.append((module.training, torch.is_grad_enabled())))
    rows, val = FakeRows(8, small_trial, small_shape), FakeRows(6, small_trial, small_shape, split="val")
    list(fit(model, rows, val, small_trial, assignment(8)))
    assert seen == 3 * [(True, True), (True, True), (False, False), (False, False)]


def scripted(monkeypatch, aucs):
    """Validation that finds these AUCs, one after the other."""
    left = list(aucs)
    monkeypatch.setattr("fpt_ray.train.loop.evaluate", lambda *_: [Found(picking=left.pop(0), scores={})])


def test_the_best_epoch_is_the_first_of_the_highest_and_its_weights_stay_as_they_were(
    small_trial, small_shape, monkeypatch
):
    trial = dataclasses.replace(small_trial, training=dataclasses.replace(small_trial.training, epochs=5))
    model, rows = make_model(trial, 3), FakeRows(8, small_trial, small_shape)
    aucs, weights, snapshots, best = [0.6, 0.9, 0.7, 0.9, 0.8], [], [], []
    scripted(monkeypatch, aucs)
    for epoch in fit(model, rows, rows, trial, assignment(8)):
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        snapshots.append(stored(epoch.snapshot))
        best.append((epoch.best_epoch, epoch.best_val_score))
        kept = epoch.snapshot.best.model
    assert best == [(1, 0.6), (2, 0.9), (2, 0.9), (2, 0.9), (2, 0.9)]
    assert all(torch.equal(value, weights[1][name]) for name, value in kept.items())
    scripted(monkeypatch, aucs[3:])
    resumed = list(fit(make_model(trial, 3), rows, rows, trial, assignment(8), snapshots[2]))
    assert [(epoch.number, epoch.best_epoch) for epoch in resumed] == [(4, 2), (5, 2)]


def test_steps_count_on_over_epochs_and_mean_loss_is_of_an_epochs_steps(small_trial, small_shape, monkeypatch):
    steps = []

    def recorded(learner, number, *makers):
        steps.append((number, float(loss := take_step(learner, number, *makers))))
        return loss

    monkeypatch.setattr("fpt_ray.train.loop.take_step", recorded)
    rows = FakeRows(18, small_trial, small_shape)
    epochs = list(fit(make_model(small_trial, 3), rows, rows, small_trial, assignment()))
    assert [number for number, _ in steps] == list(range(1, 13))
    means = np.reshape([loss for _, loss in steps], (3, 4)).mean(axis=1)
    assert [epoch.train_loss for epoch in epochs] == pytest.approx(means, rel=1e-5)


def test_rows_are_shuffled_within_strands():
    strands = epoch_order(64, 4, (0, 1)).T
    assert [set(strand) for strand in strands] == [set(range(start, start + 16)) for start in range(0, 64, 16)]
    assert all(list(strand) != sorted(strand) for strand in strands)


class Slow:
    """Rows that take a while to read; notes when each batch was begun and handed over."""

    device_bytes = 0

    def __init__(self):
        self.begun, self.row_ids, self.labels = [], np.arange(4), np.zeros(4)

    def __len__(self):
        return 4

    def take(self, row_ids, memory=None):
        self.begun.append(list(row_ids))
        if row_ids[0] == 3:
            raise ValueError("row 3 cannot be read")
        return Batch(low_res=torch.tensor(row_ids), keys=None, values=None, labels=torch.tensor(row_ids))


def test_the_next_batch_is_read_while_one_is_worked_on():
    rows, seen = Slow(), []
    for ids, batch, _ in taken_ahead([(rows, [0]), (rows, [1]), (rows, [2])], Buffers()):
        assert ids == batch.labels.tolist()
        deadline = time.monotonic() + 10
        while len(rows.begun) < min(3, len(seen) + 2):
            assert time.monotonic() < deadline
        assert len(rows.begun) == min(3, len(seen) + 2)  # one ahead, and no more
        seen.append(ids)
    assert seen == rows.begun == [[0], [1], [2]]
    with pytest.raises(ValueError, match="row 3 cannot be read"):
        list(taken_ahead([(rows, [0]), (rows, [3])], Buffers()))
    assert list(taken_ahead([], Buffers())) == []


def test_reading_ahead_goes_on_over_the_ends_of_epochs(small_trial, small_shape):
    trial = override(small_trial, {"training.epochs": 2, "training.batch_size": 4})
    begun, by_then = [], []

    class Noted(FakeRows):
        def take(self, row_ids, memory=None):
            begun.append("train" if self is train else "val")
            return super().take(row_ids, memory)

    train, val = (Noted(count, trial, small_shape, split=split) for count, split in ((8, "train"), (5, "val")))
    an_epoch = ["train", "train", "val", "val"]
    for epoch in fit(make_model(trial, 3), train, val, trial, assignment(num_train=8)):
        deadline = time.monotonic() + 10
        while epoch.number == 1 and len(begun) < 5:
            assert time.monotonic() < deadline
        by_then.append(list(begun))
    assert by_then == [[*an_epoch, "train"], an_epoch * 2]  # the second epoch's first batch, and none of a third
    fitting = fit(make_model(trial, 3), train, val, trial, assignment(num_train=8))
    next(fitting)
    fitting.close()
    assert not [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]


# --- balanced classes ---------------------------------------------------------------------------------------------


def test_balanced_sampling_gives_classes_equal_shares_and_workers_their_own_rows():
    """A fiftieth, a tenth and the rest of 2,000 images: a third each, and of the common ones no image twice."""
    classes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [1760, 200, 40]))
    order = epoch_order(2000, 16, (0, 1), classes)
    assert order.shape == (125, 16)
    assert np.bincount(classes[order.ravel()]) / order.size == pytest.approx(1 / 3, abs=0.03)
    common = order[classes[order] == 0]
    assert len(set(common)) == len(common)
    for rank, rows in enumerate(worker_rows(2000, 16, 2)):
        assert set(order[:, rank * 8 : rank * 8 + 8].ravel()) <= set(rows)
    assert np.array_equal(order, epoch_order(2000, 16, (0, 1), classes))
    assert not np.array_equal(order, epoch_order(2000, 16, (0, 2), classes))
    assert not np.array_equal(order, epoch_order(2000, 16, (1, 1), classes))


def test_a_class_of_one_image_comes_as_often_as_its_strand_can_give_it():
    classes = np.array([5] + [0] * 31)
    order = epoch_order(32, 4, (0, 1), classes)
    assert (order[:, 0] == 0).mean() > 0.9  # its strand gives nothing else
    assert not (order[:, 1:] == 0).any()


@pytest.mark.parametrize("option", [{"loss.weights": "balanced"}, {"loss.focal_gamma": 2.0}])
@pytest.mark.parametrize("sampling", ["shuffled", "balanced"])
def test_what_heeds_rare_classes_changes_what_is_learnt(small_trial, small_shape, option, sampling):
    rows = FakeRows(18, small_trial, small_shape)
    rows.all_labels = rows.labels = np.array([0] * 12 + [1] * 4 + [2] * 2)
    losses = []
    for values in ({}, option, {"training.sampling": sampling}, {**option, "training.sampling": sampling}):
        trial = override(small_trial, {"training.epochs": 1, **values})
        (epoch,) = fit(make_model(trial, 3), rows, FakeRows(9, trial, small_shape, split="val"), trial, assignment())
        losses.append(epoch.train_loss)
    assert len(set(losses)) == (4 if sampling == "balanced" else 2)
