"""What a trained trial leaves: its bundle, calibrated on the validation split and described in a model card."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fpt_ray.config.tasks import Task
from fpt_ray.config.trial import TrialConfig, reads_images
from fpt_ray.features.joining import Features
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.spec import StoreSpec
from fpt_ray.metrics.calibration import calibrated, calibrations, temperatures
from fpt_ray.metrics.operating_points import operating_points, rates
from fpt_ray.metrics.scores import Scores, scores
from fpt_ray.models.weights import backbone_bytes
from fpt_ray.train.best import predictions_of_best
from fpt_ray.train.bundle import Bundle, write_bundle
from fpt_ray.train.card import model_card
from fpt_ray.train.checkpoint import Checkpoint, check_identity, load_checkpoint

SPLITS = ("val", "test")


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


def leave_saved(trial: TrialConfig, store: Features, checkpoint: str, leaving: Leaving) -> dict[str, list[Scores]]:
    """``leave_bundle`` of the checkpoint in a folder, which a worker reads itself.

    Raises:
        ConfigError: the checkpoint is of another trial.
    """
    saved = load_checkpoint(checkpoint)
    check_identity(saved, leaving.identity, checkpoint)
    return leave_bundle(trial, store, saved, leaving)


def leave_bundle(trial: TrialConfig, store: Features, saved: Checkpoint, leaving: Leaving) -> dict[str, list[Scores]]:
    """Writes the bundle of a trained trial; returns the scores of every seed on the validation and the test split.

    Raises:
        StoreError: the store cannot be read.
    """
    found = {split: predictions_of_best(trial, store, split, saved) for split in SPLITS}
    target, of_val, val_labels = store.target, *found["val"]
    by = tuple(temperatures(one, val_labels, target.task) for one in of_val)
    means = {split: ensemble(said, by, target.task) for split, (said, _) in found.items()}
    thresholds = operating_points(means["val"][:, 1], val_labels == 1) if target.task == "binary" else {}
    scored = {
        split: [scores(one, labels, target.classes, target.task) for one in said]
        for split, (said, labels) in found.items()
    }
    metrics = dict(leaving.metrics)
    for split, (said, labels) in found.items():
        for name in target.scores:
            metrics.setdefault(f"{split}_{name}", statistics.fmean(one[name] for one in scored[split]))
        metrics |= _calibration_metrics(split, (np.mean(said, axis=0), means[split]), labels, target.task)
        metrics |= _rate_metrics(split, means[split], labels, thresholds)
    bundle = Bundle(
        trial=trial,
        target=target,
        spec=narrowed(store.spec, trial),
        weights_digest=leaving.weights_digest,
        states=tuple(best.model for best in saved.best),
        temperatures=by,
        thresholds=thresholds,
        metrics=metrics,
        data=_data(store),
        identity=leaving.identity,
        versions=leaving.versions,
    )
    backbone = backbone_bytes(trial.backbone, leaving.weights_digest) if leaving.with_backbone else None
    write_bundle(bundle, leaving.uri, model_card(bundle, leaving.uri, whole=leaving.with_backbone), backbone)
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
        "note": store.data_note,
        "store": store.spec.name,
    }


def _calibration_metrics(
    split: str,
    before_and_after: tuple[Float[np.ndarray, "N C"], Float[np.ndarray, "N C"]],
    labels: np.ndarray,
    task: Task,
) -> dict[str, float]:
    """{name: value} of the error of calibration before and after; of values there is none."""
    metrics = {}
    for when, said in zip(("uncalibrated", "calibrated"), before_and_after, strict=True):
        if (of_these := calibrations(said, labels, task)) is not None:
            metrics |= {f"{split}_{name}_{when}": value for name, value in dataclasses.asdict(of_these).items()}
    return metrics


def _rate_metrics(
    split: str, probabilities: Float[np.ndarray, "N C"], labels: np.ndarray, thresholds: Mapping[str, float]
) -> dict[str, float]:
    metrics = {}
    for name, threshold in thresholds.items():
        of_these = dataclasses.asdict(rates(probabilities[:, 1], labels == 1, threshold))
        metrics |= {f"{split}_{rate}_at_{name}": value for rate, value in of_these.items() if value is not None}
    return metrics
