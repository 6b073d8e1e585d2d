"""Which trials count, against one record for each way not to: fronts and budgets are of the same ones."""

import math

import pytest

from fpt_ray.config.objectives import Limit, broken_limits
from fpt_ray.report.front import front_of, front_table
from fpt_ray.report.what_if import what_if
from fpt_ray.tracking.records import PRUNED, TrialRecord, broken_by, counted, infeasible

CONSTRAINTS = {"val_auc": Limit(low=0.5)}
OBJECTIVES = {"val_auc": "max", "param_ratio": "min"}


def record(number, auc, ratio=0.01, status="FINISHED", **tags):
    metrics = {"val_auc": auc, "param_ratio": ratio, "memory_ratio": 0.1, "peak_memory_bytes": ratio * 1e10}
    params = {"side.depth": str(number)}
    return TrialRecord(
        number=number, run_id=str(number), params=params, metrics=metrics, tags=tags, status=status, reason=""
    )


RECORDS = [
    record(0, 0.8, 0.02),
    record(1, 0.4, 0.001),  # breaks the constraint
    record(2, 0.99, status="FAILED"),
    record(3, 0.99, stage="confirm", of="0"),
    record(4, 0.99, stage="choose"),
    record(5, math.nan),
    record(6, 0.99, **{PRUNED: "stopped early"}),
    record(7, 0.7, 0.01),
    record(8, 0.7, 0.02),  # dominated
    record(9, 0.5, 0.005),  # keeps to the constraint, just
]


def numbers(records):
    return [one.number for one in records]


def test_those_count_that_ended_have_their_numbers_keep_to_the_constraints_and_serve_no_other():
    assert numbers(counted(RECORDS, CONSTRAINTS)) == [0, 7, 8, 9]
    assert numbers(counted(RECORDS, {})) == [0, 1, 7, 8, 9]
    assert numbers(counted(RECORDS, {}, ("val_auc", "nowhere"))) == []
    assert numbers(infeasible(RECORDS, CONSTRAINTS)) == [1, 5]


def test_a_trial_with_new_seeds_keeps_to_limits_but_for_the_seconds_of_more_seeds():
    """What it breaks by its scores is shown as such, and its test score is not read."""
    limits = {**CONSTRAINTS, "train_seconds": Limit(high=100.0)}
    longer = record(10, 0.9, stage="confirm", of="0")
    longer.metrics["train_seconds"] = 300.0
    worse = record(11, 0.45, stage="confirm", of="7")
    worse.metrics["train_seconds"] = 5.0
    slow = record(12, 0.9)
    slow.metrics["train_seconds"] = 300.0
    assert [broken_by(one, limits) for one in (longer, worse, slow)] == [{}, {"val_auc": 0.45}, {"train_seconds": 300}]
    assert numbers(infeasible([longer, worse, slow], limits)) == [11, 12]


def test_the_front_and_its_table_are_of_what_counts():
    front = front_of(RECORDS, OBJECTIVES, CONSTRAINTS)
    assert numbers(front) == [0, 7, 9]
    tested = [record(0, 0.8, 0.02), record(1, 0.7, 0.01)]
    tested[1].metrics["test_auc"] = 0.6
    rows = front_table(tested, ("side.depth",))
    assert [(row["trial"], row["side.depth"], row["test_auc"]) for row in rows] == [(1, "1", 0.6), (0, "0", None)]
    shares = [row["ppe"] * math.exp(math.log10(row["param_ratio"] + 1)) for row in rows]
    assert shares == pytest.approx([0.6, 0.8])


def test_what_fits_a_budget_is_of_what_counts_and_of_equals_the_cheaper():
    found = {row["at most"]: row["trial"] for row in what_if(RECORDS, ("side.depth",), CONSTRAINTS)}
    assert found["0.5 % parameters"] == 9  # just 0.5 %
    assert found["1 % parameters"] == 7
    assert found["2 % parameters"] == 0
    stricter = what_if(RECORDS, (), {"val_auc": Limit(low=0.6)})
    assert {row["at most"]: row["trial"] for row in stricter}["0.5 % parameters"] == "none fits"
    alike = [record(1, 0.7, 0.003), record(2, 0.7, 0.002), record(3, 0.7, 0.004)]
    assert {row["trial"] for row in what_if(alike, (), {}) if "parameters" in row["at most"]} == {2}


def test_limits_by_hand():
    both = Limit(low=2.0, high=4.0)
    assert [both.excess(value) for value in (1.0, 2.0, 3.0, 4.0, 6.0)] == [0.5, 0.0, -0.25, 0.0, 0.5]
    assert (Limit(high=4.0).excess(3.0), Limit(low=2.0).excess(3.0)) == (-0.25, -0.5)
    assert Limit(high=0.0).excess(0.5) == 0.5
    known = {"val_auc": Limit(low=0.5), "param_ratio": Limit(high=0.1)}
    assert broken_limits(known, {"val_auc": 0.4, "param_ratio": 0.1}) == {"val_auc": 0.4}
    assert broken_limits(known, {"val_auc": 0.5, "param_ratio": 0.2}) == {"param_ratio": 0.2}
    assert list(broken_limits(known, {})) == ["val_auc"]  # the other is judged before training
