"""What clients make of answers, lost connections and full servers, by hand; a server of the standard library stands in.

The whole is run with a real server in ``tests/serve``.
"""

import http.server
import json
import threading

import numpy as np
import pytest

from fpt_ray.bench.served.load import Asked, Outcome, ask_all
from fpt_ray.bench.served.turns import ServeTimes, bad_requests, serve_text, wrong_of

EXPECTED = np.array([[0.2, 0.8], [0.6, 0.4]])


def outcome(status, *, image=0, wanted=200, shares=(0.2, 0.8)):
    answer = {"answers": [{"probabilities": dict(zip("ab", shares, strict=True))}]}
    asked = Asked(body=b"", status=wanted, image=image)
    return Outcome(asked=asked, status=status, answer=answer, seconds=0.1, again=0)


def test_what_is_lost_refused_or_otherwise_is_wrong():
    good = [outcome(200), outcome(200, image=1, shares=(0.6, 0.4)), outcome(422, image=None, wanted=422)]
    assert wrong_of(good, 3, EXPECTED) == {}
    bad = [outcome(0), outcome(500), outcome(200, image=None, wanted=401), outcome(200, image=1)]
    assert wrong_of([*good, *bad], 9, EXPECTED) == {
        "lost": 2,
        "0 for 200": 1,
        "500 for 200": 1,
        "200 for 401": 1,
        "other probabilities": 1,
    }


class Standing(http.server.BaseHTTPRequestHandler):
    """Tells every client to come again at first, breaks connections on "break", and says what it was sent."""

    protocol_version = "HTTP/1.1"
    told = 0

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"break":
            self.close_connection = True
            return
        type(self).told += 1
        full = type(self).told == 1
        said = json.dumps({"body": body.decode(), "token": self.headers.get("Authorization")}).encode()
        self.send_response(503 if full else 200)
        if full:
            self.send_header("Retry-After", "0.01")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


@pytest.fixture
def standing():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Standing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_every_request_has_an_outcome_in_its_place(standing):
    requests = [Asked(body=b"%d" % at, status=200, token=at != 3) for at in range(6)]
    requests.insert(2, Asked(body=b"break", status=200))
    counts = []
    found = ask_all(standing, "t", requests, 3, counts.append)
    assert [one.asked for one in found] == requests
    assert [one.status for one in found] == [200, 200, 0, 200, 200, 200, 200]
    assert [one.answer.get("body") for one in found] == ["0", "1", None, "2", "3", "4", "5"]
    assert [one.answer.get("token") for one in found] == [
        "Bearer t",
        "Bearer t",
        None,
        "Bearer t",
        None,
        *["Bearer t"] * 2,
    ]
    assert sum(one.again for one in found) == 1
    assert counts == list(range(1, 8))


def test_bad_requests_are_of_every_kind():
    assert {one.status for one in bad_requests(b"\xff\xd8" * 20)} == {422, 413, 415, 401}


def test_ratios_are_those_of_the_turns():
    times = ServeTimes(
        loop_s=(2.0, 4.0, 6.0),
        served_s=(1.0, 1.0, 2.0),
        alone_s=(4.0, 4.0, 3.0),
        latency_s=tuple(np.linspace(0, 1, 101)),
        images=10,
        clients=4,
        mixed=20,
        mixed_s=3.0,
        good=13,
        wrong={"lost": 2},
        again=1,
        replica_bytes=(2**20, 2**21),
        front_bytes=(2**20, 2**20),
        ending_s=1.5,
        threads=2,
        load=1.0,
    )
    assert (times.speedup, times.alone) == (3.0, 1.0)
    text = serve_text(times)
    for said in (
        "3.00; one client 1.00",
        "10.0",
        "p50 500 ms, p95 950 ms",
        "2 x lost",
        "1 -> 2",
        "20 mixed requests (13",
    ):
        assert said in text
