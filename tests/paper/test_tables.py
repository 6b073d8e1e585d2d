"""Tables by hand and against the paper's own Table 1; panels of figures."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fpt_ray.config.dotted import flatten
from fpt_ray.config.trial import trial_from
from fpt_ray.display.typesetting import Cell, ranks, typeset
from fpt_ray.errors import ConfigError
from fpt_ray.metrics.scores import pme, ppe
from fpt_ray.paper.figures import draw_figure_html, draw_figure_png, panels
from fpt_ray.paper.numbers import METHOD_NAMES, RUNGS, rows_of, table1
from fpt_ray.paper.tables import averaged, cells, outcome, paper_table
from fpt_ray.tracking.records import PRUNED, TrialRecord

BY_NAME = {name: method for method, name in METHOD_NAMES.items()}
SUPERVISED = "supervised Attention-tuning"  # numbers.json: its printed average is not that of its cells


def trial(auc, *, status="FINISHED", label="", stage="final", val=0.5, std=None, costs=(0.01, 0.03, 736), **over):
    """A trial as MLflow holds it; ``over`` has dotted names with two underscores for the dot."""
    given = flatten(trial_from({name.replace("__", "."): value for name, value in over.items()}))
    known = {"param_ratio": costs[0], "memory_ratio": costs[1], "peak_memory_bytes": costs[2] * 2**20}
    metrics = {"val_auc": val, **known} if status == "FINISHED" else {}
    metrics |= {} if auc is None else {"test_auc": auc}
    metrics |= {} if std is None else {"test_auc_std": std}
    return TrialRecord(
        number=0,
        run_id="r",
        params={name: str(value) for name, value in given.items()},
        metrics=metrics,
        tags={"label": label, "stage": stage},
        status=status,
        reason="",
    )


def column(table, title, *, of_paper=False):
    [found] = [column for column in table.columns if column.title == title and column.of_paper == of_paper]
    return {label: cell.value for label, cell in zip(table.labels, found.cells, strict=True)}


def as_the_paper_ran(weights):
    """{data set: trials} with Table 1's printed numbers."""
    studies = {}
    for row in table1(weights):
        costs = (row["params_percent"] / 100, row["memory_mb"] / 23128, row["memory_mb"])
        for name, auc in row["auc"].items():
            over = {"method": BY_NAME[row["method"]], "backbone__name": f"vit_base_patch16_224.{weights}"}
            found = trial(auc["mean"] / 100, std=auc["std"] / 100, costs=costs, **over)
            studies.setdefault(name, []).append(found)
    return studies


# --- against the paper ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "name"), [("supervised", "table1"), ("dino", "table1_dino")])
def test_table_1_of_the_papers_own_numbers_is_table_1(weights, name):
    table = paper_table(name, as_the_paper_ran(weights), (), paper=True)
    assert table.labels == list(METHOD_NAMES.values())
    titles = [column.title for column in table.columns if not column.of_paper]
    sets = ["DDR", "Messidor-2", "ISIC2018", "ISIC2016", "DDSM", "CMMD", "COVID", "CHNCXR"]
    assert titles == ["Params (%)", "Mem. (MB)", *sets, "Avg.", "PPE", "PME"]
    for title in titles:
        ours, theirs = column(table, title), column(table, title, of_paper=True)
        for method in table.labels:
            if f"{weights} {method}" != SUPERVISED or title not in ("Avg.", "PPE", "PME"):
                assert ours[method] == pytest.approx(theirs[method], abs=0.01), (method, title)


def test_the_papers_best_and_second_are_found():
    table = paper_table("table1", as_the_paper_ran("supervised"), (), paper=False)
    found = {}
    for one in table.columns:
        names = dict(zip(ranks(one), table.labels, strict=True))
        found[one.title] = (names.get("best"), names.get("second"))
    assert found["DDSM"] == ("Full fine-tuning", "FPT+")
    assert found["CMMD"] == ("FPT+", "Full fine-tuning")
    assert found["Avg."] == ("Full fine-tuning", "FPT+")
    assert found["PPE"] == ("FPT+", "AdaLoRA")
    assert found["PME"] == ("FPT+", "FPT")
    assert found["Mem. (MB)"] == found["Params (%)"] == (None, None)


@pytest.mark.parametrize("name", ["table3", "table4", "figure6", "figure7", "figure8"])
def test_the_papers_rows_stand_beside_ours_and_where_we_have_none(name):
    table = paper_table(name, {"s": [trial(0.9)]}, (), paper=True)
    for row, numbers in rows_of(name).items():
        label = row if isinstance(row, str) else f"{row:g}"
        assert column(table, "Avg. AUC", of_paper=True)[label] == numbers.get("average_auc")
    auc = {label: value for label, value in column(table, "Avg. AUC").items() if value is not None}
    default = {"table3": "128", "table4": "16", "figure6": "6", "figure7": "+ Preloading", "figure8": "0.2"}
    assert auc == {default[name]: pytest.approx(90)}
    assert '"paper": as printed there' in " ".join(table.notes)
    assert not any(column.of_paper for column in paper_table(name, {"s": [trial(0.9)]}, (), paper=False).columns)


# --- from trials to cells -------------------------------------------------------------------------------------


def test_of_a_cells_trials_the_best_on_the_validation_split_counts():
    trials = [trial(0.9, val=0.6), trial(0.7, val=0.8), trial(0.99, val=float("nan")), trial(None, status="FAILED")]
    assert outcome(trials).auc == 0.7
    chosen = paper_table("table3", {"s": [trial(0.7), trial(0.9, val=0.9, stage="choose")]}, (), paper=False)
    assert column(chosen, "Avg. AUC") == {"128": pytest.approx(70)}


def test_what_failed_is_told_from_what_is_not_there():
    assert outcome([trial(None, status="FAILED")]).failed
    pruned = replace(trial(0.9, val=0.9), tags={PRUNED: "stopped early"})
    assert outcome([pruned]).failed
    assert outcome([pruned, trial(0.7, val=0.5)]).auc == 0.7
    assert outcome([trial(None, status="KILLED"), trial(None, status="RUNNING")]) is None
    assert outcome([]) is None


def test_the_mean_over_studies_is_of_all_or_none():
    one, other = outcome([trial(0.8, std=0.1)]), outcome([trial(0.9, std=0.2, costs=(0.03, 0.05, 1000))])
    mean = averaged([one, other])
    assert (mean.auc, mean.auc_std, mean.param_ratio) == (pytest.approx(0.85), None, pytest.approx(0.02))
    shown = cells(mean)
    assert shown["ppe"].value == pytest.approx(100 * ppe(0.85, 0.02))
    assert shown["pme"].value == pytest.approx(100 * pme(0.85, 0.04))
    assert shown["memory_mb"].value == pytest.approx(868)
    assert averaged([one]) == one
    for missing, failed in ((None, False), (outcome([trial(None, status="FAILED")]), True)):
        part = averaged([one, missing])
        assert (part.auc, part.failed, part.param_ratio) == (None, failed, 0.01)
        assert cells(part)["average_auc"] == Cell(failed=failed)
    assert averaged([None, None]) is None


def test_table_2_has_memory_then_auc_at_each_resolution_and_slashes():
    def at(size, method, auc, **rest):
        return trial(auc, features__resolution=size, method=method, **rest)

    failed = {"status": "FAILED"}
    studies = {
        "a": [at(512, "lora", None, **failed), at(128, "lora", 0.8), at(128, "fpt+", 0.9), at(512, "fpt+", 0.92)],
        "b": [at(512, "lora", None, **failed), at(128, "lora", 0.7), at(128, "fpt+", 0.8)],
    }
    table = paper_table("table2", studies, (), paper=False)
    lines = typeset(table, "text").splitlines()[-3:]
    assert lines[0].split() == ["Method", "Mem.", "128", "Mem.", "512", "AUC", "128", "AUC", "512"]
    assert lines[1].split() == ["LoRA", "736", "/", "_75.00_", "/"]
    assert lines[2].split() == ["FPT+", "736", "736", "*85.00*", "-"]
    assert '"/": failed' in " ".join(table.notes)
    beside = paper_table("table2", studies, (), paper=True)
    assert [len(beside.labels), len(beside.columns)] == [10, 20]
    assert column(beside, "AUC 512", of_paper=True)["LoRA"] is None
    assert column(beside, "Mem. 640", of_paper=True)["FPT+"] == 1050
    assert "out of memory on 48 GB" in " ".join(beside.notes)


def test_where_no_test_score_is_there_the_validation_score_is_marked_and_not_compared():
    trials = [trial(None, val=0.99, side__resolution=64), trial(0.8), trial(0.7, side__resolution=256)]
    table = paper_table("table3", {"s": trials}, (), paper=False)
    rows = [line.split() for line in typeset(table, "text").splitlines()[-3:]]
    assert rows[0][:3] == ["64", "99.00", "(val)"]
    assert (rows[1][1], rows[2][1]) == ("*80.00*", "_70.00_")
    assert "(val)" in " ".join(table.notes)
    read = list(csv.DictReader(io.StringIO(typeset(table, "csv"))))
    assert [row["Avg. AUC split"] for row in read] == ["val", "test", "test"]


RUNG_TRIALS = {
    "Side network alone": {"features__preloaded": False, "side__num_prompts": 0, "side__resolution": 512},
    "+ MLP transfer": {"features__preloaded": False, "method": "mlp_transfer", "side__resolution": 512},
    "+ Fusion modules": {"features__preloaded": False, "features__token_ratio": 1.0, "side__resolution": 512},
    "+ Asymmetric input": {"features__preloaded": False, "features__token_ratio": 1.0},
    "+ Token selection": {"features__preloaded": False},
    "+ Preloading": {},
}


def test_the_rungs_of_figure_7_are_known_by_label_or_by_what_they_are():
    assert list(RUNG_TRIALS) == list(RUNGS)
    by_settings = [trial(0.9, **over) for over in RUNG_TRIALS.values()]
    by_label = [trial(0.9, label=label.upper(), **RUNG_TRIALS["+ Preloading"]) for label in reversed(RUNGS)]
    for trials in (by_settings, by_label):
        assert paper_table("figure7", {"s": trials}, (), paper=False).labels == list(RUNGS)
    assert len(paper_table("figure7", {"s": [*by_settings, trial(0.9, method="lora")]}, (), paper=False).labels) == 6


@pytest.mark.parametrize(
    ("name", "trials"),
    [
        ("table1", []),
        ("table1", [trial(0.9, method="mlp_transfer")]),
        ("table1_dino", [trial(0.9)]),
        ("table2", [trial(0.9, stage="choose")]),
        ("table3", [trial(0.9, method="lora"), trial(0.9, features__preloaded=False)]),
        ("figure7", [trial(0.9, method="lora")]),
        ("figure8", [trial(0.9, side__num_prompts=0)]),
    ],
)
def test_a_study_without_a_fitting_trial_is_named_with_the_command_that_makes_one(name, trials):
    with pytest.raises(ConfigError) as error:
        paper_table(name, {"other": trials}, (), paper=True)
    text = str(error.value)
    assert "study 'other' has no final trial" in text
    assert "it lacks" in text
    assert f"fpt-ray tune --space {name} " in text
    assert "\n" not in text


# --- the figures ----------------------------------------------------------------------------------------------


def depths():
    aucs = {3: 0.85, 6: 0.87, 9: 0.873}
    return [trial(auc, std=0.01, side__depth=depth, costs=(0.002 * depth, 0.03, 700)) for depth, auc in aucs.items()]


def test_the_star_stands_at_our_best():
    found = panels(paper_table("figure6", {"s": depths()}, (), paper=True))
    assert [panel.ours.title for panel in found] == ["Avg. AUC", "PPE", "PME", "Mem. (MB)"]
    assert [panel.best() for panel in found] == [2, 2, 2, None]
    assert [cell.value for cell in found[0].paper] == [None, 87.12, 87.32]
    assert [panel.paper for panel in panels(paper_table("figure6", {"s": depths()}, (), paper=False))] == [()] * 4


@pytest.mark.parametrize(
    ("name", "kind", "paper", "colors"),
    [
        ("figure6", "lines", True, {"vermilion", "green", "blue"}),
        ("figure7", "bars", True, {"vermilion", "green"}),
        ("figure7", "bars", False, {"vermilion"}),
        ("figure8", "lines", False, {"vermilion", "blue"}),
    ],
)
def test_what_is_drawn_in_which_colour(tmp_path, name, kind, paper, colors):
    table = paper_table(name, {"s": depths()}, ["Images: $1 <b>"], paper=paper)
    draw_figure_png(table, kind, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["Description"].startswith("Images: $1 <b>")
        seen = np.asarray(image.convert("RGB")).reshape(-1, 3)
    known = {"vermilion": (213, 94, 0), "green": (0, 158, 115), "blue": (0, 114, 178)}
    assert {color for color, rgb in known.items() if (seen == rgb).all(axis=1).any()} == colors
    draw_figure_html(table, kind, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "Images: $1 <b>" not in page
    assert ("the paper's (other images)" in page) == paper
    assert ('"symbol":"star"' in page) == ("blue" in colors)
