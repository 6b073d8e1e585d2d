"""Confirmed trials and smaller budgets, against tables written by hand."""

from dataclasses import replace

import pytest

from fpt_ray.report.compared import compared_rows
from fpt_ray.report.confirmation import confirmed_table, confirming, reference, verdict
from fpt_ray.report.front import front_of
from fpt_ray.report.summary import rendered, summarise
from fpt_ray.report.what_if import what_if
from fpt_ray.tracking.records import with_metrics
from tests.report.test_report import SEARCHED, metrics_of, record, result


def confirmation(number, of, auc, difference=None, status="FINISHED"):
    """Of the test AUC 0.1 below the validation AUC, 0.02 to either side."""
    tested = {"test_auc": auc - 0.1, "test_auc_std": 0.01, "test_auc_low": auc - 0.12, "test_auc_high": auc - 0.08}
    if difference is not None:
        tested |= dict(zip(("difference_low", "difference_high"), difference, strict=True))
    found = record(number, status=status, **metrics_of(auc, 0.05), **tested)
    return replace(found, tags={"stage": "confirm", "of": str(of), "seeds": "5"})


@pytest.fixture
def records():
    searched = [record(number, **metrics_of(0.8 + number / 100, 0.02 + number / 100)) for number in range(4)]
    confirmed = [
        confirmation(4, 1, 0.9, (-0.02, 0.01)),
        confirmation(5, 3, 0.95),
        confirmation(6, 2, 0.8, status="KILLED"),
        confirmation(7, 2, 0.7, (-0.2, -0.1)),
    ]
    return searched + confirmed


def test_rows_of_a_grid_are_compared_with_its_first_in_its_order():
    """Not by their scores; what chose a learning rate, or has one seed alone, is no row."""
    tested = {"test_auc": 0.7, "test_auc_low": 0.6, "test_auc_high": 0.8, "fit_seconds": 15.0}
    found = [record(number, **metrics_of(0.8 - number / 10, 0.1), **tested) for number in (4, 3, 5)]
    found[0] = with_metrics(found[0], {"difference_low": -0.1, "difference_high": 0.2})
    kinds = (("final", "probe"), ("final", "linear"), ("choose", "probe"))
    tags = [{"stage": stage, "label": label, "seeds": "5"} for stage, label in kinds]
    found = [replace(one, tags=own) for one, own in zip(found, tags, strict=True)]
    rows = compared_rows([*found, record(0, **metrics_of(0.9, 0.1))], SEARCHED, {})
    assert [(row["trial"], row["row"], row["seconds_per_seed"]) for row in rows] == [
        (3, "linear", 3.0),
        (4, "probe", 3.0),
    ]
    assert [row["difference_high"] for row in rows] == [None, 0.2]
    text = rendered(summarise(result(found, {"val_auc": "max"})), "text")
    assert "difference from" in text
    assert "20.00" in text


def test_a_difference_is_beyond_chance_if_its_interval_leaves_out_0(records):
    found = confirming(records)
    assert [one.number for one in found] == [5, 4, 7]
    best = reference(found)
    assert best.number == 5
    assert [verdict(one, best) for one in found] == [
        "best by validation AUC",
        "not told apart from trial 3",
        "differs from trial 3 beyond chance",
    ]
    assert verdict(confirmation(8, 0, 0.5), best) == "not compared with trial 3"
    assert verdict(confirmation(8, 0, 0.5, (0.01, 0.02)), best) == "differs from trial 3 beyond chance"


def test_confirmed_trials_stand_under_the_number_of_the_one_they_confirm(records):
    rows = confirmed_table(records, SEARCHED)
    assert [row["trial"] for row in rows] == ["3", "1", "2"]
    assert [row["test_auc"] for row in rows] == [pytest.approx(auc) for auc in (0.85, 0.8, 0.6)]
    assert [rows[0][f"test_auc_{name}"] for name in ("std", "low", "high")] == [0.01, 0.95 - 0.12, 0.95 - 0.08]
    assert confirmed_table(records[:4], SEARCHED) == []


def test_the_report_has_both_tables_and_confirmations_are_not_of_the_front(records):
    objectives = {"val_auc": "max", "memory_ratio": "min"}
    assert [one.number for one in front_of(records, objectives, {})] == [0, 1, 2, 3]
    found = summarise(result(records, objectives))
    assert [point.name for point in found.picture.trials] == [f"trial {number}" for number in range(4)]
    assert found.heading[0].startswith("Study s: 4 of 4 trials")
    for form in ("text", "markdown"):
        text = rendered(found, form)
        for part in (
            "Confirmed with 5 new seeds",
            "differs from trial 3 beyond chance",
            "With a smaller budget",
            "none fits",
        ):
            assert part in text
        assert len({line.count("|") for line in text.splitlines() if "|" in line}) <= 3
    assert "Confirmed" not in rendered(found, "csv") + rendered(found, "json")
    assert "Confirmed" not in rendered(summarise(result(records[:4], objectives)), "text")


def test_what_if_is_the_best_within_each_budget():
    """(val AUC, MB predicted, % of parameters)"""
    numbers = [(0.7, 90, 0.4), (0.9, 310, 0.6), (0.8, 290, 1.5), (0.8, 200, 1.4), (0.95, 3100, 2.5), (0.99, 80, 0.1)]
    records = [
        record(
            number, params={"side.num_prompts": number + 1}, val_auc=a, peak_memory_bytes=m * 1e6, param_ratio=p / 100
        )
        for number, (a, m, p) in enumerate(numbers)
    ]
    records[5] = replace(records[5], status="FAILED")
    records.append(
        replace(
            records[0], number=6, tags={"stage": "confirm", "of": "0"}, metrics={**records[0].metrics, "val_auc": 0.99}
        )
    )
    found = what_if(records, SEARCHED, {})
    by_hand = {"100 MB": 0, "300 MB": 3, "1000 MB": 1, "3000 MB": 1, "0.5 % parameters": 0, "1 % parameters": 1}
    by_hand["2 % parameters"] = 1
    assert {row["at most"]: row["trial"] for row in found} == by_hand
    assert found[1]["side.num_prompts"] == "4"
    none = what_if(records[4:5], SEARCHED, {})
    assert [row["trial"] for row in none] == ["none fits"] * 7
    assert none[0]["val_auc"] is None
