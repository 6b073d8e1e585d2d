"""Bootstrap intervals against a plain loop over the same resamples with scikit-learn, and against their own promise:
95 of 100 intervals hold the true value."""

import numpy as np
import pytest

from fpt_ray.metrics.intervals import bootstrap, interval, resamples
from fpt_ray.metrics.scores import auc


def bootstrap_aucs(*of, **options):
    return bootstrap(*of, **options)["auc"]


def predictions(generator, labels, num_classes, strength=1.0, digits=None):
    logits = generator.normal(size=(len(labels), num_classes)) + strength * np.eye(num_classes)[labels]
    found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return found if digits is None else found.round(digits)


@pytest.mark.parametrize(("num_classes", "digits"), [(2, None), (3, None), (4, 1)], ids=["two", "three", "ties"])
def test_a_resample_has_the_auc_that_a_plain_loop_gives(num_classes, digits):
    generator = np.random.default_rng(1)
    labels = generator.permutation(np.arange(41) % num_classes)
    models = [[predictions(generator, labels, num_classes, digits=digits) for _ in range(seeds)] for seeds in (1, 3)]
    found = bootstrap_aucs(models, labels, draws=260, seed=5)
    names = [str(c) for c in range(num_classes)]
    resample = 0
    for counts in resamples(labels, 260, 5):
        for count in counts:
            rows = np.repeat(np.arange(len(labels)), count)
            assert (np.bincount(labels[rows]) == np.bincount(labels)).all()
            for model, seeds in enumerate(models if resample % 5 == 0 else []):
                plain = np.mean([auc(one[rows], labels[rows], names) for one in seeds])
                assert found[model, resample] == pytest.approx(plain, abs=1e-9)
            resample += 1
    assert resample == 260


def test_the_same_seed_gives_the_same_and_a_class_of_one_image_stays():
    generator = np.random.default_rng(2)
    labels = np.array([0] * 20 + [1])
    model = [predictions(generator, labels, 2, strength=0.0)]
    one, same, other = (bootstrap_aucs([model], labels, draws=300, seed=seed) for seed in (0, 0, 1))
    assert np.isfinite(one).all()
    assert (one == same).all()
    assert (one != other).any()


def test_resamples_of_many_images_come_a_few_at_a_time():
    for images, at_once in ((1000, 250), (500_000, 8)):
        first = next(resamples(np.zeros(images, np.int64), 300, 0))
        assert first.sum(axis=1).tolist() == [images] * at_once


def test_two_equal_models_do_not_differ_and_a_better_one_does():
    generator = np.random.default_rng(3)
    labels = np.arange(200) % 2
    weak, strong = (predictions(generator, labels, 2, strength) for strength in (0.3, 2.0))
    samples = bootstrap_aucs([[weak], [weak], [strong]], labels, draws=500)
    assert interval(samples[1] - samples[0]) == (0, 0)
    assert interval(samples[2] - samples[0]).low > 0


def test_seeds_are_drawn_anew_for_each_model_and_count_by_their_spread():
    """Of models whose seeds lie apart: with images alone nothing is told of it, with seeds it is the standard error."""
    generator = np.random.default_rng(5)
    labels = np.arange(400) % 2
    seeds = [predictions(generator, labels, 2, strength) for strength in (0.2, 0.6, 1.0, 1.4, 1.8)]
    spread = np.std([auc(one, labels, ["a", "b"]) for one in seeds])
    images = bootstrap_aucs([seeds], labels)[0]
    both = bootstrap_aucs([seeds, seeds, seeds[:1]], labels, seed_of_seeds=7)
    assert both[0].var() - images.var() == pytest.approx(spread**2 / 5, rel=0.15)
    assert both[0].mean() == pytest.approx(images.mean(), abs=0.005)
    assert (both[0] - both[1]).var() == pytest.approx(2 * spread**2 / 5, rel=0.15)  # on the same images
    assert (both[2] == bootstrap_aucs([seeds[:1]], labels)[0]).all()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_about_95_of_100_intervals_hold_the_true_auc(num_classes):
    """The true AUC of normal scores, one apart in each of two logits, is Phi(1) = 0.8413 for the difference of both."""
    generator = np.random.default_rng(4)
    many = np.arange(60000) % num_classes
    truth = auc(predictions(generator, many, num_classes), many, [str(c) for c in range(num_classes)])
    if num_classes == 2:
        assert truth == pytest.approx(0.8413, abs=0.005)
    held, labels = 0, np.arange(90) % num_classes
    for repeat in range(200):
        model = [predictions(generator, labels, num_classes)]
        low, high = interval(bootstrap_aucs([model], labels, draws=300, seed=repeat)[0])
        held += low <= truth <= high
    assert 0.89 <= held / 200 <= 0.99
