"""What a trained trial leaves: its bundle, calibrated on the validation split and described in a model card."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fpt_ray.config.tasks import Target, Task
from fpt_ray.config.trial import TrialConfig, reads_images
from fpt_ray.features.joining import Features
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.spec import StoreSpec
from fpt_ray.metrics.calibration import Bin, calibrated, estimated_errors, fitted_temperatures, reliability
from fpt_ray.metrics.intervals import Estimate, bootstrap, interval
from fpt_ray.metrics.operating_points import OperatingPoint, operating_points, rates_at
from fpt_ray.metrics.scores import Scores, scores
from fpt_ray.models.weights import backbone_bytes
from fpt_ray.train.best import predictions_of_best
from fpt_ray.train.bundle import Bundle, write_bundle
from fpt_ray.train.card import HIGH, LOW, RELIABILITY_FILE, SPLIT_TITLES, model_card
from fpt_ray.train.checkpoint import Checkpoint, check_identity, load_checkpoint
from fpt_ray.train.reliability import reliability_diagram
from fpt_ray.train.tokens import familiarity_of

SPLITS = ("val", "test")
"""In this order: what is shown of a bundle is of the last that is scored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaving:
    """What is left, where, and what is said of it beside its numbers."""

    uri: str
    """The bundle's folder."""
    identity: str
    """Digest of all that determines the trial's numbers."""
    weights_digest: str
    """Of the LPM."""
    metrics: Mapping[str, float]
    """What is known of the trial: its costs, and scores with their intervals."""
    versions: Mapping[str, str]
    with_backbone: bool = False
    """The LPM's weights lie in the bundle, too."""
    splits: Sequence[str] = SPLITS
    """Those that are scored: validation always, the test split unless it is kept for others."""
    confirms: int | None = None
    """The number of the trial that it trained again with other seeds."""


def leave_saved(trial: TrialConfig, store: Features, checkpoint: str, leaving: Leaving) -> dict[str, list[Scores]]:
    """``leave_bundle`` of the checkpoint in a folder, which a worker reads itself.

    Raises:
        ConfigError: the checkpoint is of another trial.
    """
    saved = load_checkpoint(checkpoint)
    check_identity(saved, leaving.identity, checkpoint)
    return leave_bundle(trial, store, saved, leaving)


def leave_bundle(trial: TrialConfig, store: Features, saved: Checkpoint, leaving: Leaving) -> dict[str, list[Scores]]:
    """Writes the bundle of a trained trial; returns the scores of every seed on the splits that are scored.

    Raises:
        StoreError: the store cannot be read.
    """
    found = {split: predictions_of_best(trial, store, split, saved) for split in leaving.splits}
    target, (of_val, val_labels) = store.target, found["val"]
    by = tuple(fitted_temperatures(one, val_labels, target.task) for one in of_val)
    means = {split: ensemble(said, by, target.task) for split, (said, _) in found.items()}
    points = operating_points(means["val"], val_labels, target.classes, target.task)
    scored = {
        split: [scores(one, labels, target.classes, target.task) for one in said]
        for split, (said, labels) in found.items()
    }
    metrics: dict[str, float] = {}
    for split, (said, labels) in found.items():
        metrics |= _score_metrics(split, said, labels, scored[split], target)
        metrics |= _calibration_metrics(split, (np.mean(said, axis=0), means[split]), labels, target.task)
        metrics |= _rate_metrics(split, points, means[split], labels, target.classes)
    bundle = Bundle(
        trial=trial,
        target=target,
        spec=narrowed(store.spec, trial),
        weights_digest=leaving.weights_digest,
        states=tuple(best.model for best in saved.best),
        temperatures=by,
        operating_points=points,
        metrics={**metrics, **leaving.metrics},
        data=_data(store),
        identity=leaving.identity,
        versions=leaving.versions,
        confirms=leaving.confirms,
        familiarity=familiarity_of(trial, store),
    )
    shown = leaving.splits[-1]
    said, labels = found[shown]
    pictures = _pictures((np.mean(said, axis=0), means[shown]), labels, target.task, SPLIT_TITLES[shown])
    backbone = backbone_bytes(trial.backbone, leaving.weights_digest) if leaving.with_backbone else None
    card = model_card(bundle, leaving.uri, whole=leaving.with_backbone)
    write_bundle(bundle, leaving.uri, card, backbone, pictures)
    return scored


def ensemble(
    said: Sequence[Float[np.ndarray, "N C"]], by: Sequence[Sequence[float]], task: Task
) -> Float[np.ndarray, "N C"]:
    """The mean of what the networks of all seeds say, each calibrated."""
    return np.mean([calibrated(one, of_seed, task) for one, of_seed in zip(said, by, strict=True)], axis=0)


def narrowed(spec: StoreSpec, trial: TrialConfig) -> StoreSpec:
    """What a store would hold that this trial alone reads."""
    if reads_images(trial):
        return spec
    cut = trial_slice(trial, spec)
    if cut.blocks:
        return dataclasses.replace(spec, blocks=cut.blocks, num_kept=cut.num_kept, low_resolutions=cut.low_resolutions)
    # Summaries alone, or an image alone: the LPM is asked for one token of one block beside them.
    return dataclasses.replace(spec, blocks=spec.blocks[-1:], num_kept=1, low_resolutions=cut.low_resolutions)


def _data(store: Features) -> dict[str, object]:
    return {
        "images_digest": store.table_digest,
        "images": {split: store.num_rows(split) for split in store.splits},
        "groups": {split: rows.num_groups for split, rows in store.splits.items() if rows.num_groups is not None},
        "note": store.data_note,
        "store": store.spec.name,
    }


def _score_metrics(
    split: str,
    said: Sequence[Float[np.ndarray, "N C"]],
    labels: np.ndarray,
    scored: Sequence[Scores],
    target: Target,
) -> dict[str, float]:
    """Means over the seeds with their intervals, where resamples have such a score."""
    metrics: dict[str, float] = {}
    drawn = bootstrap([said], labels, target.scores, target.task)
    for name in target.scores:
        metrics[f"{split}_{name}"] = value = statistics.fmean(one[name] for one in scored)
        if np.isfinite(drawn[name]).any():
            metrics |= _with_ends(f"{split}_{name}", Estimate(value, *interval(drawn[name][0])))
    return metrics


def _calibration_metrics(
    split: str,
    before_and_after: tuple[Float[np.ndarray, "N C"], Float[np.ndarray, "N C"]],
    labels: np.ndarray,
    task: Task,
) -> dict[str, float]:
    """{name: value} of the errors of calibration before and after, with their intervals; of values there are none."""
    metrics: dict[str, float] = {}
    found = estimated_errors(before_and_after, labels, task)
    for when, errors in zip(("uncalibrated", "calibrated"), found, strict=True):
        for name, estimate in errors.items():
            metrics |= _with_ends(f"{split}_{name}_{when}", estimate)
    return metrics


def _rate_metrics(
    split: str,
    points: Sequence[OperatingPoint],
    probabilities: Float[np.ndarray, "N C"],
    labels: np.ndarray,
    classes: Sequence[str],
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for point in points:
        rates = rates_at(point, probabilities, labels, classes)
        for name, share in (("sensitivity", rates.sensitivity), ("specificity", rates.specificity)):
            if share is not None:
                metrics |= _with_ends(f"{split}_{name}_at_{point.name}", share)
    return metrics


def _with_ends(name: str, estimate: Estimate) -> dict[str, float]:
    """A value and the ends of its interval, as metrics of a bundle."""
    return {name: estimate.value, f"{name}{LOW}": estimate.low, f"{name}{HIGH}": estimate.high}


def _pictures(
    before_and_after: tuple[Float[np.ndarray, "N C"], Float[np.ndarray, "N C"]],
    labels: np.ndarray,
    task: Task,
    split: str,
) -> dict[str, bytes]:
    """{file: content} of what the model card shows; of values there is nothing."""
    if task == "regression":
        return {}
    bins = [reliability(said, labels, task) for said in before_and_after]
    counted = f"{split} images" if task != "multilabel" else f"labels of {split} images"
    by_title: dict[str, list[Bin]] = dict(zip(("before calibration", "calibrated"), bins, strict=True))
    return {RELIABILITY_FILE: reliability_diagram(by_title, counted)}
