"""A bundle on this process's device: images in, calibrated probabilities out. No Ray, no MLflow.

An image goes the way that the trial's own images went: decoded, squared, through the LPM in the store's arithmetic,
its features in the stored type, and into the network as a batch of training is. So the numbers are the study's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import nn

from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import SUMMARY_METHODS, reads_features, reads_images, reads_low_resolution
from fpt_ray.errors import ConfigError
from fpt_ray.features.rows import Batch
from fpt_ray.images.labels import BETWEEN
from fpt_ray.images.picture import smaller
from fpt_ray.metrics.calibration import calibrated
from fpt_ray.metrics.scores import HALF, predicted
from fpt_ray.models.device import compute_device
from fpt_ray.models.loss import network_for, says
from fpt_ray.models.methods import load_learnable_state
from fpt_ray.models.step import arithmetic_type, autocast
from fpt_ray.models.weights import known_weights, load_backbone, weights_digest
from fpt_ray.predict.inputs import ImageLike, square_of_input
from fpt_ray.preload.batches import extract_batches
from fpt_ray.train.bundle import BACKBONE_FILE, Bundle, read_bundle, with_backbone_at
from fpt_ray.train.evaluation import Task, network_inputs

_AT_ONCE = 16
"""Images that the network sees at once; the LPM decides for itself."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Answers:
    """What a bundle says of N images."""

    target: Target
    probabilities: Float[np.ndarray, "N C"]
    """Calibrated, of classes, grades or labels, the mean over the seeds; of regression the value, as one column."""
    spread: Float[np.ndarray, " N"]
    """Standard deviation over the seeds: of the predicted class's probability, the largest of several labels', or of
    the value; 0 of a single seed."""

    @property
    def labels(self) -> list[str]:
        """The class of every image; of several labels those from one half on, with a bar between; of values, ""."""
        task, names = self.target.task, self.target.classes
        if task == "regression":
            return [""] * len(self.probabilities)
        if task == "multilabel":
            rows = (np.flatnonzero(row >= HALF) for row in self.probabilities)
            return [BETWEEN.join(names[at] for at in row) for row in rows]
        return [names[at] for at in predicted(self.probabilities, task)]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Classifier:
    """The networks of a bundle, ready to be applied."""

    bundle: Bundle
    model: nn.Module
    """That of a seed at a time."""
    lpm: Any
    """None where the network itself has it, or needs none."""
    device: torch.device

    @property
    def task(self) -> Task:
        """What is learnt, as the loop takes it."""
        bundle, spec = self.bundle, self.bundle.spec
        return Task(target=bundle.target, mean=spec.mean, std=spec.std, num_train=0, device=self.device)

    def predict(self, images: Sequence[ImageLike]) -> Answers:
        """What the bundle says of images: paths (or s3://...), encoded bytes, arrays or Pillow's images.

        Raises:
            ImageError: one cannot be decoded; it is named.
        """
        how = self.bundle.spec.preparation
        squares = np.zeros((len(images), how.resolution, how.resolution, 3), np.uint8)
        for number, image in enumerate(images):
            squares[number] = square_of_input(image, f"image {number}", how)
        return self.answers(squares)

    def answers(self, images: UInt8[np.ndarray, "N R R 3"]) -> Answers:
        """What the bundle says of squared images at the LPM's resolution."""
        task = self.bundle.target.task
        each = zip(self.probabilities(images), self.bundle.temperatures, strict=True)
        of_seeds = np.stack([calibrated(one, by, task) for one, by in each])
        mean = of_seeds.mean(axis=0)
        spread = of_seeds.std(axis=0, ddof=1) if len(of_seeds) > 1 else np.zeros_like(mean)
        if task not in ("multilabel", "regression"):
            spread = np.take_along_axis(spread, predicted(mean, task)[:, None], axis=1)
        return Answers(target=self.bundle.target, probabilities=mean, spread=spread.max(axis=1, initial=0.0))

    def probabilities(self, images: UInt8[np.ndarray, "N R R 3"]) -> Float[np.ndarray, "S N C"]:
        """What the network of each seed says, not calibrated: the numbers of the study itself."""
        if not len(images):
            return np.zeros((len(self.bundle.states), 0, len(self.bundle.target.classes)), np.float32)
        batches = [_batch(self, images[first : first + _AT_ONCE]) for first in range(0, len(images), _AT_ONCE)]
        found = []
        for state in self.bundle.states:
            if len(self.bundle.states) > 1:
                load_learnable_state(self.model, state)
            found.append(_outputs(self, batches))
        return np.stack(found)


def load(bundle: str, backbone: str | None = None) -> Classifier:
    """The classifier of a bundle's folder (local, or s3://...), on a GPU where there is one.

    Args:
        bundle: the folder that a trial left.
        backbone: the file of the LPM's weights, if they are not where they were.

    Raises:
        ConfigError: it is no bundle, a file of it is not what the bundle says, or the LPM is another one.
    """
    return classifier_of(with_backbone_at(read_bundle(bundle), backbone))


def classifier_of(bundle: Bundle, device: torch.device | None = None) -> Classifier:
    """A bundle's networks on a device. Default: this process's.

    Raises:
        ConfigError: the LPM's weights cannot be had, or are others than the trial had.
    """
    trial, device, lpm = bundle.trial, device or compute_device(), None
    if reads_images(trial):
        digest = known_weights([trial.backbone], ".")[trial.backbone]
    elif needs_lpm(bundle):
        lpm = load_backbone(trial.backbone, bundle.spec.resolution)
        digest = weights_digest(lpm)
        lpm = lpm.to(device, getattr(torch, bundle.spec.precision))
    else:
        digest = bundle.weights_digest
    if digest != bundle.weights_digest:
        raise _other_weights(bundle, digest)
    model = network_for(trial, bundle.target).to(device).eval()
    load_learnable_state(model, bundle.states[0])
    return Classifier(bundle=bundle, model=model, lpm=lpm, device=device)


def _other_weights(bundle: Bundle, digest: str) -> ConfigError:
    source, had = bundle.trial.backbone.weights or "timm", f"{bundle.weights_digest[:12]}..."
    said = f"backbone.weights (SHA-256) is {digest[:12]}... of {source}, the bundle's trial had {had}"
    if source.endswith(f"/{BACKBONE_FILE}"):
        return ConfigError(f"{said}; copy the bundle again, or give the file it was trained with", fields=("backbone",))
    return ConfigError(f"{said}; give the file it was trained with", fields=("backbone",))


def needs_lpm(bundle: Bundle) -> bool:
    """Whether the LPM computes features for the network: not for one that has it, nor for a side network alone."""
    trial = bundle.trial
    return not reads_images(trial) and (trial.method in SUMMARY_METHODS or reads_features(trial))


@torch.no_grad()
def _outputs(classifier: Classifier, batches: Sequence[Batch]) -> Float[np.ndarray, "N C"]:
    trial, task, found = classifier.bundle.trial, classifier.task, []
    classifier.model.eval()
    for batch in batches:
        with autocast(task.device, arithmetic_type(trial.training, task.device)):
            logits = classifier.model(*network_inputs(batch, None, 0, trial, task))
        found.append(says(task.target.task, logits.float(), classifier.model).cpu().numpy())
    return np.concatenate(found)


def _batch(classifier: Classifier, images: UInt8[np.ndarray, "B R R 3"]) -> Batch:
    """Images as rows of a store would give them."""
    trial, spec = classifier.bundle.trial, classifier.bundle.spec
    labels = torch.zeros(len(images), dtype=torch.int64)
    if reads_images(trial):
        return Batch(low_res=torch.from_numpy(images), keys=None, values=None, labels=labels)
    low_res = None
    if reads_low_resolution(trial):
        low_res = torch.from_numpy(np.concatenate([smaller(one, spec.low_resolutions) for one in images]))
    if not needs_lpm(classifier.bundle):
        return Batch(low_res=low_res, keys=None, values=None, labels=labels)
    found = extract_batches(classifier.lpm, images, spec)
    if trial.method in SUMMARY_METHODS:
        assert found.summaries is not None
        summaries = found.summaries.permute(2, 0, 1, 3).contiguous()
        return Batch(low_res=None, keys=None, values=None, labels=labels, summaries=summaries)
    return Batch(low_res=low_res, keys=found.keys, values=found.values, labels=labels)
