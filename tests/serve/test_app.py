"""The application without Ray, asked in this process: what it answers, refuses and writes down.

Compared with ``fpt_ray.load(...).predict`` on the same files, and with what HTTP says of refusals (RFC 9110).
"""

import asyncio
import dataclasses
import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from starlette.testclient import TestClient

from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import override
from fpt_ray.errors import ConfigError
from fpt_ray.predict.classifier import Answers, load
from fpt_ray.predict.ensemble import Ensemble, handed_over
from fpt_ray.serve import replicas
from fpt_ray.serve.access import TOKEN_VARIABLE, token_at_start
from fpt_ray.serve.answers import answers_json, metadata_json
from fpt_ray.serve.app import Model, Unavailable, make_app
from fpt_ray.serve.command import Command, run
from fpt_ray.serve.limits import Limits
from fpt_ray.serve.server import address_of, answered_hosts, bound
from tests.predict.bundles import TRIAL, left, stored, table_of_images
from tests.stores import draw_images

TOKEN = "a token of this test"
BEARING = {"Authorization": f"Bearer {TOKEN}"}
LIMITS = Limits(request_bytes=200_000, request_images=3, image_pixels=20_000, requests=2)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images"), per_class=(4, 4, 4))


@pytest.fixture(scope="module")
def classifier(images, tmp_path_factory):
    """Of two classes, so that there are decisions, and two seeds."""
    folder, table = tmp_path_factory.mktemp("bundle"), table_of_images(images)
    two = dataclasses.replace(table, task="binary", classes=("no", "yes"), labels=(table.labels > 0).astype(np.int64))
    trial = override(TRIAL, {"method": "probe"})
    return load(left(trial, stored(trial, two, folder / "store"), folder, seeds=2))


class Alone(replicas.Replica):
    """Without Ray there are no batches."""

    async def compute(self, square):
        return self._computed([square])[0]


@pytest.fixture
def model(classifier, monkeypatch):
    """A replica in this process."""
    monkeypatch.setattr(replicas.ray, "get", lambda handed: handed)
    monkeypatch.setattr(replicas, "listen_on_loopback", lambda: None)
    replica = Alone((handed_over(Ensemble(members=(classifier,))),), 1, LIMITS.image_pixels)
    metadata = metadata_json(classifier.bundle, "d" * 64, LIMITS)
    yield Model(answer=replica.answer, check=replica.check, metadata=metadata)
    replica.decoding.shutdown()
    replica.computing.shutdown()


@pytest.fixture
def client(model):
    return client_of(model)


def client_of(model, token=TOKEN):
    app = make_app(model, LIMITS, token, answered_hosts("127.0.0.1"))
    return TestClient(app, base_url="http://127.0.0.1:8000", headers=BEARING, raise_server_exceptions=False)


def files_of(images):
    return sorted(Path(images, "test").rglob("*.png"))


def form(*files):
    return [("image", ("a secret name.png", data)) for data in files]


def dicom(**tags):
    """A grey DICOM file of one frame of a patient."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3"
    file.PatientName, file.PatientID = "Doe^Jane", "4711"
    file.Rows, file.Columns, file.SamplesPerPixel = 80, 96, 1
    file.PhotometricInterpretation, file.PixelRepresentation = "MONOCHROME2", 0
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit = 7
    file.PixelData = np.random.default_rng(0).integers(0, 255, (80, 96), np.uint8).tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    sink = io.BytesIO()
    file.save_as(sink, enforce_file_format=True)
    return sink.getvalue()


def bomb(side):
    """A PNG whose header says that it has side x side pixels; it has none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# --- answers ------------------------------------------------------------------------------------------------------


def test_it_says_of_images_what_the_bundle_says(client, classifier, images):
    one, two, three = files_of(images)[::5]
    expected = classifier.predict([one, two, three])
    several = client.post("/predict", files=form(*(path.read_bytes() for path in (one, two, three))))
    alone = client.post("/predict", content=three.read_bytes(), headers={"Content-Type": "image/png"})
    assert (several.status_code, alone.status_code) == (200, 200)
    found = [*several.json()["answers"], *alone.json()["answers"]]
    shares = np.array([list(answer["probabilities"].values()) for answer in found])
    np.testing.assert_allclose(shares, expected.probabilities[[0, 1, 2, 2]], atol=1e-6)
    np.testing.assert_allclose([answer["spread"] for answer in found], expected.spread[[0, 1, 2, 2]], atol=1e-6)
    assert [answer["class"] for answer in found[:3]] == expected.labels
    points = classifier.bundle.operating_points
    assert len(points) == 3
    for answer in found:
        assert list(answer["probabilities"]) == ["no", "yes"]
        reached = {point.name: answer["probabilities"][point.of] >= point.threshold for point in points}
        assert answer["decisions"] == reached
        assert answer["error"] is None


def test_an_image_that_is_unlike_the_training_images_has_a_warning(classifier, images):
    answers = classifier.predict(files_of(images)[:2])
    known = dataclasses.replace(answers, familiarity=np.array([0.5, 0.005]))
    first, second = answers_json(known)
    assert (first["familiarity"], second["familiarity"]) == (0.5, 0.005)
    assert "warning" not in first
    assert second["warning"].startswith("it is unlike the training images (familiarity below 0.01)")


def test_values_are_told_as_values():
    target = Target(task="regression", classes=("mm",))
    answers = Answers(target=target, probabilities=np.array([[2.5]]), spread=np.array([0.5]), familiarity=None)
    assert answers_json(answers) == [{"value": 2.5, "spread": 0.5}]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_formats_beside_png(kind, client, classifier, images):
    sink = io.BytesIO()
    Image.open(files_of(images)[0]).save(sink, kind)
    expected = classifier.predict([sink.getvalue()]).probabilities[0, 1]
    (answer,) = client.post("/predict", files=form(sink.getvalue())).json()["answers"]
    assert answer["probabilities"]["yes"] == pytest.approx(expected, abs=1e-6)


def test_nothing_of_a_patient_comes_back_and_nothing_is_written_down(client, classifier, capfd):
    """Neither of a file that can be read nor in the reasons why another cannot, which pydicom fills with its values."""
    whole, odd = dicom(), dicom(RescaleSlope="1", RescaleIntercept="0").replace(b"1 ", b"Jo")
    answers = client.post("/predict", files=form(whole, odd, dicom(Modality="Doe")[:-1000])).json()["answers"]
    assert answers[0]["probabilities"]["yes"] == pytest.approx(
        classifier.predict([whole]).probabilities[0, 1], abs=1e-6
    )
    assert answers[1]["error"] == "its DICOM cannot be read (ValueError)"
    assert answers[2]["error"].startswith("its DICOM cannot be read")
    said = json.dumps(answers) + "".join(capfd.readouterr())
    for secret in ("Doe", "Jane", "4711", "Jo", "secret name", TOKEN):
        assert secret not in said.replace("JSON", "")
    assert "serve: POST /predict 200 " in said


def test_images_that_cannot_be_read_have_a_reason_each(client, images):
    """Beside one that can the request is answered; alone it is refused."""
    good = files_of(images)[0].read_bytes()
    mixed = client.post("/predict", files=form(b"no image", good, good[:2000]))
    assert mixed.status_code == 200
    first, second, third = mixed.json()["answers"]
    assert first["error"].startswith("no readable image of a known format")
    assert second["error"] is None
    assert third["error"].startswith("it cannot be decoded")
    assert "probabilities" not in first
    alone = client.post("/predict", content=b"no image", headers={"Content-Type": "application/octet-stream"})
    assert (alone.status_code, alone.json()["answers"][0]["error"]) == (422, first["error"])


@pytest.mark.parametrize("file", [bomb(60_000), bomb(142), dicom(Rows=1000, Columns=1000)], ids=["60k", "142", "dicom"])
def test_too_many_pixels_are_refused_by_the_header(file, client):
    refused = client.post("/predict", content=file, headers={"Content-Type": "application/octet-stream"})
    assert refused.status_code == 422
    (answer,) = refused.json()["answers"]
    assert "20,000 pixels" in answer["error"]


# --- refusals -----------------------------------------------------------------------------------------------------


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

    async def answer(files):
        await go_on.wait()
        return await model.answer(files)

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
    with bound("127.0.0.1", 0) as first:
        first.listen()
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
