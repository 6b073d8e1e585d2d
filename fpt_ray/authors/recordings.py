"""Recordings of the authors' code, compared with ours.

A recording holds inputs, weights, the selected keys and values, logits, loss and gradients.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fpt_ray.authors.checkpoints import translate_side, translate_vit, under
from fpt_ray.config.trial import FeaturesConfig, Importance, SideConfig, TrialConfig
from fpt_ray.errors import ConfigError
from fpt_ray.models.backbone import BackboneShape, kept_tokens
from fpt_ray.models.importance import Extracted, extract
from fpt_ray.models.side_network import SideNetwork

LOGIT_TOLERANCE = 1e-4  # absolute
GRADIENT_TOLERANCE = 1e-3  # of the largest element
_IMPORTANCE: Mapping[str, Importance] = {"global": "global", "cls": "class_token", "class_token": "class_token"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The largest difference of one recorded tensor and how much is allowed."""

    name: str
    largest: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether the difference is within what is allowed."""
        return self.largest <= self.allowed


# --- recordings -----------------------------------------------------------------------------------------------


def compare(tensors_path: str | Path, settings_path: str | Path) -> list[Difference]:
    """The largest differences between a recording of the authors' code and ours on the same inputs and weights.

    Raises:
        ConfigError: the recording lacks a tensor or a setting, or its weights do not fit.
    """
    recorded = load_file(tensors_path)
    settings = json.loads(Path(settings_path).read_text())
    try:
        return _compare(recorded, settings)
    except KeyError as error:
        raise ConfigError(f"the recording {tensors_path}, {settings_path} lacks {error.args[0]!r}") from error


def _compare(recorded: Mapping[str, Tensor], settings: Mapping[str, Any]) -> list[Difference]:
    lpm = _recorded_backbone(recorded, settings)
    shape = _recorded_shape(settings)
    trial = _recorded_trial(settings)
    num_tokens = shape.num_tokens(settings["image"])
    num_kept = kept_tokens(num_tokens, settings["token_ratio"])
    ours = _extract_layers(lpm, recorded["high_res"], settings, num_kept)
    everything = _extract_layers(lpm, recorded["high_res"], settings, num_tokens)
    found = [_same_tokens(recorded["keys"], everything, ours.tokens)]
    found += [
        Difference(name=name, largest=_largest(part, recorded[name]), allowed=LOGIT_TOLERANCE)
        for name, part in (("keys", ours.keys), ("values", ours.values))
    ]
    side = SideNetwork(trial, shape, settings["classes"]).eval()
    for module in side.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = settings["layer_norm_eps"]
    weights, unknown = translate_side(under(recorded, "model."))
    if unknown:
        raise ConfigError(f"parameters of the recording that have no place in ours: {unknown}")
    side.load_state_dict(weights)
    learnable = sum(parameter.numel() for parameter in side.parameters())
    found.append(Difference(name="learnable parameters", largest=abs(learnable - settings["learnable"]), allowed=0))
    return found + _compare_training(recorded, side, ours)


def _extract_layers(lpm: VisionTransformer, images: Tensor, settings: Mapping[str, Any], num_kept: int) -> Extracted:
    importance = _IMPORTANCE[settings["token_importance"]]
    found = extract(lpm, images, blocks=settings["layers"], num_kept=num_kept, importance=importance)
    return Extracted(found.keys.clone(), found.values.clone(), found.tokens)


def _compare_training(recorded: Mapping[str, Tensor], side: nn.Module, ours: Extracted) -> list[Difference]:
    logits = side(recorded["low_res"], ours.keys, ours.values)
    loss = F.cross_entropy(logits, recorded["labels"])
    loss.backward()
    found = [
        Difference(name="logits", largest=_largest(logits, recorded["logits"]), allowed=LOGIT_TOLERANCE),
        Difference(name="loss", largest=_largest(loss, recorded["loss"].squeeze()), allowed=LOGIT_TOLERANCE),
    ]
    gradients, _ = translate_side(under(recorded, "grad."))
    parameters = dict(side.named_parameters())
    for name, gradient in gradients.items():
        computed = parameters[name].grad
        assert computed is not None
        relative = _largest(computed, gradient) / max(float(gradient.abs().max()), 1e-30)
        found.append(Difference(name=f"gradient {name}", largest=relative, allowed=GRADIENT_TOLERANCE))
    return found


def _same_tokens(keys: Tensor, everything: Extracted, tokens: Tensor) -> Difference:
    """How many tokens were selected by one code only: recorded keys are found again among the keys of all tokens."""
    nearest = torch.cdist(keys, everything.keys).argmin(-1)
    theirs = everything.tokens.gather(-1, nearest).sort(-1).values
    return Difference(name="tokens of another set", largest=float((theirs != tokens.sort(-1).values).sum()), allowed=0)


def _largest(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        raise ConfigError(f"ours has shape {tuple(ours.shape)}, the recording {tuple(theirs.shape)}")
    return float((ours.detach() - theirs).abs().max())


def _recorded_backbone(recorded: Mapping[str, Tensor], settings: Mapping[str, Any]) -> VisionTransformer:
    model = VisionTransformer(
        img_size=settings["image"],
        patch_size=settings["patch"],
        embed_dim=settings["hidden"],
        depth=settings["depth"],
        num_heads=settings["heads"],
        num_classes=settings["classes"],
        mlp_ratio=recorded["lpm.vit.encoder.layer.0.intermediate.dense.bias"].numel() / settings["hidden"],
        norm_layer=partial(nn.LayerNorm, eps=settings["layer_norm_eps"]),
    )
    weights, unknown = translate_vit(under(recorded, "lpm."))
    if unknown:
        raise ConfigError(f"parameters of the recorded LPM that have no place in timm's ViT: {unknown}")
    model.load_state_dict(weights)
    return model.eval()


def _recorded_shape(settings: Mapping[str, Any]) -> BackboneShape:
    return BackboneShape(
        name="the recording's LPM",
        depth=settings["depth"],
        width=settings["hidden"],
        num_heads=settings["heads"],
        head_width=settings["hidden"] // settings["heads"],
        patch_size=settings["patch"],
        num_prefix_tokens=1,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


def _recorded_trial(settings: Mapping[str, Any]) -> TrialConfig:
    return TrialConfig(
        method=settings["method"],
        features=FeaturesConfig(
            resolution=settings["image"],
            token_ratio=settings["token_ratio"],
            importance=_IMPORTANCE[settings["token_importance"]],
        ),
        side=SideConfig(
            depth=len(settings["layers"]),
            num_prompts=settings["prompts"],
            reduction=settings["reduction"],
            resolution=settings["side_image"],
            prompt_width=settings["prompt_width"],
        ),
    )
