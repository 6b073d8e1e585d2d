"""A trial's seeds against each seed trained on its own; its report against their plain mean and deviation."""

import dataclasses
import statistics
import time

import pytest
import torch

from fpt_ray.errors import ConfigError
from fpt_ray.metrics.scores import pme, ppe
from fpt_ray.models.methods import make_model
from fpt_ray.train.loop import Task, fit
from fpt_ray.train.seeds import epoch_report, fit_seeds
from tests.conftest import FakeRows

TASK = Task(device=torch.device("cpu"), classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.5,) * 3, num_train=12)
ASKED = {"identity": "one", "started": 0.0}
COSTS = {"param_ratio": 0.02, "memory_ratio": 0.3, "peak_memory_bytes": 5.0}


@pytest.fixture
def trial(small_trial):
    return dataclasses.replace(small_trial, training=dataclasses.replace(small_trial.training, epochs=2, seed=5))


@pytest.fixture
def rows(trial, small_shape):
    """Validation is noisy, so that its AUC differs from seed to seed."""
    found = {split: FakeRows(12, trial, small_shape, split=split) for split in ("train", "val")}
    noise = torch.randn(found["val"].features.shape, generator=torch.Generator().manual_seed(1))
    found["val"].features += 8 * noise
    return found


def numbers(progress):
    return progress.repeat, progress.epoch.number, progress.epoch.train_loss, progress.epoch.val.auc


def test_each_seed_gives_what_it_gives_alone(trial, rows):
    together = [numbers(progress) for progress in fit_seeds(trial, 3, rows, TASK, **ASKED)]
    alone = []
    for repeat in range(3):
        one = dataclasses.replace(trial, training=dataclasses.replace(trial.training, seed=5 + repeat))
        epochs = fit(make_model(one, 3), rows["train"], rows["val"], one, TASK)
        alone += [(repeat, epoch.number, epoch.train_loss, epoch.val.auc) for epoch in epochs]
    assert together == alone
    assert len({loss for _, _, loss, _ in together}) == 6


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_resumed_equals_uninterrupted_within_and_between_seeds(trial, rows, stop_after):
    whole = [numbers(progress) for progress in fit_seeds(trial, 3, rows, TASK, **ASKED)]
    seeds = fit_seeds(trial, 3, rows, TASK, **ASKED)
    for _ in range(stop_after):
        progress = next(seeds)
    after = [numbers(one) for one in fit_seeds(trial, 3, rows, TASK, **ASKED, resume=progress.checkpoint)]
    assert after == whole[stop_after:]


def test_another_trials_checkpoint_is_refused_and_seconds_go_on(trial, rows):
    first = next(fit_seeds(trial, 1, rows, TASK, identity="one", started=time.perf_counter() - 100))
    assert 100 < first.seconds.train < 150
    with pytest.raises(ConfigError, match=r"another trial, store or image table \(identity one, asked is two\)"):
        next(fit_seeds(trial, 1, rows, TASK, identity="two", started=0.0, resume=first.checkpoint))
    started = time.perf_counter()
    (second,) = fit_seeds(trial, 1, rows, TASK, identity="one", started=started, resume=first.checkpoint)
    assert first.seconds.train < second.seconds.train < first.seconds.train + time.perf_counter() - started
    assert second.seconds.fit > first.seconds.fit > 0
    assert second.seconds.data > first.seconds.data > 0


def test_a_report_is_of_the_best_epochs_of_all_seeds(trial, rows):
    *_, before, last = fit_seeds(trial, 3, rows, TASK, **ASKED)
    found = epoch_report(last, trial, 3, COSTS)
    best = [*(one.val_auc for one in last.earlier), last.epoch.best_val_auc]
    assert len(best) == 3
    mean = statistics.fmean(best)
    assert (found.epochs, found.repeat, found.epoch_of_seed, found.finished) == (6, 2, 2, True)
    assert not epoch_report(before, trial, 3, COSTS).finished
    expected = {"val_auc": mean, "val_auc_std": statistics.stdev(best), "ppe": ppe(mean, 0.02), "pme": pme(mean, 0.3)}
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected)
    assert COSTS.items() <= found.metrics.items()
    assert (found.val_auc_epoch, found.val_auc_seed) == (last.epoch.val.auc, last.epoch.best_val_auc)
    assert len(set(best)) > 1
