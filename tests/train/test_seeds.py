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
from fpt_ray.config.trial import with_seed
from fpt_ray.errors import ConfigError
from fpt_ray.metrics.scores import pme, ppe
from fpt_ray.models.methods import make_model
from fpt_ray.train.checkpoint import CHECKPOINT_FILE, load_checkpoint, packed, save_checkpoint, unpacked
from fpt_ray.train.evaluation import Assignment, predict
from fpt_ray.train.loop import NonFiniteLossError, fit
from fpt_ray.train.seeds import epoch_report, fit_seeds, gains_together
from tests.conftest import ABC, FakeRows

ASSIGNMENT = Assignment(device=torch.device("cpu"), target=ABC, mean=(0.5,) * 3, std=(0.5,) * 3, num_train=12)
ASKED = {"identity": "one", "started": 0.0}
COSTS = {"param_ratio": 0.02, "memory_ratio": 0.3, "peak_memory_bytes": 5.0}
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
    one_by_one = numbers_of(fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED))
    assert one_by_one == alone(trial, rows)[0]
    assert len({loss for _, _, loss, _ in one_by_one}) == 6


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_resumed_equals_uninterrupted_within_and_between_seeds(trial, rows, stop_after):
    whole = numbers_of(fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED))
    seeds = fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED)
    for _ in range(stop_after):
        progress = next(seeds)
    after = numbers_of(fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED, resume=progress.checkpoint))
    assert after == whole[stop_after:]


def test_another_trials_checkpoint_is_refused_and_seconds_go_on(trial, rows):
    first = next(fit_seeds(trial, 1, rows, ASSIGNMENT, identity="one", started=time.perf_counter() - 100))
    assert 100 < first.seconds.train < 150
    with pytest.raises(ConfigError, match=r"another trial, store or image table \(identity one, asked is two\)"):
        next(fit_seeds(trial, 1, rows, ASSIGNMENT, identity="two", started=0.0, resume=first.checkpoint))
    started = time.perf_counter()
    (second,) = fit_seeds(trial, 1, rows, ASSIGNMENT, identity="one", started=started, resume=first.checkpoint)
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
    steps = list(fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED, together=True))
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
    found = sorted(numbers_of(fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED, together=True)))
    expected, _ = alone(trial, rows)
    np.testing.assert_allclose([loss for *_, loss, _ in found], [loss for *_, loss, _ in expected], rtol=0.02)
    exact = dataclasses.replace(trial, training=dataclasses.replace(trial.training, precision="float32"))
    assert found != sorted(numbers_of(fit_seeds(exact, 3, rows, ASSIGNMENT, **ASKED, together=True)))


@pytest.mark.parametrize("method", METHODS)
def test_together_a_resumed_trial_equals_an_uninterrupted_one(trial, rows, method, tmp_path):
    trial = uneven(trial, rows, method)
    whole = numbers_of(fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED, together=True))
    first = next(fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED, together=True))
    save_checkpoint(first.checkpoint, tmp_path)
    for together in (True, False):  # what trained together goes on together, wherever it goes on
        saved = load_checkpoint(tmp_path)
        after = numbers_of(fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED, together=together, resume=saved))
        assert after == whole[3:]


def test_what_trained_alone_goes_on_alone_and_the_rest_together(trial, rows):
    """As where a checkpoint is of a program that knew no other way; it named one seed in no list."""
    trial = dataclasses.replace(trial, method="probe")
    first = next(fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED))
    plain = packed(first.checkpoint)
    (plain["current"],) = plain["current"]
    steps = list(fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED, together=True, resume=unpacked(plain)))
    assert [len(progress.epochs) for progress in steps] == [1, 2, 2]
    np.testing.assert_allclose(sorted(numbers_of(steps)), alone(trial, rows)[0][1:], atol=2e-5)


def test_a_checkpoint_of_seeds_together_is_as_large_as_theirs(trial, rows):
    trial = dataclasses.replace(trial, method="probe")

    def size(**options):
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(next(fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED, **options)).checkpoint, folder)
            return Path(folder, CHECKPOINT_FILE).stat().st_size

    assert size(together=True) < 3.2 * size()


@pytest.mark.parametrize("together", [True, False])
def test_a_loss_that_is_no_number_is_told_with_its_seed(trial, rows, together, monkeypatch):
    trial = dataclasses.replace(trial, method="probe")

    def spoilt(of, target):
        model = make_model(of, target.num_outputs)
        if of.training.seed == 6:
            model.head.weight.data.fill_(torch.inf)
        return model

    monkeypatch.setattr("fpt_ray.train.seeds.network_for", spoilt)
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan in epoch 1 by step 3 .*training\.seed 6\)"):
        list(fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED, together=together))


def test_together_every_row_is_read_once_to_validate(trial, rows, monkeypatch):
    trial = dataclasses.replace(trial, method="probe")
    asked = []
    take = rows["val"].take
    monkeypatch.setattr(rows["val"], "take", lambda ids, memory=None: asked.append(list(ids)) or take(ids, memory))
    next(fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED, together=True))
    assert asked == [list(range(12))]  # 3 batches of 4 at once, as in a step
    model = make_model(trial, 3)
    assert predict(model, rows["val"], trial, ASSIGNMENT)[0].shape == (12, 3)


def test_seeds_train_together_where_operations_are_small(trial):
    small = {method: dataclasses.replace(trial, method=method) for method in (*METHODS, "full_fine_tuning")}
    assert [gains_together(one, "cpu") for one in small.values()] == [True, True, True, False, False]
    assert [gains_together(one, "cuda") for one in small.values()] == [True, True, True, True, False]


# --- what is reported ---------------------------------------------------------------------------------------------


def test_a_report_is_of_the_best_epochs_of_all_seeds(trial, rows):
    *_, before, last = fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED)
    found = epoch_report(last, trial, 3, COSTS)
    (epoch,), (seed,) = last.epochs, found.seeds
    best = [*(one.val_score for one in last.finished), epoch.best_val_score]
    assert len(best) == 3
    mean = statistics.fmean(best)
    assert (found.epochs, seed.repeat, seed.epoch, found.finished) == (6, 2, 2, True)
    assert not epoch_report(before, trial, 3, COSTS).finished
    expected = {"val_auc": mean, "val_auc_std": statistics.stdev(best), "ppe": ppe(mean, 0.02), "pme": pme(mean, 0.3)}
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected)
    assert COSTS.items() <= found.metrics.items()
    assert (seed.val_score_epoch, seed.val_score) == (epoch.val_score, epoch.best_val_score)
    assert len(set(best)) > 1


def test_together_a_report_has_an_epoch_of_every_seed(trial, rows):
    trial = dataclasses.replace(trial, method="probe")
    first, last = (
        epoch_report(one, trial, 3, COSTS) for one in fit_seeds(trial, 3, rows, ASSIGNMENT, **ASKED, together=True)
    )
    assert [(one.repeat, one.epoch) for one in (*first.seeds, *last.seeds)] == [
        (r, e) for e in (1, 2) for r in range(3)
    ]
    assert (first.epochs, last.epochs, first.finished, last.finished) == (3, 6, False, True)
    assert last.metrics["val_auc"] == pytest.approx(statistics.fmean(one.val_score for one in last.seeds))
    assert last.metrics["fit_seconds"] == pytest.approx(first.epoch_seconds + last.epoch_seconds)
