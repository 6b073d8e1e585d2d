"""What a trial says of each test image, stored beside its run when the test split is read.

Trials of several studies can be compared by it, image by image, without their checkpoints and stores.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from mlflow import MlflowClient

from fpt_ray.config.tasks import Target
from fpt_ray.images.labels import Values
from fpt_ray.metrics.intervals import Interval, bootstrap, interval
from fpt_ray.report.stored import stored_text

FILE = "test_predictions.json"
"""Beside a trial's run."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Predictions:
    """What the networks of all seeds say of the test images, uncalibrated."""

    target: Target
    images: tuple[str, ...]
    """Content hashes (SHA-256, hex), in their order."""
    labels: Values
    said: Sequence[Float[np.ndarray, "N C"]]
    """Of each seed: probabilities, or values; as of ``metrics.scores.score``."""


def predictions_text(
    target: Target, hashes: UInt8[np.ndarray, "N 32"], labels: Values, said: Sequence[Float[np.ndarray, "N C"]]
) -> str:
    """As JSON, probabilities to six digits."""
    document = {
        "task": target.task,
        "classes": target.classes,
        "images": [one.tobytes().hex() for one in hashes],
        "labels": labels.tolist(),
        "said": [[[float(f"{value:.6g}") for value in row] for row in one.tolist()] for one in said],
    }
    return json.dumps(document)


def read_predictions(client: MlflowClient, run_id: str) -> Predictions | None:
    """Those of a trial; None where an earlier version has scored it and stored none."""
    if (text := stored_text(client, run_id, FILE)) is None:
        return None
    document = json.loads(text)
    labels = np.array(document["labels"])
    return Predictions(
        target=Target(task=document["task"], classes=tuple(document["classes"])),
        images=tuple(document["images"]),
        labels=labels.astype(np.float32) if labels.ndim == 2 else labels,
        said=[np.array(one, np.float32) for one in document["said"]],
    )


def same_images(one: Predictions, other: Predictions) -> bool:
    """Whether both are of the same images, with the same labels of the same classes."""
    floats = one.labels.dtype.kind == "f"
    alike = (one.target, one.images) == (other.target, other.images)
    return alike and np.array_equal(one.labels, other.labels, equal_nan=floats)


def difference(one: Predictions, first: Predictions, score: str) -> Interval:
    """The 95 % interval of the difference of two trials' scores, of both on the same resamples of the same images."""
    samples = bootstrap([one.said, first.said], one.labels, (score,), one.target.task)[score]
    return interval(samples[0] - samples[1])
