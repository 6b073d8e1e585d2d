"""A bundle on this process's device: images in, calibrated probabilities out. No Ray, no MLflow.

An image goes the way that the trial's own images went: decoded, squared, through the LPM in the store's arithmetic,
its features in the stored type, and into the network as a batch of training is. So the numbers are the study's.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import nn

from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import needs_lpm, reads_images
from fpt_ray.errors import ConfigError
from fpt_ray.features.spec import StoreSpec, bytes_per_row
from fpt_ray.images.labels import BETWEEN
from fpt_ray.metrics.calibration import calibrated
from fpt_ray.metrics.operating_points import OperatingPoint
from fpt_ray.metrics.scores import HALF, predicted
from fpt_ray.models.device import compute_device
from fpt_ray.models.loss import network_for, says
from fpt_ray.models.methods import load_learnable_state
from fpt_ray.models.step import arithmetic_type, autocast
from fpt_ray.models.weights import known_weights, load_backbone, weights_digest
from fpt_ray.predict.inputs import ImageLike, square_of_input
from fpt_ray.predict.seen import Seen, seen_by
from fpt_ray.train.bundle import BACKBONE_FILE, Bundle, read_bundle, with_backbone_at
from fpt_ray.train.evaluation import Assignment, network_inputs

_MOST_HELD, _HELD_BYTES = 64, 320 * 2**20
"""Images that are held at once with their features, of any number, and bytes of them."""


def images_held(specs: Sequence[StoreSpec]) -> int:
    """How many images are held at once, squared for each of these, with the features of one: fewer of large ones."""
    squares = sum(3 * resolution**2 for resolution in {spec.preparation: spec.resolution for spec in specs}.values())
    each = squares + max(map(bytes_per_row, specs))
    return max(1, min(_MOST_HELD, _HELD_BYTES // each))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Answers:
    """What a bundle says of N images."""

    target: Target
    probabilities: Float[np.ndarray, "N C"]
    """Calibrated, of classes, grades or labels, the mean over the seeds; of regression the value, as one column."""
    spread: Float[np.ndarray, " N"]
    """Standard deviation over the seeds, or over several bundles: of the predicted class's probability, the largest of
    several labels', or of the value; 0 of a single one."""
    familiarity: Float[np.ndarray, " N"] | None
    """How like the training images each is: the share of validation images that are at least as far from these, by the
    class token of the frozen LPM; None where no LPM looks at the images, or the bundle is older than this."""
    operating_points: tuple[OperatingPoint, ...] = ()
    """Of two classes, or of labels."""
    of_best: Float[np.ndarray, "N C"] | None = None
    """Where several bundles answer as one: what the one with the best validation score says alone."""

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

    @property
    def decisions(self) -> dict[str, Bool[np.ndarray, " N"]]:
        """{name of an operating point: whether an image's probability reaches its threshold}."""
        return {
            point.name: self.probabilities[:, self.target.classes.index(point.of)] >= point.threshold
            for point in self.operating_points
        }


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
    def assignment(self) -> Assignment:
        """What is learnt, as the loop takes it."""
        bundle, spec = self.bundle, self.bundle.spec
        return Assignment(target=bundle.target, mean=spec.mean, std=spec.std, num_train=0, device=self.device)

    def predict(self, images: Sequence[ImageLike]) -> Answers:
        """What the bundle says of images: paths (or s3://...), encoded bytes, arrays or Pillow's images.

        Raises:
            ImageError: one cannot be decoded; it is named.
        """
        how = self.bundle.spec.preparation
        each = []
        held = images_held([self.bundle.spec])
        for first in range(0, max(1, len(images)), held):
            some = images[first : first + held]
            squares = np.zeros((len(some), how.resolution, how.resolution, 3), np.uint8)
            for number, image in enumerate(some):
                squares[number] = square_of_input(image, f"image {first + number}", how)
            each.append(self.answers(squares))
        return _joined(each)

    def answers(self, images: UInt8[np.ndarray, "N R R 3"]) -> Answers:
        """What the bundle says of squared images at the LPM's resolution."""
        return self.answers_to(seen_by(self.lpm, images, self.bundle.spec))

    def answers_to(self, seen: Sequence[Seen]) -> Answers:
        """What the bundle says of images that the LPM has looked at."""
        task, gaussian = self.bundle.target.task, self.bundle.familiarity
        each = zip(self.said(seen), self.bundle.temperatures, strict=True)
        of_seeds = np.stack([calibrated(one, by, task) for one, by in each])
        mean, spread = averaged(of_seeds, task)
        known = [] if gaussian is None else [gaussian.of(part.class_tokens) for part in seen]
        return Answers(
            target=self.bundle.target,
            probabilities=mean,
            spread=spread,
            familiarity=None if gaussian is None else np.concatenate([np.zeros(0), *known]),
            operating_points=self.bundle.operating_points,
        )

    def probabilities(self, images: UInt8[np.ndarray, "N R R 3"]) -> Float[np.ndarray, "S N C"]:
        """What the network of each seed says, not calibrated: the numbers of the study itself."""
        return self.said(seen_by(self.lpm, images, self.bundle.spec))

    def said(self, seen: Sequence[Seen]) -> Float[np.ndarray, "S N C"]:
        """The same of images that the LPM has looked at."""
        if not seen:
            return np.zeros((len(self.bundle.states), 0, len(self.bundle.target.classes)), np.float32)
        found = []
        for state in self.bundle.states:
            if len(self.bundle.states) > 1:
                load_learnable_state(self.model, state)
            found.append(_outputs(self, seen))
        return np.stack(found)


def _joined(each: Sequence[Answers]) -> Answers:
    """Answers of some images after those of others, all of one bundle."""
    known = [one.familiarity for one in each if one.familiarity is not None]
    return dataclasses.replace(
        each[0],
        probabilities=np.concatenate([one.probabilities for one in each]),
        spread=np.concatenate([one.spread for one in each]),
        familiarity=np.concatenate(known) if known else None,
    )


def averaged(said: Float[np.ndarray, "S N C"], task: str) -> tuple[Float[np.ndarray, "N C"], Float[np.ndarray, " N"]]:
    """The mean of what several networks say, and how far they are apart; see ``Answers``."""
    mean = said.mean(axis=0)
    spread = said.std(axis=0, ddof=1) if len(said) > 1 else np.zeros_like(mean)
    if task not in ("multilabel", "regression"):
        spread = np.take_along_axis(spread, predicted(mean, task)[:, None], axis=1)
    return mean, spread.max(axis=1, initial=0.0)


def load(bundle: str, backbone: str | None = None) -> Classifier:
    """The classifier of a bundle's folder (local, or s3://...), on a GPU where there is one.

    Args:
        bundle: the folder that a trial left.
        backbone: the file of the LPM's weights, if they are not where they were.

    Raises:
        ConfigError: it is no bundle, a file of it is not what the bundle says, or the LPM is another one.
    """
    return classifier_of(with_backbone_at(read_bundle(bundle), backbone))


def classifier_of(bundle: Bundle, device: torch.device | None = None, lpm: Any = None) -> Classifier:
    """A bundle's networks on a device. Default: this process's.

    ``lpm`` is the bundle's frozen LPM, if it is there on that device already. Default: it is loaded, and checked.

    Raises:
        ConfigError: the LPM's weights cannot be had, or are others than the trial had.
    """
    trial, device = bundle.trial, device or compute_device()
    if reads_images(trial):
        digest = known_weights([trial.backbone], ".")[trial.backbone]
    elif needs_lpm(trial) and lpm is None:
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


@torch.no_grad()
def _outputs(classifier: Classifier, seen: Sequence[Seen]) -> Float[np.ndarray, "N C"]:
    trial, assignment, found = classifier.bundle.trial, classifier.assignment, []
    classifier.model.eval()
    for batch in (part.batch(trial, classifier.bundle.spec) for part in seen):
        with autocast(assignment.device, arithmetic_type(trial.training, assignment.device)):
            logits = classifier.model(*network_inputs(batch, None, 0, (trial,), assignment))
        found.append(says(assignment.target.task, logits.float(), classifier.model).cpu().numpy())
    return np.concatenate(found)
