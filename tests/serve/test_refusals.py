"""The application without Ray, asked in this process: what it refuses.

Compared with what HTTP says of refusals (RFC 9110).
"""

import asyncio
import dataclasses

import pytest
from starlette.testclient import TestClient

from fpt_ray.config.trial import override
from fpt_ray.serve import app as app_module
from fpt_ray.serve.answers import metadata_json
from fpt_ray.serve.app import Model, Unavailable, make_app
from fpt_ray.serve.server import answered_hosts
from tests.serve.asking import LIMITS, TOKEN, client_of, files_of


@pytest.mark.parametrize(
    ("content", "kind", "status", "said"),
    [
        (b"x", "text/plain", 415, "the Content-Type is 'text/plain'; send image/*"),
        (b"x", None, 415, "the Content-Type is ''"),
        (b"", "image/png", 422, "the request has no image"),
        (b"x" * 200_001, "image/png", 413, "the body has more than 200,000 bytes"),
        (b"--b\r\n\r\nx\r\n--b--", "multipart/form-data", 400, "has no boundary"),
        (b"--b\r\nA: b\r\n\r\nx\r\n--b\r\n", "multipart/form-data; boundary=b", 400, "its last boundary is missing"),
        (b"nonsense", "multipart/form-data; boundary=b", 400, "the body is no multipart/form-data"),
        (b"--b\r\nA: b\r\n\r\n\r\n--b--", "multipart/form-data; boundary=b", 422, "the request has no image"),
        (b"--b\r\nA: b\r\n\r\nx\r\n" * 4 + b"--b--", "multipart/form-data; boundary=b", 413, "more than 3 images"),
    ],
)
def test_a_body_that_is_not_taken_is_refused_with_a_reason(content, kind, status, said, client):
    headers = {"Content-Type": kind} if kind else {}
    refused = client.post("/predict", content=content, headers=headers)
    assert refused.status_code == status
    assert said in refused.json()["error"]


def test_a_long_body_is_refused_while_it_is_read(model):
    """It does not say how long it is, and would go on for ever."""
    pieces = []

    async def receive():
        pieces.append(50_000)
        return {"type": "http.request", "body": b"x" * 50_000, "more_body": True}

    sent = asked_raw(model, receive, [(b"content-type", b"image/png")])
    assert sent[0]["status"] == 413
    assert sum(pieces) == 250_000, "the first piece beyond 200,000 bytes ends it"


def test_a_body_that_ends_early_is_refused(model):
    async def receive():
        return {"type": "http.disconnect"}

    assert asked_raw(model, receive, [(b"content-type", b"image/png")])[0]["status"] == 400


def test_a_body_that_takes_too_long_is_refused(model, monkeypatch):
    monkeypatch.setattr("fpt_ray.serve.bodies._BODY_S", 0.01)

    async def receive():
        await asyncio.sleep(10)

    assert asked_raw(model, receive, [(b"content-type", b"image/png")])[0]["status"] == 408


def asked_raw(model, receive, headers):
    """What an application sends to a POST whose body comes from ``receive``."""
    sent = []
    app = make_app(model, LIMITS, None, ["*"])

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": [(b"host", b"x"), *headers],
        "root_path": "",
    }
    asyncio.run(app(scope, receive, send))
    return sent


@pytest.mark.parametrize(
    "given",
    [{}, {"Authorization": "Bearer another"}, {"Authorization": TOKEN}, {"Authorization": "Bearer \xe9"}],
)
def test_without_the_token_nothing_but_health_and_the_page_is_answered(given, model, images):
    client = client_of(model)
    del client.headers["Authorization"]
    for method, path in (("POST", "/predict"), ("GET", "/metadata"), ("GET", "/other")):
        refused = client.request(method, path, headers={name: value.encode("latin-1") for name, value in given.items()})
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/").status_code == 200
    assert client_of(model, None).get("/metadata", headers={"Authorization": ""}).status_code == 200


def test_more_requests_than_places_are_told_to_come_again(model, images):
    """Two are being answered, for as long as the test wants."""
    data, go_on = files_of(images)[0].read_bytes(), asyncio.Event()

    async def answer(files, evidence):
        await go_on.wait()
        return await model.answer(files, evidence)

    app = make_app(Model(answer=answer, check=model.check, metadata=model.metadata), LIMITS, None, ["*"])

    async def ask():
        sent, body = [], iter([{"type": "http.request", "body": data, "more_body": False}])
        headers = [(b"host", b"x"), (b"content-type", b"image/png")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": headers}

        async def receive():
            return next(body)

        async def send(message):
            sent.append(message)

        await app({**scope, "root_path": ""}, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"])

    async def all_of_them():
        two = [asyncio.create_task(ask()) for _ in range(2)]
        await asyncio.sleep(0)
        third = await ask()
        go_on.set()
        return third, [status for status, _ in await asyncio.gather(*two)], await ask()

    (status, headers), others, later = asyncio.run(all_of_them())
    assert (status, headers[b"retry-after"]) == (503, b"1")
    assert others == [200, 200]
    assert later[0] == 200, "their places are free again"


def test_evidence_that_there_is_none_of_is_refused(client, model, classifier, images):
    """Before anything is received: a bundle whose method attends to no patches has none, and says why."""
    png = {"content": files_of(images)[0].read_bytes(), "headers": {"Content-Type": "image/png"}}
    odd = client.post("/predict?evidence=yes", **png)
    assert (odd.status_code, odd.json()) == (400, {"error": "evidence is 'yes'; give 1, or leave it out"})
    bundle = dataclasses.replace(classifier.bundle, trial=override(classifier.bundle.trial, {"method": "knn"}))
    told = metadata_json(bundle, "d" * 64, LIMITS)
    without = client_of(dataclasses.replace(model, metadata=told))
    refused = without.post("/predict?evidence=1", **png)
    assert (refused.status_code, refused.json()) == (422, {"error": told["without_evidence"]})
    assert "knn, which reads class tokens and mean patch tokens, and attends to no patch" in told["without_evidence"]
    assert without.post("/predict?evidence=0", **png).status_code == 200


def test_who_asks_for_evidence_keeps_nobody_waiting(model, images, monkeypatch):
    """Of two places one alone is for evidence: the second is told to come again, an answer is given."""
    monkeypatch.setattr(app_module, "_LOOKING", 1)
    file = files_of(images)[0].read_bytes()
    client, statuses = None, []

    async def answer(files, evidence):
        if evidence:
            png = {"content": file, "headers": {"Content-Type": "image/png"}}
            asked = ("/predict?evidence=1", "/predict")
            statuses.extend([await asyncio.to_thread(lambda path=path: client.post(path, **png)) for path in asked])
        return await model.answer(files, False)

    client = client_of(dataclasses.replace(model, answer=answer))
    first = client.post("/predict?evidence=1", content=file, headers={"Content-Type": "image/png"})
    assert (first.status_code, [one.status_code for one in statuses]) == (200, [503, 200])
    assert statuses[0].headers["Retry-After"] == "1"


def test_what_is_away_or_fails_is_told_without_details(model, images):
    async def lost(*_):
        raise Unavailable

    async def broken(*_):
        raise RuntimeError("/a/path of the host")

    png = {"content": files_of(images)[0].read_bytes(), "headers": {"Content-Type": "image/png"}}
    away = client_of(Model(answer=lost, check=lost, metadata=model.metadata))
    assert (away.post("/predict", **png).status_code, away.get("/healthz").status_code) == (503, 503)
    assert away.post("/predict", **png).headers["Retry-After"] == "1"
    failed = client_of(Model(answer=broken, check=lost, metadata=model.metadata)).post("/predict", **png)
    assert (failed.status_code, failed.json()) == (500, {"error": "the server failed; its log says why"})


def test_other_sites_cannot_ask_through_a_name_of_theirs(client):
    assert client.get("/metadata", headers={"Host": "evil.example:8000"}).status_code == 400
    assert client.get("/metadata", headers={"Host": "localhost:8000"}).status_code == 200
    assert answered_hosts("0.0.0.0") == ["*"]


def test_nor_at_the_other_address_of_this_machine(model):
    app = make_app(model, LIMITS, None, answered_hosts("::1"))
    for host, status in (("[::1]:8000", 200), ("localhost:8000", 200), ("evil.example:8000", 400)):
        client = TestClient(app, base_url="http://127.0.0.1:8000")
        assert client.get("/metadata", headers={"Host": host}).status_code == status
