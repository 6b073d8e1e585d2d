"""Calibration against scikit-learn's losses, a grid of temperatures and sums by hand."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from fpt_ray.metrics.calibration import (
    calibrated,
    calibration_errors,
    estimated_errors,
    fitted_temperatures,
    reliability,
)
from fpt_ray.metrics.intervals import resamples
from fpt_ray.metrics.operating_points import (
    RULE_IN,
    RULE_OUT,
    YOUDEN,
    chosen_thresholds,
    operating_points,
    rates,
    rates_at,
)
from fpt_ray.metrics.scores import predicted


def errors(said, labels, task="multiclass"):
    """Of the images themselves."""
    found = calibration_errors(said, labels, np.ones((1, len(labels)), np.int64), task)
    return {name: float(value[0]) for name, value in found.items()}


def temperature(said, labels):
    (found,) = fitted_temperatures(said, labels, "multiclass")
    return found


def tempered(said, by):
    return calibrated(said, (by,), "multiclass")


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
    before, after = errors(probabilities, labels), errors(tempered(probabilities, found), labels)
    assert after["log_loss"] < before["log_loss"]
    assert after["brier"] < before["brier"]
    assert after["ece"] < 0.02 < before["ece"]


def test_tempering_divides_logits_and_keeps_the_order():
    probabilities, _ = drawn(images=50)
    np.testing.assert_allclose(tempered(probabilities, 1.0), probabilities, rtol=1e-9)
    np.testing.assert_allclose(tempered(probabilities, 2.0), softmax(np.log(probabilities) / 2, axis=1), rtol=1e-9)
    assert (tempered(probabilities, 2.0).argmax(axis=1) == probabilities.argmax(axis=1)).all()
    sure = tempered(np.array([[1.0, 0.0]]), 2.0)
    assert np.isfinite(sure).all()
    assert 0 < sure[0, 1] < 1e-5


def test_grades_keep_their_medians():
    """Truth is drawn by log odds of passing each grade; the network is three times as sure."""
    generator = np.random.default_rng(0)
    odds = np.sort(generator.normal(size=(4000, 3)) + 2 * generator.normal(size=(4000, 1)), axis=1)[:, ::-1]

    def of(by):
        return -np.diff(expit(by * odds), prepend=1.0, append=0.0, axis=1)

    labels = (generator.random((4000, 1)) < expit(odds)).sum(axis=1)
    said = of(3.0)
    (found,) = fitted_temperatures(said, labels, "ordinal")
    assert found == pytest.approx(3.0, rel=0.08)
    np.testing.assert_allclose(calibrated(said, (1.0,), "ordinal"), said, atol=1e-12)
    np.testing.assert_allclose(calibrated(said, (3.0,), "ordinal"), of(1.0), atol=1e-9)
    for by in (0.3, 3.0, 20.0):
        after = calibrated(said, (by,), "ordinal")
        np.testing.assert_allclose(after.sum(axis=1), 1.0)
        assert (predicted(after, "ordinal") == predicted(said, "ordinal")).all()
    softened = calibrated(said, (3.0,), "multiclass")
    assert (predicted(softened, "ordinal") != predicted(said, "ordinal")).sum() > 20  # which is why


def test_the_losses_are_those_of_scikit_learn():
    probabilities, labels = drawn(images=300)
    found = errors(probabilities, labels)
    assert found["log_loss"] == pytest.approx(log_loss(labels, probabilities))
    of_each = [brier_score_loss(labels == c, probabilities[:, c]) for c in range(3)]
    assert found["brier"] == pytest.approx(sum(of_each))


def test_the_reliability_diagram_is_that_of_scikit_learn():
    probabilities, labels = drawn(images=500)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    shares, sure = calibration_curve(right, confidence, n_bins=15, strategy="uniform")
    bins = reliability(probabilities, labels, "multiclass")
    np.testing.assert_allclose([one.right / one.images for one in bins], shares)
    np.testing.assert_allclose([one.confidence for one in bins], sure)
    sizes = np.array([one.images for one in bins])
    assert sizes.sum() == 500
    assert errors(probabilities, labels)["ece"] == pytest.approx((sizes * np.abs(shares - sure)).sum() / 500)


def test_a_resample_has_the_errors_that_its_images_have():
    probabilities, labels = drawn(images=90)
    counts = np.concatenate(list(resamples(labels, 7, 3)))
    found = calibration_errors(probabilities, labels, counts, "multiclass")
    for number, count in enumerate(counts):
        rows = np.repeat(np.arange(90), count)
        expected = errors(probabilities[rows], labels[rows])
        assert {name: value[number] for name, value in found.items()} == pytest.approx(expected)


def test_intervals_of_the_log_loss_are_as_wide_as_its_standard_error_says():
    """All models are resampled alike; a bootstrap of a mean has the standard error of the mean."""
    probabilities, labels = drawn(images=2000, classes=2)
    one, same = estimated_errors([probabilities, probabilities], labels, "binary", draws=600)
    assert one == same
    losses = -np.log(probabilities[np.arange(2000), labels])
    within = np.mean([losses[labels == c].var() for c in range(2)])  # class by class
    expected = 2 * norm.ppf(0.975) * np.sqrt(within / 2000)
    assert one["log_loss"].value == pytest.approx(losses.mean())
    assert one["log_loss"].high - one["log_loss"].low == pytest.approx(expected, rel=0.1)
    assert estimated_errors([np.zeros((3, 1))], np.arange(3.0), "regression") == [{}]


def test_several_labels_are_pairs_of_classes_on_the_images_where_they_are_known():
    first, of_first = drawn(images=300, classes=2, by=2.0)
    second, of_second = drawn(images=300, classes=2, by=0.5)
    said, labels = np.stack([first[:, 1], second[:, 1]], axis=1), np.stack([of_first, of_second], axis=1).astype(float)
    labels[:100, 0] = np.nan
    known = (first[100:], of_first[100:]), (second, of_second)
    assert fitted_temperatures(said, labels, "multilabel") == pytest.approx([temperature(*pair) for pair in known])
    each = [errors(*pair) for pair in known]
    assert errors(said, labels, "multilabel") == pytest.approx(
        {name: np.mean([one[name] for one in each]) for name in each[0]}
    )
    np.testing.assert_allclose(calibrated(said, (2.0, 0.5), "multilabel")[:, 1], tempered(second, 0.5)[:, 1], rtol=1e-9)
    assert sum(one.images for one in reliability(said, labels, "multilabel")) == 500
    labels[:, 0] = np.nan
    assert fitted_temperatures(said, labels, "multilabel")[0] == 1.0
    assert errors(said, labels, "multilabel") == pytest.approx(each[1])
    for only in (0, 1):  # of these the log loss would fall for ever as answers grow sure
        labels[100:, 0] = only
        assert fitted_temperatures(said, labels, "multilabel")[0] == 1.0


def test_the_expected_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.91, 0.09], [0.62, 0.38], [0.38, 0.62]])
    labels = np.array([0, 1, 0, 1])
    bins = reliability(probabilities, labels, "binary")
    assert bins == [(2, pytest.approx(0.62), 2), (2, pytest.approx(0.905), 1)]
    assert errors(probabilities, labels)["ece"] == pytest.approx((2 * 0.38 + 2 * 0.405) / 4)
    grades = np.array([[0.4, 0.35, 0.25], [0.1, 0.7, 0.2]])  # the median of the first is 1, its mode 0
    assert reliability(grades, np.array([1, 1]), "ordinal") == [(1, 0.35, 1), (1, 0.7, 1)]
    assert errors(grades, np.array([1, 1]), "ordinal")["ece"] == pytest.approx((0.65 + 0.3) / 2)
    certain = np.array([[1.0, 0.0]])
    assert reliability(certain, np.array([0]), "binary") == [(1, 1.0, 1)]


# --- operating points ---------------------------------------------------------------------------------------------


def test_operating_points_by_trying_every_threshold():
    generator = np.random.default_rng(1)
    positive = generator.random(200) < 0.4
    scores = np.round(generator.normal(size=200) + 1.2 * positive, 1)  # with ties
    found = chosen_thresholds(scores, positive)
    every = [rates(scores, positive, least) for least in np.append(np.unique(scores), np.inf)]
    pairs = [(one.sensitivity.value, one.specificity.value) for one in every]
    chosen = {name: rates(scores, positive, least) for name, least in found.items()}
    reached = {name: (one.sensitivity.value, one.specificity.value) for name, one in chosen.items()}
    assert sum(reached[YOUDEN]) == pytest.approx(max(map(sum, pairs)))
    assert reached[RULE_OUT][0] >= 0.9
    assert reached[RULE_OUT][1] == max(specific for sensitive, specific in pairs if sensitive >= 0.9)
    assert reached[RULE_IN][1] >= 0.9
    assert reached[RULE_IN][0] == max(sensitive for sensitive, specific in pairs if specific >= 0.9)
    assert not set(found.values()) & set(scores.tolist()), "a threshold lies between two scores"


def test_rates_of_one_class_alone_are_not_made_up():
    found = rates(np.array([0.2, 0.8]), np.array([True, True]), 0.5)
    assert (found.sensitivity.value, found.specificity) == (0.5, None)
    nothing = chosen_thresholds(np.array([0.9, 0.1]), np.array([False, True]))
    assert rates(np.array([0.9, 0.1]), np.array([False, True]), nothing[RULE_IN]).specificity.value == 1.0


def test_the_interval_of_a_rate_is_wilsons():
    """7 of 9 are called: (p + z2/2n +- z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n), Wilson 1927."""
    found = rates(np.array([0.9] * 7 + [0.1] * 2), np.ones(9, bool), 0.5).sensitivity
    z, n, p = norm.ppf(0.975), 9, 7 / 9
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    ends = [(p + z**2 / (2 * n) + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
    assert found == pytest.approx((p, *ends))


def test_two_classes_have_points_of_the_second_and_labels_each_their_own():
    generator = np.random.default_rng(3)
    said = generator.random((40, 3))
    truth = (said + generator.normal(scale=0.4, size=said.shape) > 0.5).astype(float)
    truth[:9, 0], truth[:, 1] = np.nan, 1.0
    points = operating_points(said, truth, ("a", "b", "c"), "multilabel")
    assert [point.name for point in points] == [f"{name}_{of}" for of in "ac" for name in (YOUDEN, RULE_OUT, RULE_IN)]
    own = chosen_thresholds(said[9:, 0], truth[9:, 0] == 1)
    assert {point.name: point.threshold for point in points[:3]} == {f"{name}_a": one for name, one in own.items()}
    assert rates_at(points[0], said, truth, ("a", "b", "c")) == rates(said[9:, 0], truth[9:, 0] == 1, own[YOUDEN])
    labels = (truth[:, 2] == 1).astype(np.int64)
    binary = operating_points(said[:, 1:], labels, ("no", "yes"), "binary")
    assert [(point.name, point.of) for point in binary] == [(name, "yes") for name in (YOUDEN, RULE_OUT, RULE_IN)]
    assert rates_at(binary[1], said[:, 1:], labels, ("no", "yes")).sensitivity.value >= 0.9
    assert operating_points(said, labels, ("a", "b", "c"), "multiclass") == ()
    assert operating_points(said[:, 1:], np.ones(40, np.int64), ("no", "yes"), "binary") == ()
