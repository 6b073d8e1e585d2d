"""What is said of an image to those who ask by HTTP: a row of ``predict``, as JSON. Neither HTTP nor Ray."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fpt_ray.config.preparation import Preparation
from fpt_ray.errors import ConfigError
from fpt_ray.images.decoding import read_square
from fpt_ray.images.dicom import is_dicom
from fpt_ray.images.picture import ImageError
from fpt_ray.predict.classifier import Answers
from fpt_ray.predict.pipeline import answer_rows, probability_columns
from fpt_ray.serve.limits import Limits
from fpt_ray.train.bundle import Bundle
from fpt_ray.train.card import must_not

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
    """Why an image cannot be read, without a word of what is written in a DICOM file: that may be a patient's name."""
    if is_dicom(data) and error.__cause__ is not None:
        return f"its DICOM cannot be read ({type(error.__cause__).__name__})"
    return error.reason if isinstance(error, ImageError) else str(error)


def answers_json(bundle: Bundle, answers: Answers) -> list[Answer]:
    """Class, probabilities (or the value), spread, decisions, and whatever else ``predict`` writes of an image."""
    blank = [""] * len(answers.probabilities)
    rows = answer_rows(bundle, answers, blank, blank, blank).to_pylist()
    return [_nested(bundle, row) for row in rows]


def _nested(bundle: Bundle, row: Mapping[str, Any]) -> Answer:
    target, columns = bundle.target, probability_columns(bundle.target)
    known = {"path", "sha256", "error", *bundle.thresholds}
    if target.task == "regression":
        return {name: value for name, value in row.items() if name not in known}
    shares = {name: row[column] for name, column in zip(target.classes, columns, strict=True)}
    others = {name: value for name, value in row.items() if name not in {*known, *columns}}
    return {"probabilities": shares, "decisions": {name: row[name] for name in bundle.thresholds}} | others


def metadata_json(bundle: Bundle, digest: str, limits: Limits) -> dict[str, Any]:
    """What the model is and how far to trust it: of its card what a program or a page can show. No path of a host."""
    trial, target = bundle.trial, bundle.target
    return {
        "model": digest,
        "name": f"{trial.method} on {trial.backbone.name}",
        "task": target.task,
        "classes": list(target.classes),
        "thresholds": dict(bundle.thresholds),
        "metrics": dict(bundle.metrics),
        "images": dict(bundle.data["images"]),
        "note": bundle.data["note"] or "",
        "must_not_be_used_for": must_not(bundle),
        "seeds": len(bundle.states),
        "resolution": bundle.spec.resolution,
        "versions": dict(bundle.versions),
        "limits": dataclasses.asdict(limits),
    }
