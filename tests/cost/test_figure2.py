"""Figure 2: the questions at 512 px are Table 1's, and limits are met where memory by a formula reaches them."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from fpt_ray.config.trial import trial_from
from fpt_ray.cost import costs
from fpt_ray.cost.command import Command
from fpt_ray.cost.command import run as print_costs
from fpt_ray.cost.execution import PAPER_BASELINES, PAPER_FPT
from fpt_ray.cost.figure2 import resolutions
from fpt_ray.cost.figure2.resolutions import GIB, Line, answer, largest, lines, questions
from fpt_ray.cost.paper_rows import paper_rows
from fpt_ray.cost.prediction import memory_key
from fpt_ray.display.units import MIB
from fpt_ray.errors import ConfigError


def memory_of(size):
    """Of a ViT whose maps are kept: a constant, tokens and pairs of tokens, in bytes."""
    tokens = (size / 16) ** 2
    return int(0.5 * GIB + 2e6 * tokens + 12e3 * tokens**2)


def test_at_512_px_it_asks_what_table_1_is_predicted_by():
    asked = {
        (one.runner, one.trial.method): one
        for one in questions(trial_from({}), 5)
        if one.trial.features.resolution == 512
    }
    rows = paper_rows("table1")
    for row in rows:
        one = asked["paper", row.trial.method]
        assert memory_key(one.trial) == memory_key(row.trial)
        assert resolutions.execution_of(one) == row.execution in (PAPER_BASELINES, PAPER_FPT)
    assert {method for runner, method in asked if runner == "paper"} == {row.trial.method for row in rows}
    assert {"probe", "knn", "mlp_transfer"} <= {method for runner, method in asked if runner == "ours"}
    fpt_plus = answer(asked["paper", "fpt+"])
    assert fpt_plus / MIB == pytest.approx(736, rel=0.03)


def test_resolutions_are_multiples_of_the_patch_and_methods_those_of_the_backbone():
    eva = {"backbone.name": "eva02_tiny_patch14_224", "side.resolution": 126}
    asked = questions(trial_from(eva), 5)
    assert {one.trial.features.resolution % 14 for one in asked} == {0}
    assert max(one.trial.features.resolution for one in asked) == 2044
    assert {"lora", "adalora", "prompt_tuning"}.isdisjoint({one.trial.method for one in asked})
    with pytest.raises(ConfigError, match=r"side\.resolution"):
        questions(trial_from({"backbone.name": "eva02_tiny_patch14_224"}), 5)


@pytest.mark.parametrize("limit", resolutions.LIMITS_GIB)
def test_a_limit_is_reached_within_two_percent_of_where_the_formula_reaches_it(limit):
    known = {size: memory_of(size) for size in resolutions.RESOLUTIONS}
    exact = next(size for size in range(224, 2049) if memory_of(size) > limit * GIB)
    assert largest(known, limit * GIB) == pytest.approx(exact, rel=0.02)


def test_limits_beyond_what_was_asked_are_told_from_those_never_met():
    assert largest({224: 10, 512: 20}, 9) is None
    assert largest({224: 10, 512: 20}, 20) == math.inf
    assert largest({224: 10, 512: 10, 640: 40}, 20) == pytest.approx(math.sqrt(512 * 640))


@pytest.fixture
def predicted(monkeypatch):
    """Predictions by the formula, with a share of it for what stands beside the LPM."""

    def each(function, items):
        assert function is answer
        beside = ("fpt+", "fpt", "probe")
        sizes = [(one.trial.features.resolution, one.trial.method in beside) for one in items]
        return [memory_of(size) // (50 if small else 1) for size, small in sizes]

    monkeypatch.setattr(costs, "each", each)


def test_the_command_prints_a_table_each_and_draws(predicted, tmp_path, capsys):
    picture = tmp_path / "figure2.png"
    print_costs(Command(as_="figure2", picture=str(picture)))
    said = capsys.readouterr()
    assert f"picture: {picture}" in said.err
    ours, theirs = said.out.split("as the paper ran it")
    (row,) = [line.split() for line in ours.splitlines() if line.startswith("LoRA")]
    assert row[1:11] == [f"{memory_of(size) / GIB:.2f}" for size in resolutions.RESOLUTIONS]
    assert [int(size) % 16 for size in row[11:]] == [0] * 4
    (small,) = [line.split() for line in theirs.splitlines() if line.startswith("FPT+")]
    assert small[-1] == ">2048"
    assert "probe" in ours
    assert "probe" not in theirs
    with Image.open(picture) as image:
        seen = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert "batch 16" in image.text["Description"]
    for color in ((213, 94, 0), (140, 149, 159)):
        assert (seen == color).all(axis=1).any()
    page = picture.with_suffix(".html").read_text()
    assert "FPT+: " in page
    assert "Dashed:" in page


def test_its_json_has_every_prediction(predicted, tmp_path, capsys):
    print_costs(Command(as_="figure2", picture=str(tmp_path / "a.png"), json=True))
    records = json.loads(capsys.readouterr().out)
    assert {one["run_as"] for one in records} == {"ours", "paper"}
    (one,) = [one for one in records if (one["run_as"], one["method"], one["resolution"]) == ("paper", "lora", 512)]
    assert one["memory_mb"] == pytest.approx(memory_of(512) / MIB, abs=1)


@pytest.mark.parametrize("picture", ["figure2.jpg", "nowhere/figure2.png"])
def test_a_picture_needs_a_name_and_a_folder(picture, tmp_path):
    with pytest.raises(ConfigError, match=r"--picture: .* give one"):
        print_costs(Command(as_="figure2", picture=str(tmp_path / picture)))


def test_lines_keep_the_order_of_what_was_asked():
    asked = [one for one in questions(trial_from({}), 5) if one.trial.method in ("fpt+", "lora")]
    found = lines(asked, range(len(asked)))
    assert found[0] == Line(
        runner="ours", method="fpt+", memory_bytes={size: at for at, size in enumerate(resolutions.RESOLUTIONS)}
    )
    assert [(line.runner, line.name) for line in found[1:]] == [("paper", "FPT+"), ("ours", "LoRA"), ("paper", "LoRA")]
