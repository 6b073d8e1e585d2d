"""A trial's seeds, one after the other and together, against each seed trained on its own; its report against their
plain mean and deviation."""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fpt_ray.config.training import LossConfig
from fpt_ray.config.trial import OF_EACH, override, with_seed
from fpt_ray.errors import ConfigError
from fpt_ray.metrics.scores import pme, ppe
from fpt_ray.models.methods import make_model
from fpt_ray.models.together import Together
from fpt_ray.reading.of_each import RowsOfEach
from fpt_ray.search.messages import TrialFailure
from fpt_ray.train.checkpoint import (
    CHECKPOINT_FILE,
    checkpoint_folders,
    load_checkpoint,
    packed,
    save_checkpoint,
    unpacked,
)
from fpt_ray.train.evaluation import Assignment, predict
from fpt_ray.train.loop import NonFiniteLossError, fit
from fpt_ray.train.seeds import epoch_report, fit_seeds, gains_together, message_of
from tests.conftest import ABC, FakeRows
from tests.seeds import COSTS, fit_one, member

ASSIGNMENT = Assignment(device=torch.device("cpu"), target=ABC, mean=(0.5,) * 3, std=(0.5,) * 3, num_train=12)
METHODS = ["probe", "layer_fusion", "stored_linear_probe", "fpt+"]


@pytest.fixture
def trial(small_trial):
    return dataclasses.replace(small_trial, training=dataclasses.replace(small_trial.training, epochs=2, seed=5))


def rows_of(trial, shape):
    """Validation is noisy, so that its AUC differs from seed to seed."""
    found = {split: FakeRows(12, trial, shape, split=split) for split in ("train", "val")}
    generator = torch.Generator().manual_seed(1)
    for features in (found["val"].features, found["val"].summaries):
        features += 8 * torch.randn(features.shape, generator=generator)
    return found


@pytest.fixture
def rows(trial, small_shape):
    return rows_of(trial, small_shape)


def numbers(progress):
    """(seed, epoch, loss, AUC) of every epoch that training says, in its order."""
    return [
        (repeat, epoch.number, epoch.train_loss, epoch.val_score)
        for repeat, epoch in enumerate(progress.epochs, start=len(progress.finished))
    ]


def numbers_of(steps):
    return [one for progress in steps for one in numbers(progress)]


def alone(trial, rows, seeds=3):
    """The same of each seed by itself, and the weights of its best epoch."""
    found, best = [], []
    for repeat in range(seeds):
        one = with_seed(trial, repeat)
        for epoch in fit(make_model(one, 3), rows["train"], rows["val"], one, ASSIGNMENT):
            found.append((repeat, epoch.number, epoch.train_loss, epoch.val_score))
        best.append(epoch.snapshot.best)
    return found, best


# --- one after the other ------------------------------------------------------------------------------------------


def test_each_seed_gives_what_it_gives_alone(trial, rows):
    one_by_one = numbers_of(fit_one(trial, 3, rows, ASSIGNMENT))
    assert one_by_one == alone(trial, rows)[0]
    assert len({loss for _, _, loss, _ in one_by_one}) == 6


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_resumed_equals_uninterrupted_within_and_between_seeds(trial, rows, stop_after):
    whole = numbers_of(fit_one(trial, 3, rows, ASSIGNMENT))
    seeds = fit_one(trial, 3, rows, ASSIGNMENT)
    for _ in range(stop_after):
        progress = next(seeds)
    after = numbers_of(fit_one(trial, 3, rows, ASSIGNMENT, resume=progress.checkpoint))
    assert after == whole[stop_after:]


def test_another_trials_checkpoint_is_refused_and_seconds_go_on(trial, rows):
    first = next(fit_one(trial, 1, rows, ASSIGNMENT, identity="one", started=time.perf_counter() - 100))
    assert 100 < first.seconds.train < 150
    with pytest.raises(ConfigError, match=r"another trial, store or image table \(identity one, asked is two\)"):
        next(fit_one(trial, 1, rows, ASSIGNMENT, identity="two", started=0.0, resume=first.checkpoint))
    started = time.perf_counter()
    (second,) = fit_one(trial, 1, rows, ASSIGNMENT, identity="one", started=started, resume=first.checkpoint)
    assert first.seconds.train < second.seconds.train < first.seconds.train + time.perf_counter() - started
    assert second.seconds.fit > first.seconds.fit > 0
    assert second.seconds.data > first.seconds.data > 0


# --- together -----------------------------------------------------------------------------------------------------


def uneven(trial, rows, method):
    """With weighted classes, gradients that are cut to a norm, and images that are augmented where there are any."""
    rows["train"].all_labels = rows["train"].labels = np.array([0, 0, 1, 0, 2, 0, 0, 1, 0, 0, 0, 2])
    training = dataclasses.replace(trial.training, epochs=3, clip_norm=0.05)
    return dataclasses.replace(trial, method=method, training=training, loss=LossConfig(weights="balanced"))


@pytest.mark.parametrize("method", METHODS)
def test_together_each_seed_gives_what_it_gives_alone(trial, rows, method):
    trial = uneven(trial, rows, method)
    steps = list(fit_one(trial, 3, rows, ASSIGNMENT, together=True))
    expected, best = alone(trial, rows)
    assert [len(progress.epochs) for progress in steps] == [3, 3, 3]
    np.testing.assert_allclose(sorted(numbers_of(steps)), expected, atol=2e-5)
    assert len({round(loss, 3) for _, _, loss, _ in expected}) > 6
    for own, other in zip(steps[-1].checkpoint.best, best, strict=True):
        assert own.epoch == other.epoch
        assert list(own.model) == list(other.model)
        for name, tensor in other.model.items():
            np.testing.assert_allclose(own.model[name], tensor, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("method", ["probe", "fpt+"])
def test_together_in_bfloat16_they_agree_to_its_rounding(trial, rows, method):
    trial = uneven(trial, rows, method)
    trial = dataclasses.replace(trial, training=dataclasses.replace(trial.training, precision="bfloat16"))
    found = sorted(numbers_of(fit_one(trial, 3, rows, ASSIGNMENT, together=True)))
    expected, _ = alone(trial, rows)
    np.testing.assert_allclose([loss for *_, loss, _ in found], [loss for *_, loss, _ in expected], rtol=0.02)
    exact = dataclasses.replace(trial, training=dataclasses.replace(trial.training, precision="float32"))
    assert found != sorted(numbers_of(fit_one(exact, 3, rows, ASSIGNMENT, together=True)))


@pytest.mark.parametrize("method", METHODS)
def test_together_a_resumed_trial_equals_an_uninterrupted_one(trial, rows, method, tmp_path):
    trial = uneven(trial, rows, method)
    whole = numbers_of(fit_one(trial, 3, rows, ASSIGNMENT, together=True))
    first = next(fit_one(trial, 3, rows, ASSIGNMENT, together=True))
    save_checkpoint(first.checkpoint, tmp_path)
    for together in (True, False):  # what trained together goes on together, wherever it goes on
        saved = load_checkpoint(tmp_path)
        after = numbers_of(fit_one(trial, 3, rows, ASSIGNMENT, together=together, resume=saved))
        assert after == whole[3:]


def test_what_trained_alone_goes_on_alone_and_the_rest_together(trial, rows):
    """As where a checkpoint is of a program that knew no other way; it named one seed in no list."""
    trial = dataclasses.replace(trial, method="probe")
    first = next(fit_one(trial, 3, rows, ASSIGNMENT))
    plain = packed(first.checkpoint)
    (plain["current"],) = plain["current"]
    steps = list(fit_one(trial, 3, rows, ASSIGNMENT, together=True, resume=unpacked(plain)))
    assert [len(progress.epochs) for progress in steps] == [1, 2, 2]
    np.testing.assert_allclose(sorted(numbers_of(steps)), alone(trial, rows)[0][1:], atol=2e-5)


def test_a_checkpoint_of_seeds_together_is_as_large_as_theirs(trial, rows):
    trial = dataclasses.replace(trial, method="probe")

    def size(**options):
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(next(fit_one(trial, 3, rows, ASSIGNMENT, **options)).checkpoint, folder)
            return Path(folder, CHECKPOINT_FILE).stat().st_size

    assert size(together=True) < 3.2 * size()


def spoil(monkeypatch, seed):
    """The networks of a seed begin with weights from which no loss is a number."""

    def spoilt(of, target):
        model = make_model(of, target.num_outputs)
        if of.training.seed == seed:
            model.head.weight.data.fill_(torch.inf)
        return model

    monkeypatch.setattr("fpt_ray.train.seeds.network_for", spoilt)


@pytest.mark.parametrize("together", [True, False])
def test_a_loss_that_is_no_number_is_told_with_its_seed(trial, rows, together, monkeypatch):
    trial = dataclasses.replace(trial, method="probe")

    spoil(monkeypatch, seed=6)
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan in epoch 1 by step 3 .*training\.seed 6\)"):
        list(fit_one(trial, 3, rows, ASSIGNMENT, together=together))


# --- trials together ----------------------------------------------------------------------------------------------


def unlike(trial, seeds=1):
    """Trials of one shape that differ in all that they may, of an even rate and a rate that is far too high."""
    values = ((2e-3, 0.1, 5, 0.5, "last"), (2e-2, 0.0, 9, 0.0, "even"), (5e-4, 0.3, 5, 0.2, "last"))
    each = [dict(zip(OF_EACH, own, strict=True)) for own in values]
    return [member(override(trial, values), seeds, f"trial {at}") for at, values in enumerate(each)]


def in_order(steps):
    """The epochs of each trial, in the order of its seeds."""
    return [sorted(one for each in steps for one in numbers(each[at])) for at in range(len(steps[0]))]


@pytest.mark.parametrize("method", METHODS)
def test_trials_together_give_what_each_gives_alone(trial, rows, method):
    members = unlike(uneven(trial, rows, method))
    steps = list(fit_seeds(members, rows, ASSIGNMENT, started=0.0, together=True))
    for at, (found, one) in enumerate(zip(in_order(steps), members, strict=True)):
        expected, (best,) = alone(one.trial, rows, seeds=1)
        np.testing.assert_allclose(found, expected, atol=3e-5)
        own = steps[-1][at].checkpoint
        assert (own.identity, own.best[0].epoch) == (f"trial {at}", best.epoch)
        for name, tensor in best.model.items():
            np.testing.assert_allclose(
                own.best[0].model[name], tensor, atol=3e-4, err_msg=name
            )  # AdamW scales rounding up
    assert len({found[-1][2] for found in in_order(steps)}) == 3


@pytest.mark.parametrize("method", ["probe", "fpt+"])
def test_trials_together_that_read_other_blocks_give_what_each_gives_alone(trial, rows, small_shape, method):
    """The second one's blocks hold other features, in training and in validation."""
    trial = dataclasses.replace(trial, method=method)
    members, own = unlike(trial, seeds=2), (rows, other_blocks(trial, small_shape), rows)
    steps = list(fit_seeds(members, of_each(own, 2), ASSIGNMENT, started=0.0, together=True))
    for found, one, read in zip(in_order(steps), members, own, strict=True):
        np.testing.assert_allclose(found, alone(one.trial, read, seeds=2)[0], atol=3e-5)
    differing = np.subtract(in_order(steps)[1], alone(members[1].trial, rows, seeds=2)[0])
    assert abs(differing[:, 2:]).max() > 1e-3, "the features do matter"


def other_blocks(trial, shape):
    """Rows of the same images whose features are others."""
    other = rows_of(trial, shape)
    for split in other.values():
        split.features = 2 * split.features.flip(1)
    return other


def of_each(own, seeds=1):
    return {split: RowsOfEach([one[split] for one in own for _ in range(seeds)]) for split in own[0]}


@pytest.mark.parametrize("method", ["probe", "fpt+"])
def test_those_of_other_blocks_agree_in_bfloat16_to_its_rounding(trial, rows, small_shape, method):
    """Without the rate that is far too high, which makes much of roundings; one's features for the other's are 8e-3."""
    trial = override(trial, {"method": method, "training.precision": "bfloat16"})
    members, own = unlike(trial)[::2], (rows, other_blocks(trial, small_shape))
    steps = list(fit_seeds(members, of_each(own), ASSIGNMENT, started=0.0, together=True))
    for found, one, read in zip(in_order(steps), members, own, strict=True):
        expected, _ = alone(one.trial, read, seeds=1)
        np.testing.assert_allclose([loss for *_, loss, _ in found], [loss for *_, loss, _ in expected], rtol=3e-3)


def test_trials_together_train_all_their_seeds(trial, rows):
    members = unlike(dataclasses.replace(trial, method="probe"), seeds=2)
    steps = list(fit_seeds(members, rows, ASSIGNMENT, started=0.0, together=True))
    for found, one in zip(in_order(steps), members, strict=True):
        np.testing.assert_allclose(found, alone(one.trial, rows, seeds=2)[0], atol=3e-5)


@pytest.mark.parametrize("method", ["probe", "fpt+"])
def test_trials_together_go_on_as_if_uninterrupted_together_or_one_alone(trial, rows, method, tmp_path):
    members = unlike(uneven(trial, rows, method))
    whole = in_order(list(fit_seeds(members, rows, ASSIGNMENT, started=0.0, together=True)))
    first = next(fit_seeds(members, rows, ASSIGNMENT, started=0.0, together=True))
    for progress, folder in zip(first, checkpoint_folders(str(tmp_path), 3), strict=True):
        save_checkpoint(progress.checkpoint, folder)

    def saved():  # anew: an optimizer goes on in the tensors that it is given
        return [load_checkpoint(folder) for folder in checkpoint_folders(str(tmp_path), 3)]

    after = in_order(list(fit_seeds(members, rows, ASSIGNMENT, started=0.0, together=True, resume=saved())))
    assert after == [found[1:] for found in whole]
    one = fit_one(members[1].trial, 1, rows, ASSIGNMENT, identity="trial 1", resume=saved()[1])
    np.testing.assert_allclose(numbers_of(one), whole[1][1:], atol=3e-5)
    with pytest.raises(ConfigError, match="identity trial 2, asked is trial 0"):
        next(fit_seeds(members, rows, ASSIGNMENT, started=0.0, together=True, resume=saved()[::-1]))


def test_a_checkpoint_of_a_trial_among_others_is_as_large_as_its_own(trial, rows, tmp_path):
    members = unlike(dataclasses.replace(trial, method="probe"))
    first, *_ = next(fit_seeds(members, rows, ASSIGNMENT, started=0.0, together=True))
    (alone,) = next(fit_seeds(members[:1], rows, ASSIGNMENT, started=0.0))
    for progress, name in ((first, "together"), (alone, "alone")):
        save_checkpoint(progress.checkpoint, tmp_path / name)
    together, own = ((tmp_path / name / CHECKPOINT_FILE).stat().st_size for name in ("together", "alone"))
    assert together < 1.05 * own


def test_a_trial_whose_loss_is_no_number_is_lost_by_itself(trial, rows, monkeypatch):
    trial = dataclasses.replace(trial, method="probe")
    members = unlike(trial)

    spoil(monkeypatch, seed=9)
    steps = list(fit_seeds(members, rows, ASSIGNMENT, started=0.0, together=True))
    messages = [[message_of(*pair, {}) for pair in zip(each, members, strict=True)] for each in steps]
    for good, lost, _ in messages:
        assert isinstance(lost, TrialFailure)
        assert lost.reason.startswith("the loss is nan in epoch 1 by step 3 (training.learning_rate 0.02,")
        assert good.seeds[0].train_loss > 0
    found = in_order(steps)
    np.testing.assert_allclose(found[0], alone(members[0].trial, rows, seeds=1)[0], atol=3e-5)
    after = next(fit_seeds(members, rows, ASSIGNMENT, started=0.0, resume=[one.checkpoint for one in steps[0]]))
    assert "in epoch 2" in message_of(after[1], members[1], {}).reason


def test_what_is_lost_stays_lost_whatever_it_would_compute(trial):
    probes = [make_model(one.trial, 3) for one in unlike(dataclasses.replace(trial, method="probe"))]
    model = Together(probes)
    model.lose(1)
    for stacked, own in zip(model.stacked.parameters(), probes[0].parameters(), strict=True):
        assert stacked[1].isnan().all()
        assert torch.equal(stacked[0], own)


def test_trials_together_share_the_time_that_they_take(trial, rows):
    members = unlike(dataclasses.replace(trial, method="probe"))
    began = time.perf_counter()
    for each in fit_seeds(members, rows, ASSIGNMENT, started=began - 30, together=True):
        taken = time.perf_counter() - began
        assert sum(one.seconds.train for one in each) == pytest.approx(30 + taken, abs=0.5)
        assert sum(one.seconds.fit for one in each) < taken


def test_together_every_row_is_read_once_to_validate(trial, rows, monkeypatch):
    trial = dataclasses.replace(trial, method="probe")
    asked = []
    take = rows["val"].take
    monkeypatch.setattr(rows["val"], "take", lambda ids, memory=None: asked.append(list(ids)) or take(ids, memory))
    next(fit_one(trial, 3, rows, ASSIGNMENT, together=True))
    assert asked == [list(range(12))]  # 3 batches of 4 at once, as in a step
    model = make_model(trial, 3)
    assert predict(model, rows["val"], trial, ASSIGNMENT)[0].shape == (12, 3)


def test_seeds_train_together_where_operations_are_small(trial):
    small = {method: dataclasses.replace(trial, method=method) for method in (*METHODS, "full_fine_tuning")}
    assert [gains_together(one, "cpu") for one in small.values()] == [True, True, True, False, False]
    assert [gains_together(one, "cuda") for one in small.values()] == [True, True, True, True, False]


# --- what is reported ---------------------------------------------------------------------------------------------


def test_a_report_is_of_the_best_epochs_of_all_seeds(trial, rows):
    *_, before, last = fit_one(trial, 3, rows, ASSIGNMENT)
    found = epoch_report(last, member(trial, 3))
    (epoch,), (seed,) = last.epochs, found.seeds
    best = [*(one.val_score for one in last.finished), epoch.best_val_score]
    assert len(best) == 3
    mean = statistics.fmean(best)
    assert (found.epochs, seed.repeat, seed.epoch, found.finished) == (6, 2, 2, True)
    assert not epoch_report(before, member(trial, 3)).finished
    expected = {"val_auc": mean, "val_auc_std": statistics.stdev(best), "ppe": ppe(mean, 0.02), "pme": pme(mean, 0.3)}
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected)
    assert COSTS.items() <= found.metrics.items()
    assert (seed.val_score_epoch, seed.val_score) == (epoch.val_score, epoch.best_val_score)
    assert len(set(best)) > 1


def test_together_a_report_has_an_epoch_of_every_seed(trial, rows):
    trial = dataclasses.replace(trial, method="probe")
    first, last = (epoch_report(one, member(trial, 3)) for one in fit_one(trial, 3, rows, ASSIGNMENT, together=True))
    assert [(one.repeat, one.epoch) for one in (*first.seeds, *last.seeds)] == [
        (r, e) for e in (1, 2) for r in range(3)
    ]
    assert (first.epochs, last.epochs, first.finished, last.finished) == (3, 6, False, True)
    assert last.metrics["val_auc"] == pytest.approx(statistics.fmean(one.val_score for one in last.seeds))
    assert last.metrics["fit_seconds"] == pytest.approx(first.epoch_seconds + last.epoch_seconds)
