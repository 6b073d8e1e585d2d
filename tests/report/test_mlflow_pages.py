"""MLflow's pages of a study as a person meets them: a real server on loopback, a real browser, a search of its own."""

import contextlib
import io
import os
import re
import urllib.parse
from types import SimpleNamespace

import pytest

from fpt_ray.tracking.records import ON_FRONT
from fpt_ray.tracking.server import open_tracking
from fpt_ray.tune.command import Command, run
from tests.mlflow_server import Server
from tests.searches import of_store

CHROMIUM = "/usr/bin/chromium"
needs_chromium = pytest.mark.skipif(
    not os.path.exists(CHROMIUM), reason=f"{CHROMIUM} is missing: apt-get install chromium"
)
pytestmark = [pytest.mark.slow, needs_chromium, pytest.mark.usefixtures("cluster"), pytest.mark.timeout(600)]
PATIENCE_MS = 60_000
DRAWN = """[...document.querySelectorAll('.parcoords canvas')].some(canvas => {
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return pixels.some(value => value > 0);
})"""
"""Whether there are lines over the axes."""
PLOTTED = "[...document.querySelectorAll('.js-plotly-plot')].flatMap(one => one.data || [])"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    found = Server(tmp_path_factory.mktemp("server"))
    found.start()
    yield found
    found.kill()


@pytest.fixture(scope="module")
def study(store, server, tmp_path_factory):
    """A study that the server knows: its experiment, what its command printed, and the runs of its front."""
    workdir, printed = str(tmp_path_factory.mktemp("searched")), io.StringIO()
    with contextlib.redirect_stdout(printed):
        run(Command(**of_store(store, study="seen", num_trials=6), workdir=workdir, tracking_uri=server.uri))
    client = open_tracking(server.uri)
    experiment = client.get_experiment_by_name("fpt_ray").experiment_id
    front = client.search_runs([experiment], f"tags.`{ON_FRONT}` = 'true'")
    assert len(front) > 1
    models = client.search_logged_models([experiment])
    assert {one.source_run_id for one in models} == {one.info.run_id for one in front}
    return SimpleNamespace(printed=printed.getvalue(), front=front, models=models)


@pytest.fixture(scope="module")
def page(study):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        found = browser.new_page(viewport={"width": 1600, "height": 1200})
        found.set_default_timeout(PATIENCE_MS)
        yield found
        browser.close()


def address(study, title):
    """An address that the command printed."""
    (found,) = re.findall(rf"{title} +(http\S+)", study.printed)
    return found


def points(page, number):
    """Waits until every chart of points has so many; how many charts there are."""
    page.wait_for_function(
        """number => {
            const drawn = [...document.querySelectorAll('.js-plotly-plot')];
            const charts = drawn.filter(one => one.querySelector('.scatterlayer'));
            return charts.length && charts.every(one => one.querySelectorAll('path.point').length === number);
        }""",
        arg=number,
    )
    return page.locator(".js-plotly-plot .scatterlayer").count()


def test_the_studys_page_shows_its_front_and_how_its_best_is_used(study, page):
    page.goto(address(study, "then open"))
    page.get_by_text("Show more").first.click()
    page.get_by_text(re.compile("fpt-ray predict --model seen")).wait_for()
    page.wait_for_function(
        "[...document.images].some(one => one.src.includes('front-small') && one.naturalWidth === 760)"
    )
    for title in ("aim/val_auc", "cost/memory_ratio", "fpt-ray tune"):
        page.get_by_text(title).first.wait_for()


def test_the_experiment_lists_its_models_and_a_trial_has_its_own(study, page):
    experiment = address(study, "then open").partition("/runs/")[0]
    page.goto(f"{experiment}/models")
    for model in study.models:
        page.get_by_role("link", name=model.name).first.wait_for()
    model = study.models[0]
    page.goto(f"{experiment}/runs/{model.source_run_id}")
    page.locator(f"a[href$='/models/{model.model_id}']").first.wait_for()
    page.goto(f"{experiment}/models/{model.model_id}")
    page.get_by_text("val_auc").first.wait_for()


def test_the_printed_link_compares_the_front_with_its_axes_chosen(study, page):
    page.goto(address(study, "compare:"))
    assert points(page, len(study.front)) == 3
    page.locator(".parcoords .dimension .label").first.wait_for()
    axes = page.locator(".parcoords .label, .axis-label-tooltip text").all_text_contents()  # long ones are cut
    assert {"aim/val_auc", "aim/ppe", "aim/pme", "side.num_prompts"} <= set(axes)
    assert page.evaluate(DRAWN)
    for one in study.front:
        page.get_by_text(one.info.run_name).first.wait_for()


def test_the_front_is_selected_and_compared_by_hand(study, page):
    page.goto(address(study, "compare:").replace("&compareRunsMode=CHART", ""))
    page.get_by_text(study.front[0].info.run_name).first.wait_for()
    page.get_by_label("Select all runs").first.click(force=True)
    page.get_by_test_id("runs-compare-button").click()
    page.wait_for_url(re.compile("compare-runs"))
    assert all(one.info.run_id in urllib.parse.unquote(page.url) for one in study.front)
    page.wait_for_function(f"{PLOTTED}.some(one => one.type === 'parcoords' && one.dimensions.length)")
    lines = page.evaluate(f"{PLOTTED}[0].dimensions.map(one => [one.label, one.values.length])")
    assert lines[-1] == ["aim/val_auc", len(study.front)]  # the number that MLflow chooses by itself
    page.get_by_role("tab", name="Scatter Plot").click()
    page.wait_for_function(
        f"{PLOTTED}.some(one => one.type.startsWith('scatter') && one.x.length === {len(study.front)})"
    )
