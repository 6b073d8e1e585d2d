"""What the networks of a bundle looked at in an image: the important tokens, and the attention that they were paid.

It is the material of the paper's Figure 9 (the selected tokens, and what the prompts pay to them) and Figure 5 (what
the side network's tokens pay to the prompts), of the forward pass that gave the answer.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from fpt_ray.config.trial import SUMMARY_METHODS, TrialConfig, reads_features, reads_images
from fpt_ray.errors import ConfigError
from fpt_ray.models.attention_maps import AttentionMaps, with_attention_maps
from fpt_ray.models.backbone import backbone_shape
from fpt_ray.models.loss import says
from fpt_ray.models.methods import load_learnable_state
from fpt_ray.models.step import arithmetic_type, autocast
from fpt_ray.predict.classifier import Classifier
from fpt_ray.predict.inputs import ImageLike, square_of_input
from fpt_ray.predict.seen import seen_by
from fpt_ray.train.evaluation import network_inputs
from fpt_ray.train.leaving import ensemble

_FOR = "fpt+, fpt and probe, which read stored keys and values, have evidence"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evidence:
    """What the networks of S seeds looked at in an image. Dimension letters stand in ``models.side_network``."""

    blocks: tuple[int, ...]
    """The LPM's block, from 0, that each of L layers reads."""
    num_tokens: int
    """N of the LPM: its prefix tokens, then the patches, row by row."""
    num_prefix: int
    tokens: Int[np.ndarray, "L H T"]
    """The important tokens that each head keeps, best first: 0 is the first of the prefix."""
    attention: Float[np.ndarray, "S L H P T"]
    """What the prompts of a layer (the queries of a probe) pay to those tokens: 1 over all T."""
    to_prompts: Float[np.ndarray, "S L H"] | None
    """What the side network's tokens pay to all prompts together, on average over those that ask; None of a probe."""
    uniform_to_prompts: float | None
    """What that would be if all were paid alike."""
    said: Float[np.ndarray, "S C"]
    """What the network of each seed says, not calibrated."""
    probabilities: Float[np.ndarray, " C"]
    """Calibrated, the mean over the seeds; of regression the value."""
    class_token: Float[np.ndarray, " D"]
    """Of the LPM's last block."""

    @property
    def patches_a_side(self) -> int:
        """Of the square that the LPM sees."""
        return math.isqrt(self.num_tokens - self.num_prefix)


def check_evidence(trial: TrialConfig) -> None:
    """ConfigError unless a trial's networks attend to selected tokens of the LPM."""
    if trial.method in SUMMARY_METHODS:
        why = "reads class tokens and mean patch tokens, and attends to no patch"
    elif reads_images(trial):
        why = "runs the LPM in every step and selects no tokens"
        why = f"with features.preloaded false {why}" if trial.method in ("fpt+", "fpt") else why
    elif not reads_features(trial):
        why = "with side.num_prompts 0 does not see the LPM"
    else:
        return
    raise ConfigError(f"evidence: the bundle's method is {trial.method}, which {why}; {_FOR}", fields=("evidence",))


def evidence_of(classifier: Classifier, image: ImageLike) -> Evidence:
    """What the networks of a bundle looked at in an image.

    Raises:
        ConfigError: the bundle's method attends to no selected tokens.
        ImageError: the image cannot be read or decoded.
    """
    check_evidence(classifier.bundle.trial)
    return evidence_of_square(classifier, square_of_input(image, "the image", classifier.bundle.spec.preparation))


def evidence_of_square(classifier: Classifier, square: UInt8[np.ndarray, "R R 3"]) -> Evidence:
    """The same of a square at the LPM's resolution."""
    bundle, assignment = classifier.bundle, classifier.assignment
    trial, spec, target = bundle.trial, bundle.spec, bundle.target
    (seen,) = seen_by(classifier.lpm, square[None], spec)
    assert seen.features is not None
    batch = seen.batch(trial, spec)
    said, maps = [], []
    classifier.model.eval()
    for state in bundle.states:
        if len(bundle.states) > 1:
            load_learnable_state(classifier.model, state)
        inputs = network_inputs(batch, None, 0, (trial,), assignment)
        with autocast(assignment.device, arithmetic_type(trial.training, assignment.device)):
            logits, of_seed = with_attention_maps(classifier.model, inputs)
        said.append(says(target.task, logits.float(), classifier.model).cpu().numpy())
        maps.append(of_seed)
    to_prompts = [_to_prompts(one) for one in maps] if maps[0].of_side_tokens else None
    return Evidence(
        blocks=spec.blocks,
        num_tokens=spec.num_tokens,
        num_prefix=backbone_shape(spec.backbone).num_prefix_tokens,
        tokens=seen.features.tokens[:, 0].numpy(),
        attention=np.stack([np.stack([one[0].cpu().numpy() for one in of_seed.of_prompts]) for of_seed in maps]),
        to_prompts=None if to_prompts is None else np.stack(to_prompts),
        uniform_to_prompts=None if to_prompts is None else _uniform(maps[0]),
        said=np.concatenate(said),
        probabilities=ensemble(said, bundle.temperatures, target.task)[0],
        class_token=seen.class_tokens[0],
    )


def _to_prompts(maps: AttentionMaps) -> Float[np.ndarray, "L H"]:
    """Figure 5: the attention on the prompts, which stand last, on average over the tokens that ask."""
    each = zip(maps.of_side_tokens, maps.of_prompts, strict=True)
    paid = [on_all[0, :, :, -of_prompts.shape[2] :].sum(dim=-1).mean(dim=-1) for on_all, of_prompts in each]
    return torch.stack(paid).cpu().numpy()


def _uniform(maps: AttentionMaps) -> float:
    return maps.of_prompts[0].shape[2] / maps.of_side_tokens[0].shape[3]


# --- on the image -------------------------------------------------------------------------------------------------


def heat(evidence: Evidence, layer: int | None = None, head: int | None = None) -> Float[np.ndarray, "side side"]:
    """The attention on each patch: the mean over seeds, over prompts, and over layers and heads unless one is chosen.

    It adds up to 1, but for what the prefix tokens are paid.
    """
    layers, heads = (slice(None) if one is None else slice(one, one + 1 or None) for one in (layer, head))
    paid, tokens = evidence.attention.mean(axis=(0, 3))[layers, heads], evidence.tokens[layers, heads]
    whole = np.bincount(tokens.ravel(), paid.ravel(), minlength=evidence.num_tokens)
    return _on_patches(whole / (paid.shape[0] * paid.shape[1]), evidence)


def times_selected(evidence: Evidence, layer: int, head: int | None = None) -> Int[np.ndarray, "side side"]:
    """How many heads of a layer keep each patch; of one head, 0 or 1."""
    tokens = evidence.tokens[layer] if head is None else evidence.tokens[layer, head]
    return _on_patches(np.bincount(tokens.ravel(), minlength=evidence.num_tokens), evidence)


def _on_patches(of_tokens: np.ndarray, evidence: Evidence) -> np.ndarray:
    return of_tokens[evidence.num_prefix :].reshape(evidence.patches_a_side, evidence.patches_a_side)
