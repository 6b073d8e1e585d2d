"""The study that is made to be measured holds what a real one's would, and exponents are those of powers by hand."""

import math

import pytest
from PIL import Image

from fpt_ray.bench.grow import AXES, Measured, draw_grow, exponent, grow_text
from fpt_ray.bench.made_study import SPACE, add_trials, begin_study
from fpt_ray.report.result import read_result
from fpt_ray.search.attributes import result_of
from fpt_ray.search.optuna_study import open_study
from fpt_ray.tracking.server import open_tracking

MEASURED = [
    Measured(size=size, seconds={"linear": 2.0 * size, "square": 1e-3 * size**2}, resident_mib=100.0)
    for size in (1, 10, 30, 100)
]


def test_exponents_are_fitted_over_the_last_decade():
    assert exponent([1, 10, 100, 1000], [9, 9, 4 * 100**1.5, 4 * 1000**1.5]) == pytest.approx(1.5)
    assert math.isnan(exponent([10], [1.0]))


def test_the_table_has_a_row_for_each_size_and_the_exponents():
    lines = grow_text(AXES["trials"], MEASURED).splitlines()
    assert lines[0].split()[:3] == ["trials", "in", "a"]
    assert lines[-3].split() == ["exponent", "1.00", "2.00", "0.00"]
    assert lines[-4].split() == ["100", "200", "10", "100"]
    assert "from 10 on" in lines[-1]


def test_the_picture_is_small(tmp_path):
    path = tmp_path / "grow.png"
    draw_grow(AXES["trials"], MEASURED, path)
    with Image.open(path) as picture:
        assert picture.size[0] == 900
        assert picture.info["Title"] == "How cost grows with trials in a study"
    assert path.stat().st_size < 100_000


def test_a_made_study_grows_and_mlflow_and_the_journal_hold_the_same(tmp_path):
    made = begin_study(tmp_path)
    study = open_study(SPACE, made.run.name, made.location, resume=True)
    add_trials(made, study, 3)
    add_trials(made, study, 4)
    result = read_result(open_tracking(made.tracking_uri), made.run.name, made.tracking_uri, str(tmp_path))
    trials = study.get_trials()
    assert [record.number for record in result.trials] == list(range(7))
    assert [record.complete for record in result.trials] == [True] * 7
    for record, trial in zip(result.trials, trials, strict=True):
        assert [record.metrics[name] for name in SPACE.objectives] == pytest.approx(trial.values)
        assert record.metrics == pytest.approx(result_of(trial))
        assert record.values == trial.params
        assert {name: record.params[name] for name in trial.params} == {
            name: str(value) for name, value in trial.params.items()
        }
    assert 0 < len(result.front) < 7
