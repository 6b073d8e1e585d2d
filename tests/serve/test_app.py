"""The application without Ray, asked in this process: what it says of itself, and what it is started with.

Token, limits, address and the replicas' shares, each by hand.
"""

import dataclasses
import json
import os

import pytest

from fpt_ray.errors import ConfigError
from fpt_ray.serve import replicas
from fpt_ray.serve.access import TOKEN_VARIABLE, token_at_start
from fpt_ray.serve.command import Command, run
from fpt_ray.serve.server import address_of, bound

# --- what it says of itself ---------------------------------------------------------------------------------------


def test_the_metadata_say_what_it_is_and_no_path_of_the_host(client, classifier):
    found = client.get("/metadata").json()
    assert (found["task"], found["classes"], found["seeds"]) == ("binary", ["no", "yes"], 2)
    assert found["metrics"] == dict(classifier.bundle.metrics)
    assert found["operating_points"][0] == dataclasses.asdict(classifier.bundle.operating_points[0])
    assert found["must_not_be_used_for"][0].startswith("Diagnosis, or any decision about a person")
    assert found["limits"]["image_pixels"] == 20_000
    assert "/tmp" not in json.dumps(found)


def test_the_page_asks_nobody_else(client):
    page = client.get("/")
    rules = dict(rule.strip().split(" ", 1) for rule in page.headers["Content-Security-Policy"].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["connect-src"] == "'self'"
    for path in ("/", "/page.css", "/page.js"):
        assert "//" not in client.get(path).text.replace("</", "").replace("// The token", "")


# --- the token, the limits, the address ---------------------------------------------------------------------------


def test_a_token_comes_from_the_environment_or_is_drawn(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "sixteen-characters")
    assert token_at_start() == ("sixteen-characters", False)
    assert TOKEN_VARIABLE not in os.environ, "workers do not inherit it"
    drawn = [token_at_start() for _ in range(2)]
    assert [new for _, new in drawn] == [True, True]
    assert len({token for token, _ in drawn}) == 2
    assert all(len(token) >= 43 for token, _ in drawn), "256 bits"
    for bad in ("", "short", "with spaces in its middle", "ünprintable-letters"):
        monkeypatch.setenv(TOKEN_VARIABLE, bad)
        with pytest.raises(ConfigError, match=r"FPT_RAY_SERVE_TOKEN is no token; give 16 or more") as error:
            token_at_start()
        assert not bad or bad not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"request_mib": 0}, "request_bytes is 0; give 1 to 536,870,912"),
        ({"image_megapixels": 90}, "image_pixels is 90,000,000; give 1 to 89,478,485"),
        ({"request_images": 0}, "request_images is 0; give 1 or more"),
        ({"requests": 0}, "requests is 0; give 1 or more"),
        ({"replicas": 0}, "replicas is 0; give 1 or more"),
        ({"open": True, "host": "0.0.0.0"}, "open, and host is 0.0.0.0: everybody could ask"),
        ({"model": "nothing"}, "model: nothing is neither the folder of a bundle nor a study"),
    ],
)
def test_what_cannot_be_served_is_refused_before_ray_starts(changes, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        run(Command(**{"model": "nothing", **changes}))


def test_an_address_that_is_taken_is_refused():
    """Also by a server that has not begun to answer: its replicas may take a minute to start."""
    with bound("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert address_of(first) == f"http://127.0.0.1:{port}/"
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} cannot be listened at"):
            bound("127.0.0.1", port)


@pytest.mark.parametrize(
    ("replicas_", "cpus", "gpus", "share"),
    [
        (1, 8, 0, (8, 0, 8)),
        (3, 2, 0, (0.666, 0, 1)),
        (2, 8, 1, (4, 0.5, 4)),
        (2, 8, 4, (4, 1, 4)),
        (6, 12, 4, (2, 0.5, 2)),
    ],
)
def test_replicas_share_what_there_is(replicas_, cpus, gpus, share):
    found = replicas.share_of(replicas_, cpus, gpus)
    assert (found.cpus, found.gpus, found.threads) == share
    on_each = int(1 / found.gpus) if gpus else replicas_
    assert on_each * max(gpus, 1) >= replicas_, "all find room"
    assert found.cpus * replicas_ <= cpus
