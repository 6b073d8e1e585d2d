"""``fpt-ray serve`` as a process of its own on loopback, asked by HTTP and by a browser, and ended by a signal.

Compared with ``fpt_ray.load(...).predict``, with what the kernel says of listening sockets and of processes, and with
what Chromium shows (Debian's; elsewhere the page is not looked at).
"""

import contextlib
import dataclasses
import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest

from fpt_ray.bench.served.load import Asked, ask_all
from fpt_ray.bench.served.server import ended, serving
from fpt_ray.bench.served.turns import bad_requests, wrong_of
from fpt_ray.config.trial import override
from fpt_ray.predict.classifier import load
from tests.predict.bundles import TRIAL, left, stored, table_of_images
from tests.stores import draw_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return sorted(Path(draw_images(tmp_path_factory.mktemp("images"), (4, 4, 4)), "test").rglob("*.png"))


@pytest.fixture(scope="module")
def bundle(images, tmp_path_factory):
    folder, table = tmp_path_factory.mktemp("bundle"), table_of_images(str(images[0].parents[2]))
    two = dataclasses.replace(table, task="binary", classes=("no", "yes"), labels=(table.labels > 0).astype(np.int64))
    trial = override(TRIAL, {"method": "probe"})
    return left(trial, stored(trial, two, folder / "store"), folder, seeds=2)


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    """Of two replicas; it ends with status 0, or the fixture fails."""
    folder = tmp_path_factory.mktemp("server")
    with serving(bundle, ["--replicas", "2", "--request_mib", "2"], folder) as found:
        yield found
    said = Path(folder, "stderr.txt").read_text()
    assert found.token not in said + Path(folder, "stdout.txt").read_text()
    assert "serve: POST /predict 200 " in said
    assert said.endswith("serve: ended\n")
    assert "Traceback" not in said


def test_many_clients_get_what_predict_says_and_bad_requests_their_reasons(server, bundle, images):
    expected = load(bundle).predict(images).probabilities
    good = [Asked(body=path.read_bytes(), status=200, image=at, kind="image/png") for at, path in enumerate(images)]
    requests = (good + bad_requests(Path(images[0]).read_bytes())) * 4
    outcomes = ask_all(server.address, server.token, requests, 6, lambda _: None)
    assert wrong_of(outcomes, len(requests), expected) == {}
    shares = [list(one.answer["answers"][0]["probabilities"].values()) for one in outcomes if one.status == 200]
    at = [one.asked.image for one in outcomes if one.status == 200]
    np.testing.assert_allclose(shares, expected[at], atol=1e-5)


def test_nothing_of_it_is_reached_from_another_machine(server):
    assert len(server.replicas) == 2
    main = psutil.Process(server.process.pid)
    addresses = {
        (process.name(), connection.laddr.ip.removeprefix("::ffff:"))
        for process in (main, *main.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert len(addresses) > 3
    assert {address for _, address in addresses} == {"127.0.0.1"}


def test_a_lost_replica_is_told_and_replaced(server, images):
    """While both are away requests are told to come again, and health says so; then they are answered."""
    for replica in server.replicas:
        replica.kill()
    psutil.wait_procs(server.replicas, 20)
    asked = [Asked(body=images[0].read_bytes(), status=200, kind="image/png")]
    (outcome,) = ask_all(server.address, server.token, asked, 1, lambda _: None)
    assert outcome.status == 200
    assert get(server, "/healthz")[0] == 200


def get(server, path, token=None):
    url = urlsplit(server.address)
    with contextlib.closing(http.client.HTTPConnection(url.hostname, url.port, timeout=60)) as connection:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return response.status, response.read()


def test_metadata_and_health(server):
    assert get(server, "/healthz") == (200, b'{"status":"ok"}')
    assert get(server, "/metadata")[0] == 401
    status, content = get(server, "/metadata", server.token)
    assert (status, json.loads(content)["classes"]) == (200, ["no", "yes"])


@pytest.fixture
def page(request):
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no {CHROMIUM}; apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        found = browser.new_page()
        yield found
        browser.close()


def test_the_page_takes_a_server_that_cannot_answer_for_no_wrong_token(server, page):
    page.route("**/metadata", lambda route: route.fulfill(status=503))
    page.goto(server.address)
    page.wait_for_selector("text=The server cannot answer (503).")
    page.unroute("**/metadata")
    page.fill("#token", server.token)
    page.click("#login button")
    page.wait_for_selector("text=Drop images here")


def test_the_page_shows_what_is_said_of_an_image(server, bundle, images, page, tmp_path):
    """The token is asked for, and kept in no storage; then an image is dropped, and one that is none."""
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(server.address)
    page.fill("#token", "wrong")
    page.click("#login button")
    page.wait_for_selector("text=This is not the server's token.")
    page.fill("#token", server.token)
    page.click("#login button")
    page.wait_for_selector("text=Drop images here")
    (tmp_path / "none.png").write_bytes(b"no image")
    page.set_input_files("#files", [str(images[0]), str(tmp_path / "none.png")])
    page.wait_for_selector(".bar.first")
    page.wait_for_selector("text=no readable image of a known format")
    answer = load(bundle).predict([images[0]])
    share = answer.probabilities[0].max()
    assert page.text_content(".bar.first .share") == f"{100 * share:.1f} %"
    assert page.text_content(".bar.first .class") == answer.labels[0]
    width = page.eval_on_selector(".bar.first .fill", "one => one.offsetWidth / one.parentElement.offsetWidth")
    assert width == pytest.approx(share, abs=0.02)
    assert page.locator(".decisions li").count() == 3
    page.click(".look:visible")  # of the one image that has an answer
    page.wait_for_selector(".evidence:visible")
    page.wait_for_function("document.querySelector('.evidence:not([hidden])').naturalWidth > 900")
    assert page.locator(".look:visible, .looking:visible").count() == 0
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert "Diagnosis, or any decision about a person" in page.text_content("#must-not")
    assert page.evaluate("Object.keys(localStorage).length + Object.keys(sessionStorage).length") == 0
    assert all(url.startswith((server.address, "blob:", "data:")) for url in asked)
    assert [text for text in wrong if "401" not in text and "422" not in text] == []


def test_a_link_with_the_token_opens_the_page_and_loses_it(server, page):
    page.goto(f"{server.address}#{server.token}")
    page.wait_for_selector("text=Drop images here")
    assert page.url == server.address


def test_a_drawn_token_is_printed_once_and_a_signal_ends_all_even_at_the_start(bundle, tmp_path):
    """Also before it answers; nothing is left running."""
    command = [sys.executable, "-m", "fpt_ray", "serve", "--model", bundle, "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "FPT_RAY_SERVE_TOKEN"}

    def start():
        out, errors = (tmp_path / "out").open("wb"), (tmp_path / "err").open("wb")
        with out, errors:
            return subprocess.Popen(command, stdout=out, stderr=errors, env=environment, start_new_session=True)

    def wait_for(text, name):
        until = time.monotonic() + 200
        while text not in (tmp_path / name).read_text():
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.05)

    process = start()
    wait_for("serve: starting", "err")
    main = psutil.Process(process.pid)
    while not any("raylet" in child.name() for child in main.children(recursive=True)):
        time.sleep(0.05)
    children = main.children(recursive=True)
    assert ended(process) in (130, 15), "15 is that of Ray's own handler, while it starts"
    assert psutil.wait_procs(children, 100)[1] == []  # Ray's own see one after the other that theirs has gone
    process = start()
    wait_for("token: ", "out")
    first, second, third = (tmp_path / "out").read_text().splitlines()
    token = third.removeprefix("token: ")
    assert (first[:18], second) == ("serving at http://", f"the page, with the token: {first[11:]}#{token}")
    children = psutil.Process(process.pid).children(recursive=True)
    assert token not in (tmp_path / "err").read_text() + " ".join(word for one in children for word in one.cmdline())
    assert ended(process) == 0
    assert psutil.wait_procs(children, 100)[1] == []  # Ray's own see one after the other that theirs has gone
