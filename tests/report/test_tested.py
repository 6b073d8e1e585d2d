"""What is stored of the test split comes back from MLflow as it was, and is shown for the best trial: numbers against
the scores and intervals that they are made of."""

import numpy as np
import pytest
from PIL import Image

from fpt_ray.config.tasks import SCORES
from fpt_ray.display.typesetting import typeset
from fpt_ray.metrics.intervals import bootstrap, interval
from fpt_ray.metrics.scores import scores
from fpt_ray.report.tested import FILE, as_json, best_tested, draw_confusion, of_seeds, score_tables
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.records import TrialRecord
from tests.metrics.test_resampled import material


def record(number, run_id="", confirms=None, **metrics):
    tags = {} if confirms is None else {"of": str(confirms)}
    return TrialRecord(
        number=number, run_id=run_id, params={}, metrics=metrics, tags=tags, status="FINISHED", reason=""
    )


def found_of(task):
    """Of two seeds."""
    said, labels, classes = material(task)
    seeds = [said, said[:, ::-1].copy() if task != "regression" else said + 1]
    samples = bootstrap([seeds], labels, SCORES[task], task, draws=100)
    samples = {name: one[0] for name, one in samples.items()}
    each = [scores(one, labels, classes, task) for one in seeds]
    return each, samples, of_seeds(each, samples, classes)


@pytest.mark.parametrize("task", SCORES)
def test_the_best_trials_is_read_back_as_it_was_stored(task, tmp_path):
    from mlflow import MlflowClient

    each, samples, found = found_of(task)
    for name in SCORES[task]:
        value, low, high = found.scores[name]
        assert value == pytest.approx((each[0][name] + each[1][name]) / 2)
        assert (low, high) == interval(samples[name])
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    runs = [client.create_run(experiment).info.run_id for _ in range(4)]
    tracking.attach_text(client, runs[1], as_json(found), FILE)
    name = SCORES[task][0]
    numbers = {f"val_{name}": 0.7, f"test_{name}": 0.6}
    records = [
        record(0, runs[0], **{f"val_{name}": 0.9}),  # its test score was not read
        record(1, runs[1], **numbers),
        record(2, runs[2], **{**numbers, f"val_{name}": 0.5}),
    ]
    best, again = best_tested(client, records, name, {})
    assert (best.number, again) == (1, found)
    confirmed = record(3, runs[3], confirms=2, **{**numbers, f"val_{name}": 0.1})
    assert best_tested(client, [*records, confirmed], name, {}) is None  # an earlier version has stored nothing of it
    assert best_tested(client, records[:1], name, {}) is None


def test_tables_have_the_scores_and_every_class_and_the_picture_is_drawn(tmp_path):
    each, _, found = found_of("multiclass")
    text = "\n".join(typeset(table, "text") for table in score_tables(record(4), found))
    value, low, high = found.scores["average_precision"]
    assert f"{100 * value:.2f}" in text
    assert f"{100 * low:.2f}" in text
    assert f"{100 * high:.2f}" in text
    assert "best trial, 4, mean of 2 seeds" in text
    assert "sensitivity at 90 % specificity" in text
    both = np.mean([one.per_class["c"]["recall"] for one in each])
    (line,) = [line for line in text.splitlines() if line.startswith("c ")]
    assert f"{100 * both:.2f}" in line
    assert np.sum(found.confusion) == 2 * 60
    draw_confusion(record(4), found, tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.info["Title"].startswith("What trial 4 takes for what")


def test_values_have_no_classes():
    _, _, found = found_of("regression")
    (table,) = score_tables(record(4, confirms=1), found)
    assert "MAE" in (text := typeset(table, "text"))
    assert "best trial, 1" in text
    assert f"{found.scores['mae'][0]:.4g}" in text
    assert found.confusion == ()
