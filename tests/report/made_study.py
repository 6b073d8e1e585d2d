"""A study as ``tune`` leaves it, made of numbers alone: its runs, its image table, its bundles and their pictures.

One of its classes, its note and its pictures are called what would harm a page that does not escape.
"""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from fpt_ray.config.dotted import flatten
from fpt_ray.config.tasks import SCORES, Target
from fpt_ray.config.trial import trial_from
from fpt_ray.images.table import ImageTable, write_table
from fpt_ray.metrics.intervals import bootstrap
from fpt_ray.metrics.scores import scores
from fpt_ray.report.predictions import FILE as PREDICTIONS
from fpt_ray.report.predictions import predictions_text
from fpt_ray.report.tested import FILE, as_json, of_seeds
from fpt_ray.search.importances import FILE as IMPORTANCES
from fpt_ray.search.importances import Importances
from fpt_ray.search.importances import as_json as importances_json
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.records import study_tags
from fpt_ray.tracking.server import default_uri, open_tracking

EVIL = "<script>alert('x')</script>"
CLASSES = (EVIL, "healthy")
NOTE = "drawn from $1 photograph <b>& more"
SEARCHED = ["side.num_prompts", "features.token_ratio", "side.depth", "side.resolution"]
OBJECTIVES = {"val_auc": "max", "memory_ratio": "min", "param_ratio": "min"}
TRIALS = [  # prompts, depth, val AUC, memory ratio, on the front
    (16, 6, 0.826, 0.110, False),
    (8, 2, 0.858, 0.080, True),
    (32, 2, 0.918, 0.081, True),
    (32, 2, 0.932, 0.084, True),
    (4, 4, 0.780, 0.090, False),
    (64, 8, 0.915, 0.140, False),
]
IMAGES = 60


def labels_of(split: str) -> np.ndarray:
    """Both classes in turn."""
    return np.arange({"train": IMAGES, "val": 20, "test": IMAGES}[split]) % 2


def image_table(names: str = "image") -> ImageTable:
    """Images with hashes of their own; of other ``names`` other ones."""
    splits = np.repeat(np.array([0, 1, 2], np.int8), [IMAGES, 20, IMAGES])
    seed = int.from_bytes(names.encode()[:4], "big")
    hashes = np.random.default_rng(seed).integers(0, 256, (len(splits), 32), np.uint8)
    labels = np.concatenate([labels_of(split) for split in ("train", "val", "test")])
    paths = pa.array([f"{names}{number:03d}.png" for number in range(len(splits))])
    return ImageTable(
        root=".", task="binary", classes=CLASSES, paths=paths, labels=labels, splits=splits, hashes_=hashes, note=NOTE
    )


def said_of(auc: float, seed: int) -> np.ndarray:
    """Probabilities of both classes for the test images, better by the AUC that is wanted."""
    chance = np.random.default_rng(seed)
    second = 1 / (1 + np.exp(-(4 * (auc - 0.5) * (2 * labels_of("test") - 1) + chance.normal(size=IMAGES))))
    return np.stack([1 - second, second], axis=1).astype(np.float32)


def png(color: str, width: int = 300) -> bytes:
    """A picture of one colour."""
    sink = io.BytesIO()
    Image.new("RGB", (width, 200), color).save(sink, "PNG")
    return sink.getvalue()


def make_study(
    workdir: Path, name: str = "made", *, images: str = "image", better: float = 0.0, predictions: bool = True
) -> str:
    """Writes it into a working directory and its database there; returns the tracking URI.

    ``better`` is added to all its scores, which are of images of this name; ``predictions`` says whether those of the
    test images are stored, as earlier versions did not.
    """
    uri = default_uri(workdir)
    client = open_tracking(uri)
    tags = study_tags(OBJECTIVES, SEARCHED, NOTE, study_id=f"id-{name}", constraints={})
    study = tracking.start_study(client, name, params={}, tags=tags)
    folder = workdir / "studies" / name
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps({"id": f"id-{name}"}))
    write_table(image_table(images), f"{folder}/images.parquet")
    for number in range(len(TRIALS)):
        _make_trial(client, study, folder, number, images=images, better=better, predictions=predictions)
    failed = tracking.start_trial(client, study, len(TRIALS), flatten(trial_from({})), {"stage": "final"})
    tracking.end_trial(client, failed, "FAILED", {}, f"the loss is nan {EVIL}")
    shares = {"val_auc": {"side.depth": 0.7, "side.num_prompts": 0.25, "features.token_ratio": 0.05}}
    text = importances_json(Importances(title="What each parameter explains (fANOVA)", shares=shares))
    tracking.attach_text(client, study.run_id, text, IMPORTANCES)
    ledger = {"preload_seconds": 500.0, "fit_seconds": 900.0, "separate_ratio": 2.5, "separate_preloads": 4.0}
    tracking.end_study(client, study, "FINISHED", len(TRIALS), ledger)
    return uri


def _make_trial(client, study, folder: Path, number: int, *, images: str, better: float, predictions: bool) -> None:
    """One of its trials; of a member of the front, its test scores and its bundle, too."""
    prompts, depth, auc, memory, on_front = TRIALS[number]
    over = {"side.num_prompts": prompts, "side.depth": depth, "features.token_ratio": 0.1}
    run = tracking.start_trial(client, study, number, flatten(trial_from(over)), {"stage": "final", "seeds": "1"})
    metrics = {
        "val_auc": auc + better,
        "param_ratio": 0.004 + prompts / 1e4,
        "memory_ratio": memory,
        "peak_memory_bytes": memory * 5e9,
        "learnable_parameters": 1e5 * prompts,
    }
    if on_front:
        said, labels = said_of(auc + better, number), labels_of("test")
        found = scores(said, labels, CLASSES, "binary")
        drawn = bootstrap([[said]], labels, SCORES["binary"], "binary", draws=100)
        samples = {score: one[0] for score, one in drawn.items()}
        tracking.attach_text(client, run, as_json(of_seeds([found], samples, CLASSES)), FILE)
        if predictions:
            target, hashes = Target(task="binary", classes=CLASSES), image_table(images).hashes()[-IMAGES:]
            tracking.attach_text(client, run, predictions_text(target, hashes, labels, [said]), PREDICTIONS)
        metrics |= {f"test_{score}": found[score] for score in SCORES["binary"]}
        _leave(folder / "bundles" / f"trial-{number:04d}", metrics)
    tracking.end_trial(client, run, "FINISHED", metrics)


def _leave(folder: Path, metrics: dict[str, float]) -> None:
    """A bundle's JSON and its pictures: calibration and operating points, some with their intervals."""
    folder.mkdir(parents=True)
    errors = {"ece": (0.12, 0.05), "brier": (0.4, 0.3), "log_loss": (0.6, 0.5), "new_error": (0.2, 0.1)}
    for split in ("val", "test"):
        for name, (before, after) in errors.items():
            metrics = {**metrics, f"{split}_{name}_uncalibrated": before, f"{split}_{name}_calibrated": after}
        for point in ("youden", "sensitivity_90"):
            metrics = {**metrics, f"{split}_sensitivity_at_{point}": 0.91, f"{split}_specificity_at_{point}": 0.62}
    metrics |= {"test_ece_calibrated_low": 0.031, "test_ece_calibrated_high": 0.092}
    metrics |= {"test_sensitivity_at_youden_low": 0.81, "test_sensitivity_at_youden_high": 0.97}
    chosen = {"youden": 0.512, "sensitivity_90": 0.333}
    points = [{"name": name, "of": CLASSES[1], "threshold": threshold} for name, threshold in chosen.items()]
    document = {
        "schema_version": 1,
        "metrics": metrics,
        "operating_points": points,
        "classes": CLASSES,
        "task": "binary",
        "temperatures": [[2.0]],
    }
    (folder / "bundle.json").write_text(json.dumps(document))
    (folder / "reliability.png").write_bytes(png("#0072b2"))
    (folder / "evidence").mkdir()
    (folder / "evidence" / "tokens_<img src=x>.png").write_bytes(png("#d55e00", 900))
    (folder / "evidence" / "broken.png").write_bytes(b"no picture")
