"""Calibration against scikit-learn's losses, a grid of temperatures and sums by hand."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import brier_score_loss, log_loss

from fpt_ray.metrics.calibration import calibration, reliability, temperature, tempered
from fpt_ray.metrics.operating_points import RULE_IN, RULE_OUT, YOUDEN, operating_points, rates


def drawn(images=4000, classes=3, by=1.0):
    """(probabilities, labels that are drawn by them), then sharpened: logits times a number."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(images, classes))
    truth = softmax(logits, axis=1)
    labels = (generator.random((images, 1)) > truth.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    return softmax(by * logits, axis=1), labels


def test_the_temperature_is_the_one_that_sharpened_them():
    probabilities, labels = drawn(by=3.0)
    found = temperature(probabilities, labels)
    assert found == pytest.approx(3.0, rel=0.08)
    losses = {by: log_loss(labels, tempered(probabilities, by)) for by in np.linspace(1, 6, 501)}
    assert found == pytest.approx(min(losses, key=losses.__getitem__), abs=0.01)
    before, after = calibration(probabilities, labels), calibration(tempered(probabilities, found), labels)
    assert after.log_loss < before.log_loss
    assert after.brier < before.brier
    assert after.ece < 0.02 < before.ece


def test_tempering_divides_logits_and_keeps_the_order():
    probabilities, _ = drawn(images=50)
    np.testing.assert_allclose(tempered(probabilities, 1.0), probabilities, rtol=1e-9)
    np.testing.assert_allclose(tempered(probabilities, 2.0), softmax(np.log(probabilities) / 2, axis=1), rtol=1e-9)
    assert (tempered(probabilities, 2.0).argmax(axis=1) == probabilities.argmax(axis=1)).all()
    sure = tempered(np.array([[1.0, 0.0]]), 2.0)
    assert np.isfinite(sure).all()
    assert 0 < sure[0, 1] < 1e-5


def test_the_losses_are_those_of_scikit_learn():
    probabilities, labels = drawn(images=300)
    found = calibration(probabilities, labels)
    assert found.log_loss == pytest.approx(log_loss(labels, probabilities))
    of_each = [brier_score_loss(labels == c, probabilities[:, c]) for c in range(3)]
    assert found.brier == pytest.approx(sum(of_each))


def test_the_expected_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.91, 0.09], [0.62, 0.38], [0.38, 0.62]])
    labels = np.array([0, 1, 0, 1])
    assert reliability(probabilities, labels) == [(2, pytest.approx(0.62), 1.0), (2, pytest.approx(0.905), 0.5)]
    assert calibration(probabilities, labels).ece == pytest.approx((2 * 0.38 + 2 * 0.405) / 4)
    certain = np.array([[1.0, 0.0]])
    assert reliability(certain, np.array([0])) == [(1, 1.0, 1.0)]


# --- operating points ---------------------------------------------------------------------------------------------


def test_operating_points_by_trying_every_threshold():
    generator = np.random.default_rng(1)
    positive = generator.random(200) < 0.4
    scores = np.round(generator.normal(size=200) + 1.2 * positive, 1)  # with ties
    found = operating_points(scores, positive)
    every = [rates(scores, positive, least) for least in np.append(np.unique(scores), np.inf)]
    best = max(one.sensitivity + one.specificity for one in every)
    youden = rates(scores, positive, found[YOUDEN])
    assert youden.sensitivity + youden.specificity == pytest.approx(best)
    out, within = rates(scores, positive, found[RULE_OUT]), rates(scores, positive, found[RULE_IN])
    assert out.sensitivity >= 0.9
    assert out.specificity == max(one.specificity for one in every if one.sensitivity >= 0.9)
    assert within.specificity >= 0.9
    assert within.sensitivity == max(one.sensitivity for one in every if one.specificity >= 0.9)
    assert not set(found.values()) & set(scores.tolist()), "a threshold lies between two scores"


def test_rates_of_one_class_alone_are_not_made_up():
    found = rates(np.array([0.2, 0.8]), np.array([True, True]), 0.5)
    assert (found.sensitivity, found.specificity) == (0.5, None)
    nothing = operating_points(np.array([0.9, 0.1]), np.array([False, True]))
    assert rates(np.array([0.9, 0.1]), np.array([False, True]), nothing[RULE_IN]).specificity == 1.0
