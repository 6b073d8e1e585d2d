"""The application without Ray, asked in this process: what it answers.

Compared with ``fpt_ray.load(...).predict`` on the same files.
"""

import base64
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from fpt_ray.config.tasks import Target
from fpt_ray.predict.classifier import Answers
from fpt_ray.predict.evidence.attention import evidence_of, heat
from fpt_ray.serve.answers import answers_json
from tests.serve.asking import TOKEN, bomb, dicom, files_of, form


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


def test_evidence_is_what_the_bundle_looked_at(client, classifier, images):
    one, two = files_of(images)[:2]
    asked = client.post("/predict?evidence=1", files=form(one.read_bytes(), b"no image", two.read_bytes()))
    plain = client.post("/predict", files=form(one.read_bytes())).json()["answers"][0]
    first, unread, second = asked.json()["answers"]
    assert (plain, "evidence" in unread) == ({key: value for key, value in first.items() if key != "evidence"}, False)
    for answer, path in ((first, one), (second, two)):
        looked = evidence_of(classifier, path)
        np.testing.assert_allclose(answer["evidence"]["attention"], heat(looked), atol=1e-5)
        assert answer["evidence"]["blocks"] == list(looked.blocks)
        kind, _, content = answer["evidence"]["picture"].partition(",")
        picture = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
        assert (kind, picture.format, picture.width > 900) == ("data:image/png;base64", "PNG", True)


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
