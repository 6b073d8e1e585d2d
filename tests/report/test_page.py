"""The page of a study against what the made study holds; in a browser: it is whole on a phone and asks for nothing."""

import html
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fpt_ray.display.typesetting import Cell, Column, Table
from fpt_ray.errors import ConfigError
from fpt_ray.report.command import Command
from fpt_ray.report.command import run as run_report
from fpt_ray.report.page import embedded as pictures
from fpt_ray.report.page.bundles import calibration_table, points_table, read_bundles
from fpt_ray.report.page.embedded import embedded
from fpt_ray.report.page.rendering import header, rows
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.server import open_tracking
from tests.report.made_study import EVIL, NOTE, make_study

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(working directory, tracking URI, where the page was asked for)."""
    workdir = tmp_path_factory.mktemp("made")
    uri = make_study(workdir)
    page = workdir / "elsewhere" / "page.html"
    page.parent.mkdir()
    run_report(Command(study=("made",), workdir=str(workdir), tracking_uri=uri, html=str(page)))
    return workdir, uri, page


@pytest.fixture(scope="module")
def text(made):
    """The page without Plotly's own source."""
    return re.sub(r"<script>/\*\*.*?</script>", "", made[2].read_text(), count=1, flags=re.DOTALL)


class Addresses(HTMLParser):
    """What a browser would ask for, or go to, by a page's tags."""

    def __init__(self):
        super().__init__()
        self.all = []

    def handle_starttag(self, tag, attrs):
        assert tag not in ("link", "iframe", "object", "form", "base")
        self.all += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "poster", "data")]


def section(text, name):
    """A section of the page as its reader sees it."""
    part = text.partition(f'id="{name}"')[2].partition("<h2")[0]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", part)).split())


def test_it_lies_in_the_studys_folder_beside_its_run_and_where_it_was_asked_for(made):
    workdir, uri, page = made
    own = workdir / "studies" / "made" / "report.html"
    assert own.read_bytes() == page.read_bytes()
    client = open_tracking(uri)
    names = {file.path for file in client.list_artifacts(tracking.find_study(client, "made").run_id)}
    assert "report.html" in names


def test_every_part_is_there(text):
    assert f"Images: {NOTE}." in html.unescape(text)
    question = section(text, "question")
    assert "140 (60 train, 20 val, 60 test)" in question
    assert "binary" in question
    assert "healthy 30 10 30" in question
    assert "4 of 7 trials on the front" in section(text, "front")
    assert "3 32 0.1 2 128 93.20" in section(text, "front")
    assert "trial 6 failed: the loss is nan" in section(text, "front")
    assert "1000 MB 3" in section(text, "budgets")
    assert "side.depth 0.70" in section(text, "importances")
    assert "balanced accuracy" in section(text, "test")
    assert "true <script>alert('x')</script> healthy <script>alert('x')</script> 28 2 healthy 2 28" in section(
        text, "test"
    )
    assert "500 s" in section(text, "ledger")
    assert "torch" in section(text, "versions")
    assert "--model made:3 " in section(text, "use")
    assert text.count("data:image/png;base64,") == 1 + 3 * 2  # the front, and two of each bundle


def test_calibration_and_points_are_shown_with_their_intervals_and_what_is_new_too(text):
    trust = section(text, "trust")
    assert "Of trial 3." in trust
    assert "expected calibration error 0.1200 0.0500 (0.0310 to 0.0920) 0.1200 0.0500" in trust
    assert "new_error 0.2000 0.1000" in trust
    assert "Youden's J 0.512 91.0 (81.0 to 97.0) 62.0 91.0 62.0" in trust


def test_it_asks_for_nothing_and_forbids_it(text):
    found = Addresses()
    found.feed(text)
    assert {address.partition(":")[0] if ":" in address else address[:1] for address in found.all} == {"data", "#"}
    assert not re.search(r"url\(|@import", text)
    assert "default-src 'none'; img-src data: blob:;" in text


def test_what_comes_from_the_study_is_escaped(text):
    assert EVIL not in text
    assert html.escape(EVIL, quote=False).replace("'", "&#39;") in text
    assert "<b>" not in text.replace("<li><b>", "")
    assert "<img src=x>" not in text
    assert "tokens &lt;img src=x&gt;" in text


def test_pictures_beyond_the_room_are_counted(made, monkeypatch):
    bundles = read_bundles(str(made[0] / "studies" / "made"))
    assert [one.number for one in bundles] == [1, 2, 3]
    found, left_out = embedded(bundles)
    assert ({number: len(own) for number, own in found.items()}, left_out) == ({1: 2, 2: 2, 3: 2}, 0)
    assert {one.caption for one in found[1]} == {
        "tokens <img src=x>",
        "Reliability: how often the answer is right, against how sure it is",
    }
    monkeypatch.setattr(pictures, "MOST_BYTES", sum(bundles[0].pictures.values()))
    found, left_out = embedded(bundles)
    assert ({number: len(own) for number, own in found.items()}, left_out) == ({1: 2}, 4)


def test_a_bundle_that_cannot_be_read_is_named(tmp_path):
    folder = tmp_path / "bundles" / "trial-0007"
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text("{")
    with pytest.raises(ConfigError, match=r"trial-0007/bundle\.json is no JSON"):
        read_bundles(str(tmp_path))


def test_a_study_without_bundles_images_and_scores_has_a_page_all_the_same(tmp_path):
    uri = make_study(tmp_path)
    folder = tmp_path / "studies" / "made"
    shutil.rmtree(folder / "bundles")
    (folder / "images.parquet").unlink()
    shutil.rmtree(tmp_path / "mlartifacts")
    run_report(Command(study=("made",), workdir=str(tmp_path), tracking_uri=uri))
    found = (folder / "report.html").read_text()
    assert 'id="front"' in found
    for part in ("trust", "evidence", "use", "test", "importances"):
        assert f'id="{part}"' not in found
    assert "4 of 7 trials on the front" in section(found, "front")


def test_the_commands_of_a_page_name_the_working_directory_from_anywhere(tmp_path, monkeypatch):
    workdir = tmp_path / "my work"
    workdir.mkdir()
    uri = make_study(workdir)
    monkeypatch.chdir(workdir)
    run_report(Command(study=("made",), tracking_uri=uri))
    use = section((workdir / "studies" / "made" / "report.html").read_text(), "use")
    assert f"--model made:3 --workdir '{workdir}' --images" in use
    assert f'fpt_ray.load("{workdir}/studies/made/bundles/trial-0003")' in use


def test_values_have_neither_calibration_nor_points():
    assert calibration_table({"test_r2": 0.5}) is None
    assert points_table({"metrics": {"test_r2": 0.5}, "operating_points": []}) is None


def test_operating_points_of_several_labels_say_of_which():
    point = {"name": "youden_small_lesion", "of": "small_lesion", "threshold": 0.25}
    table = points_table({"metrics": {"test_sensitivity_at_youden_small_lesion": 0.5}, "operating_points": [point]})
    assert table is not None
    assert table.labels == ["Youden's J (small_lesion)"]
    assert [cell.text for column in table.columns for cell in column.cells] == ["0.250", "50.0"]


def test_a_table_keeps_its_marks_and_its_order():
    column = Column(title="AUC", cells=[Cell(value=1.0), Cell(value=3.0), Cell(value=2.0)], ranked=True)
    table = Table(heading="row", labels=["a", "b", "c"], columns=[column])
    assert [one.text for one in header(table)] == ["row", "AUC"]
    assert [[one.text for one in row] for row in rows(table)] == [["a", "1.00"], ["b", "3.00"], ["c", "2.00"]]
    assert [row[1].rank for row in rows(table)] == [None, "best", "second"]
    assert header(Table(labels=["a"], columns=[Column(title="", cells=[Cell(text="b")])])) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"html": "."}, r"--html: \. is a folder"),
        ({"html": "a.html", "as_": "table1"}, "leave --as out"),
        ({"html": "a.html", "folds": True}, "leave --folds out"),
    ],
)
def test_a_page_is_of_one_studys_front(options, message):
    with pytest.raises(ConfigError, match=message):
        run_report(Command(study=("made",), **options))


@pytest.mark.slow
@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs Debian's chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1400])
def test_in_a_browser_nothing_is_wider_than_the_screen_and_both_charts_are_drawn(made, width):
    from playwright.sync_api import sync_playwright

    said, asked = [], []
    with sync_playwright() as browsers:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": width, "height": 844})
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(made[2].as_uri())
        page.wait_for_selector("#front-1 .main-svg .point")
        assert page.locator(".charts .point").count() > 10
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        charts = "[...document.querySelectorAll('.charts svg')]"
        assert page.evaluate(f"{charts}.every(one => one.getBoundingClientRect().right <= innerWidth)")
        page.locator("#front-0 .point").first.hover(force=True)
        page.wait_for_selector("#front-0 .hovertext")
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
