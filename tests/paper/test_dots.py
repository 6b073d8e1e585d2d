"""Figure 1's dots against the numbers of the paper's Table 1, which they are drawn from."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from fpt_ray.errors import ConfigError
from fpt_ray.paper.dots import dots, draw_dots_html, draw_dots_png
from fpt_ray.paper.numbers import table1
from fpt_ray.paper.tables import paper_table
from tests.paper.test_tables import as_the_paper_ran, trial

BLUE, GREEN = (0, 114, 178), (0, 158, 115)


def test_of_the_papers_own_numbers_our_dots_lie_on_the_papers():
    found = dots(paper_table("figure1", as_the_paper_ran("supervised"), (), paper=True))
    theirs, ours = ({dot.name: dot for dot in found if dot.of_paper == of_paper} for of_paper in (True, False))
    assert len(theirs) == len(ours) == 10
    for row in table1("supervised"):
        dot = theirs[row["method"]]
        assert (dot.params_percent, dot.memory_mb, dot.auc) == (
            row["params_percent"],
            row["memory_mb"],
            row["average_auc"],
        )
        same = ours[row["method"]]
        assert (same.params_percent, same.memory_mb) == pytest.approx((dot.params_percent, dot.memory_mb))
        assert same.auc == pytest.approx(dot.auc, abs=0.2)  # numbers.json: one printed average is not that of its cells


def test_what_has_no_auc_in_every_study_has_no_dot():
    studies = {"a": [trial(0.8), trial(0.9, method="lora")], "b": [trial(0.9)]}
    (dot,) = dots(paper_table("figure1", studies, (), paper=False))
    assert (dot.name, dot.auc) == ("FPT+", pytest.approx(85))
    assert dots(paper_table("figure1", {"a": [trial(None, status="FAILED")]}, (), paper=False)) == []


def test_a_page_has_areas_in_proportion_to_memory(tmp_path):
    table = paper_table("figure1", as_the_paper_ran("supervised"), ["Images: $1 <b>"], paper=False)
    draw_dots_html(table, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert '"sizemode":"area"' in page
    (sizes,) = re.findall(r'"size":(\[[\d.,]+\])', page.rpartition("Plotly.newPlot")[2])
    assert json.loads(sizes) == sorted((row["memory_mb"] for row in table1("supervised")), reverse=True)
    assert "Images: $1 <b>" not in page
    assert "the paper's (other images)" not in page


@pytest.mark.parametrize("paper", [True, False])
def test_the_papers_dots_are_drawn_where_they_are_wanted(tmp_path, paper):
    table = paper_table("figure1", as_the_paper_ran("supervised"), ["Images: $1 <b>"], paper=paper)
    draw_dots_png(table, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert "23,128 MB" in image.text["Description"]
        seen = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    for color, wanted in ((BLUE, True), (GREEN, paper)):
        light = 255 - 0.55 * (255 - np.array(color))  # see-through, on white
        assert (np.abs(seen - light).max(axis=1) <= 1).any() == wanted


def test_a_study_without_a_method_of_the_papers_is_told_the_space_of_table_1():
    with pytest.raises(ConfigError, match=r"no final trial for Figure 1.*fpt-ray tune --space table1 "):
        paper_table("figure1", {"other": [trial(0.9, method="mlp_transfer")]}, (), paper=True)
