"""What is said of an image to those who ask by HTTP: a row of ``predict``, as JSON. Neither HTTP nor Ray."""

import base64
import dataclasses
import hashlib
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fpt_ray.config.preparation import Preparation
from fpt_ray.errors import ConfigError
from fpt_ray.images.decoding import read_square
from fpt_ray.images.dicom import is_dicom
from fpt_ray.images.picture import ImageError
from fpt_ray.metrics.familiarity import UNLIKE
from fpt_ray.predict.answers import answer_columns, probability_columns
from fpt_ray.predict.classifier import Answers, Classifier
from fpt_ray.predict.evidence.attention import check_evidence, evidence_of_square, heat
from fpt_ray.predict.evidence.picture import Looked, picture_of
from fpt_ray.predict.evidence.writing import answer_of
from fpt_ray.serve.limits import Limits
from fpt_ray.train.bundle import Bundle
from fpt_ray.train.card import out_of_scope_uses

Answer = dict[str, Any]
"""Of an image, as JSON: what ``answers_json`` or ``unread_json`` say."""


def square_or_answer(
    data: bytes, preparation: Preparation, max_pixels: int
) -> tuple[UInt8[np.ndarray, "R R 3"] | None, Answer]:
    """A file's squared image and what is said of it whatever it shows; or None, and why it cannot be read."""
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        return read_square(data, "the image", preparation, max_pixels), {"sha256": sha256}
    except ConfigError as error:
        return None, {"sha256": sha256, "error": _reason(data, error)}


def _reason(data: bytes, error: ConfigError) -> str:
    """Why an image cannot be read; pydicom's own errors are not told, which quote a DICOM file, such as its patient."""
    if is_dicom(data) and error.__cause__ is not None:
        return f"its DICOM cannot be read ({type(error.__cause__).__name__})"
    return error.reason if isinstance(error, ImageError) else str(error)


def answers_json(answers: Answers) -> list[Answer]:
    """Class and probabilities (or the value), spread, decisions, familiarity and a warning where it is too small.

    Of each image, in their order; what ``predict`` writes besides is among it.
    """
    columns = answer_columns(answers)
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [_nested(answers, row) for row in rows]


def _nested(answers: Answers, row: dict[str, Any]) -> Answer:
    target, found = answers.target, dict(row)
    if target.task != "regression":
        names = zip(target.classes, probability_columns(target), strict=True)
        found["probabilities"] = {name: found.pop(column) for name, column in names}
        found["decisions"] = {name: found.pop(name) for name in answers.decisions}
    if (known := found.get("familiarity")) is not None and known < UNLIKE:
        found["warning"] = f"it is unlike the training images (familiarity below {UNLIKE}): the answer means little"
    return found


def looked_at_square(classifier: Classifier, square: UInt8[np.ndarray, "R R 3"]) -> Looked:
    """What the networks looked at in an image, of which no name is known."""
    evidence = evidence_of_square(classifier, square)
    said, _ = answer_of(classifier.bundle.target, evidence.probabilities)
    return Looked(path="the image", square=square, answer=said, label="", evidence=evidence)


def evidence_json(looked: Looked) -> dict[str, Any]:
    """The attention on each patch, row by row of the square (1 together, but for prefix tokens), and it as a picture.

    The picture is a data URI of a PNG; drawing takes a second or two.
    """
    return {
        "attention": np.round(heat(looked.evidence), 6).tolist(),
        "blocks": list(looked.evidence.blocks),
        "picture": f"data:image/png;base64,{base64.b64encode(picture_of(looked)).decode()}",
    }


def _without_evidence(bundle: Bundle) -> str:
    """Why its answers have none, or ""."""
    try:
        check_evidence(bundle.trial)
    except ConfigError as error:
        return str(error)
    return ""


def metadata_json(bundle: Bundle, digest: str, limits: Limits) -> dict[str, Any]:
    """What the model is and how far to trust it: of its card what a program or a page can show. No path of a host."""
    trial, target = bundle.trial, bundle.target
    return {
        "model": digest,
        "name": f"{trial.method} on {trial.backbone.name}",
        "task": target.task,
        "classes": list(target.classes),
        "operating_points": [dataclasses.asdict(point) for point in bundle.operating_points],
        "metrics": dict(bundle.metrics),
        "images": dict(bundle.data["images"]),
        "note": bundle.data["note"] or "",
        "must_not_be_used_for": out_of_scope_uses(bundle),
        "without_evidence": _without_evidence(bundle),
        "seeds": len(bundle.states),
        "resolution": bundle.spec.resolution,
        "versions": dict(bundle.versions),
        "limits": dataclasses.asdict(limits),
    }
