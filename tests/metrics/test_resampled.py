"""Scores in resamples against ``scores`` of the very rows that a resample has, one after the other; and how long 2,000
resamples of 1,000 images take."""

import time

import numpy as np
import pytest

from fpt_ray.config.tasks import SCORES
from fpt_ray.metrics.intervals import bootstrap, interval, resamples
from fpt_ray.metrics.scores import MetricError, score

TASKS = ("binary", "multiclass", "ordinal", "multilabel", "regression")


def material(task, rows=60, seed=0):
    """Predictions with ties that are right more often than not, and labels; of several labels some are missing."""
    generator = np.random.default_rng(seed)
    if task == "regression":
        values = generator.integers(0, 9, rows) / 2
        return (values + generator.normal(size=rows)).round(1)[:, None], values, ("age",)
    size = 2 if task == "binary" else 4
    classes = tuple("abcd"[:size])
    if task == "multilabel":
        labels = (generator.random((rows, size)) < 0.3).astype(np.float32)
        said = (0.6 * generator.random((rows, size)) + 0.4 * labels).round(2)
        labels[generator.random((rows, size)) < 0.2] = np.nan
        return said, labels, classes
    labels = generator.permutation(np.arange(rows) % size)
    logits = generator.normal(size=(rows, size)) + np.eye(size)[labels]
    said = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return said.round(2), labels, classes


@pytest.mark.parametrize("task", TASKS)
def test_a_resample_has_the_scores_of_its_rows(task):
    said, labels, classes = material(task)
    found = bootstrap([[said]], labels, SCORES[task], task, draws=20, seed=3)
    assert found.keys() == set(SCORES[task])
    (counts,) = resamples(labels, 20, 3)
    for number, count in enumerate(counts):
        rows = np.repeat(np.arange(len(labels)), count)
        for name in SCORES[task]:
            plain = score(name, said[rows], labels[rows], classes, task)
            assert found[name][0, number] == pytest.approx(plain, abs=1e-9), name
    assert all(np.ptp(one) > 0 for one in found.values())


def test_a_label_that_a_resample_lacks_is_left_out_of_its_mean():
    """One image alone has the label: a third of the resamples lack it, and none of them has a score of it."""
    said, labels, classes = material("multilabel", rows=30)
    labels[:, 1:] = np.nan
    labels[:, 0] = np.arange(30) == 4
    found = bootstrap([[said]], labels, ("auc", "f1", "average_precision"), "multilabel", draws=300)
    lacks = np.concatenate([counts[:, 4] == 0 for counts in resamples(labels, 300, 0)])
    assert 0.25 < lacks.mean() < 0.5
    for samples in found.values():
        assert (np.isnan(samples[0]) == lacks).all()
    low, high = interval(found["auc"][0])
    assert low <= score("auc", said, labels, classes, "multilabel") <= high
    with pytest.raises(MetricError, match="no class or label has both"):
        score("auc", said[labels[:, 0] == 0], labels[labels[:, 0] == 0], classes, "multilabel")


def test_values_that_hardly_differ_have_the_scores_of_their_rows():
    """Of a hundred values of 0.1 one differs: a third of the resamples lack it, and none of them has an R2."""
    values, offset = np.full(100, 0.1), 1.7e9
    values[7] = 0.9
    guesses = values + 0.01 * np.random.default_rng(0).normal(size=100)
    for shift in (0.0, offset):
        found = bootstrap([[guesses[:, None] + shift]], values + shift, ("r2",), "regression", draws=300)["r2"][0]
        counts = np.concatenate(list(resamples(values, 300, 0)))
        assert (np.isnan(found) == (counts[:, 7] == 0)).all()
        for count, r2 in zip(counts[:20], found, strict=False):
            rows = np.repeat(np.arange(100), count)
            if count[7]:
                plain = score("r2", guesses[rows, None] + shift, values[rows] + shift, ("v",), "regression")
                assert r2 == pytest.approx(plain, abs=1e-4)


def test_guesses_that_are_all_the_same_tell_no_order():
    said, values, _ = material("regression")
    found = bootstrap([[said, np.ones_like(said)]], values, ("spearman",), "regression", draws=50)["spearman"]
    alone = bootstrap([[said]], values, ("spearman",), "regression", draws=50)["spearman"]
    np.testing.assert_allclose(found, alone / 2)


@pytest.mark.parametrize("task", TASKS)
def test_intervals_of_a_thousand_images_take_seconds(task):
    said, labels, _ = material(task, rows=1000)
    started = time.perf_counter()
    bootstrap([[said]], labels, SCORES[task], task)
    assert time.perf_counter() - started < 20
