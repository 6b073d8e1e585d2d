"""Familiarity against scikit-learn's Mahalanobis distance, and images of another kind against ranks by hand."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from fpt_ray.metrics.familiarity import UNLIKE, fitted_familiarity


def drawn(images, width, seed=0, shift=0.0):
    """Class tokens of unlike scales, with a few directions in which they vary together."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(5, width))
    scale = np.geomspace(0.1, 10, width)
    return (generator.normal(size=(images, 5)) @ mixing + generator.normal(size=(images, width)) + shift) * scale


def test_all_directions_of_a_narrow_token_are_kept_and_the_distance_is_mahalanobiss():
    train, other = drawn(400, 24), drawn(50, 24, seed=1, shift=0.5)
    found = fitted_familiarity(train, drawn(100, 24, seed=2))
    np.testing.assert_allclose(found.distances(other), LedoitWolf().fit(train).mahalanobis(other) ** 0.5, rtol=1e-4)


def test_it_is_the_share_of_held_out_images_that_are_as_far():
    train, held_out, other = drawn(300, 24), drawn(37, 24, seed=1), drawn(20, 24, seed=2)
    found = fitted_familiarity(train, held_out)
    far, of_other = found.distances(held_out), found.distances(other)
    np.testing.assert_allclose(found.of(other), [(far >= one).mean() for one in of_other], atol=1e-9)
    assert found.of(train.mean(axis=0, keepdims=True)) == 1
    assert found.of(1e3 * other).max() == 0
    assert found.by_chance == pytest.approx(1 / 38)


def test_a_wide_token_keeps_its_leading_directions_under_a_megabyte_and_tells_other_images():
    """By less than a standard deviation in every direction, which none of them alone would tell."""
    width = 1024
    found = fitted_familiarity(drawn(300, width), drawn(2500, width, seed=1))
    held = (found.mean, found.directions, found.variances, found.held_out)
    assert sum(part.nbytes for part in held) < 1e6
    assert all(part.flags.c_contiguous for part in held)
    same, other = found.of(drawn(500, width, seed=2)), found.of(drawn(500, width, seed=3, shift=0.7))
    assert 0.4 < same.mean() < 0.6, "held-out images are like any others of their kind"
    assert (same < UNLIKE).mean() < 0.03
    assert found.by_chance == UNLIKE
    assert roc_auc_score(np.repeat([1, 0], 500), np.concatenate([same, other])) > 0.95


def test_images_that_are_all_the_same_have_no_spread_and_no_nan():
    found = fitted_familiarity(np.ones((5, 8)), np.ones((3, 8)))
    np.testing.assert_array_equal(found.of(np.stack([np.ones(8), np.full(8, 2.0)])), [1, 0])


def test_of_a_wide_vit_fewer_directions_are_kept_so_that_the_file_stays_small(monkeypatch):
    tokens = np.random.default_rng(0).normal(size=(60, 24))
    assert fitted_familiarity(tokens[:40], tokens[40:]).directions.shape == (23, 24)
    monkeypatch.setattr("fpt_ray.metrics.familiarity._NUMBERS", 24 * 6)
    narrow = fitted_familiarity(tokens[:40], tokens[40:])
    assert narrow.directions.shape == (5, 24)
    assert narrow.variances.shape == (6,)
    assert (narrow.of(tokens[40:]) > 0).all()
