"""What a trained trial leaves: its bundle, calibrated on the validation split and described in a model card."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from fpt_ray.config.trial import TrialConfig, reads_images
from fpt_ray.features.joining import Features
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.spec import StoreSpec
from fpt_ray.metrics.calibration import calibration, temperature, tempered
from fpt_ray.metrics.operating_points import operating_points, rates
from fpt_ray.metrics.scores import Scores, auc, scores
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
    temperatures = [temperature(one, found["val"][1]) for one in found["val"][0]]
    ensembles = {split: ensemble(probabilities, temperatures) for split, (probabilities, _) in found.items()}
    thresholds = _thresholds(ensembles["val"], found["val"][1])
    metrics = dict(leaving.metrics)
    for split, (probabilities, labels) in found.items():
        metrics.setdefault(f"{split}_auc", statistics.fmean(auc(one, labels, store.classes) for one in probabilities))
        metrics |= _calibration_metrics(split, np.mean(probabilities, axis=0), ensembles[split], labels)
        metrics |= _rate_metrics(split, ensembles[split], labels, thresholds)
    bundle = Bundle(
        trial=trial,
        classes=store.classes,
        spec=narrowed(store.spec, trial),
        weights_digest=leaving.weights_digest,
        states=tuple(best.model for best in saved.best),
        temperatures=tuple(temperatures),
        thresholds=thresholds,
        metrics=metrics,
        data=_data(store),
        identity=leaving.identity,
        versions=leaving.versions,
    )
    write_bundle(bundle, leaving.uri, model_card(bundle, leaving.uri))
    return {
        split: [scores(one, labels, store.classes) for one in probabilities]
        for split, (probabilities, labels) in found.items()
    }


def ensemble(
    probabilities: Sequence[Float[np.ndarray, "N C"]], temperatures: Sequence[float]
) -> Float[np.ndarray, "N C"]:
    """The mean of what the networks of all seeds say, each calibrated."""
    calibrated = [tempered(one, by) for one, by in zip(probabilities, temperatures, strict=True)]
    return np.mean(calibrated, axis=0)


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


def _thresholds(probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> Mapping[str, float]:
    return operating_points(probabilities[:, 1], labels == 1) if probabilities.shape[1] == 2 else {}


def _calibration_metrics(
    split: str,
    raw: Float[np.ndarray, "N C"],
    calibrated: Float[np.ndarray, "N C"],
    labels: Int[np.ndarray, " N"],
) -> dict[str, float]:
    """{name: value} of the error of calibration before and after."""
    metrics = {}
    for when, probabilities in (("uncalibrated", raw), ("calibrated", calibrated)):
        of_these = dataclasses.asdict(calibration(probabilities, labels))
        metrics |= {f"{split}_{name}_{when}": value for name, value in of_these.items()}
    return metrics


def _rate_metrics(
    split: str, probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"], thresholds: Mapping[str, float]
) -> dict[str, float]:
    metrics = {}
    for name, threshold in thresholds.items():
        of_these = dataclasses.asdict(rates(probabilities[:, 1], labels == 1, threshold))
        metrics |= {f"{split}_{rate}_at_{name}": value for rate, value in of_these.items() if value is not None}
    return metrics
