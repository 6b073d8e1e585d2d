"""The ledger's sums by hand, for three trials on one store of which two read the same part."""

import re

import pytest

from fpt_ray.display.typesetting import typeset
from fpt_ray.report.ledger import Preloaded, Spent, ledger, ledger_table

STORE = Preloaded(name="a", seconds=90.0, bytes=3 * 10**9)


def spent(preload, **changed):
    return Spent(
        **{
            "fit_seconds": 10.0,
            "data_seconds": 0.5,
            "startup_seconds": 2.0,
            "flops": 1e12,
            "bytes_read": 1e9,
            "preload": preload,
            "preload_seconds": 90.0,
            **changed,
        }
    )


def test_sums_by_hand():
    trials = [spent(("s", 0.2, 6)), spent(("s", 0.2, 6), fit_seconds=20.0), spent(("s", 0.1, 3))]
    found = ledger(trials, [STORE], 5e13)
    assert found["preload_seconds_per_trial"] == 30
    assert (found["fit_seconds"], found["fit_flops"], found["bytes_read"]) == (40, 3e12, 3e9)
    assert found["data_share"] == pytest.approx(1.5 / 40)
    assert found["startup_seconds_per_trial"] == 2
    assert found["separate_preloads"] == 2  # of two different ratios and depths
    assert found["separate_seconds"] == 2 * 90 + 40 + 6
    assert found["separate_ratio"] == pytest.approx((2 * 90 + 40 + 6) / (90 + 40 + 6))


def test_methods_that_read_images_need_no_preload():
    assert ledger([spent(())], [], 0.0)["separate_ratio"] == 1


def test_the_text_says_every_number_once():
    text = typeset(ledger_table(ledger([spent(("s", 0.2, 6))], [STORE], 5e13)), "text")
    assert text.splitlines()[0] == "What the study cost"
    assert re.search(r"waiting, share of training +5.0%", text)
    assert len(text.splitlines()) == 2 + 12
    assert ledger_table({}).labels == []
    one = ledger_table({"fit_seconds": 40.0})
    assert (one.labels, one.columns[0].cells[0].text) == (["training, all trials"], "40 s")


def test_of_several_stores_each_has_its_price():
    found = ledger([spent(())], [STORE, Preloaded(name="b", seconds=30.0, bytes=10**9)], 0.0)
    assert found["preload_seconds"] == 120
    table = ledger_table(found)
    assert table.labels[:3] == ["preloading", "  a", "  b"]
    assert [cell.text for cell in table.columns[0].cells[:3]] == ["120 s", "90 s, 3.00 GB", "30 s, 1.00 GB"]
