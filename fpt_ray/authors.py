"""Checkpoints and recordings of the authors' code, read by their parameter names into our model.

``python -m fpt_ray.authors compare X.safetensors X.json`` runs a recording (inputs, weights, selected keys and values,
logits, loss, gradients) through our code and prints the largest differences.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fpt_ray.backbone import BackboneShape, backbone_shape, kept_tokens
from fpt_ray.config import ConfigError, FeaturesConfig, Importance, SideConfig, TrialConfig
from fpt_ray.importance import Extracted, extract
from fpt_ray.side_network import SideNetwork
from fpt_ray.terminal import run_command

_PAPER = TrialConfig()
LOGIT_TOLERANCE = 1e-4  # absolute
GRADIENT_TOLERANCE = 1e-3  # of the largest element
_IMPORTANCE: Mapping[str, Importance] = {"global": "global", "cls": "class_token", "class_token": "class_token"}
_NAMES = (  # their name -> ours, both for the LPM and for the side network's own ViT
    (r"^vit\.embeddings\.cls_token$", "cls_token"),
    (r"^vit\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^vit\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^vit\.encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^vit\.encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (r"^vit\.encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"^vit\.encoder\.layer\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"^vit\.encoder\.layer\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"^vit\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
_FUSION_NAMES = (
    (r"^prompts$", "prompts"),
    (r"^layer_norm\.", "norms.0."),
    (r"^prompt_proj\.", "in_proj.0."),
    (r"^out_proj\.", "out_proj.0."),
)
_QKV = re.compile(r"^vit\.encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The largest difference of one recorded tensor and how much is allowed."""

    name: str
    largest: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.largest <= self.allowed


# --- names ----------------------------------------------------------------------------------------------------


def translate_vit(theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A ViT's parameters under timm's names (query, key and value joined), and the names that have no counterpart."""
    ours, unknown = _rename(theirs, _NAMES)
    parts: dict[str, dict[str, Tensor]] = {}
    for name in list(unknown):
        match = _QKV.match(name)
        if match:
            block, which, kind = match.groups()
            parts.setdefault(f"blocks.{block}.attn.qkv.{kind}", {})[which] = theirs[name]
            unknown.remove(name)
    for name, part in parts.items():
        ours[name] = torch.cat([part["query"], part["key"], part["value"]])
    return ours, unknown


def translate_side(theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The learnable parameters under our names, and the names that have no counterpart."""
    vit, unknown_vit = translate_vit(_under(theirs, "side_encoder."))
    fusion, unknown_fusion = _rename(_under(theirs, "fusion_module."), _FUSION_NAMES)
    ours = {name.replace("patch_embed.proj.", "patch_embed."): tensor for name, tensor in vit.items()}
    ours |= {f"fusion.{name}": tensor for name, tensor in fusion.items()}
    if "fusion.prompts" in ours:  # theirs are L 1 P D
        ours["fusion.prompts"] = ours["fusion.prompts"].squeeze(1)
    known = ("side_encoder.", "fusion_module.")
    others = [name for name in theirs if not name.startswith(known)]
    return ours, [*others, *(known[0] + name for name in unknown_vit), *(known[1] + name for name in unknown_fusion)]


def _rename(theirs: Mapping[str, Tensor], rules: tuple[tuple[str, str], ...]) -> tuple[dict[str, Tensor], list[str]]:
    ours: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in theirs.items():
        rule = next((rule for rule in rules if re.search(rule[0], name)), None)
        if rule is None:
            unknown.append(name)
        else:
            ours[re.sub(*rule, name)] = tensor
    return ours, unknown


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_checkpoint(path: str | Path, model: SideNetwork) -> list[str]:
    """Loads a checkpoint saved by the authors' code into our side network.

    Returns:
        The keys of the file that have no place in ours (the frozen LPM's, for instance).

    Raises:
        ConfigError: the file cannot be read, or parameters of ours are missing from it or have another shape.
    """
    path = Path(path)
    try:
        read: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:  # whatever a broken or hostile file makes the readers raise
        raise ConfigError(f"{path} cannot be read as a checkpoint ({type(error).__name__}: {error})") from error
    while isinstance(read, dict) and (
        inner := next((read[key] for key in ("state_dict", "model") if key in read), None)
    ):
        read = inner
    theirs = {re.sub(r"^(module\.|model\.)+", "", name): tensor for name, tensor in read.items()}
    ours, unfit = translate_side(theirs)
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in ours]
    shapes = [
        f"{name} {tuple(ours[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in ours and ours[name].shape != wanted[name].shape
    ]
    if missing or shapes:
        raise ConfigError(f"{path} does not fit this side network: missing {missing}, other shapes {shapes}")
    model.load_state_dict({name: ours[name] for name in wanted})
    return unfit + [name for name in ours if name not in wanted]


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
    weights, unknown = translate_side(_under(recorded, "model."))
    if unknown:
        raise ConfigError(f"parameters of the recording that have no place in ours: {unknown}")
    side.load_state_dict(weights)
    learnable = sum(parameter.numel() for parameter in side.parameters())
    found.append(Difference(name="learnable parameters", largest=abs(learnable - settings["learnable"]), allowed=0))
    return found + _compare_training(recorded, side, ours)


def _extract_layers(lpm: VisionTransformer, images: Tensor, settings: Mapping[str, Any], num_kept: int) -> Extracted:
    first = min(settings["layers"])
    importance = _IMPORTANCE[settings["token_importance"]]
    found = extract(lpm, images, depth=settings["depth"] - first, num_kept=num_kept, importance=importance)
    at = [layer - first for layer in settings["layers"]]
    return Extracted(*(part[at].clone() for part in found))


def _compare_training(recorded: Mapping[str, Tensor], side: nn.Module, ours: Extracted) -> list[Difference]:
    logits = side(recorded["low_res"], ours.keys, ours.values)
    loss = F.cross_entropy(logits, recorded["labels"])
    loss.backward()
    found = [
        Difference(name="logits", largest=_largest(logits, recorded["logits"]), allowed=LOGIT_TOLERANCE),
        Difference(name="loss", largest=_largest(loss, recorded["loss"].squeeze()), allowed=LOGIT_TOLERANCE),
    ]
    gradients, _ = translate_side(_under(recorded, "grad."))
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
    weights, unknown = translate_vit(_under(recorded, "lpm."))
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


# --- command --------------------------------------------------------------------------------------------------


def print_comparison(tensors: tyro.conf.Positional[Path], settings: tyro.conf.Positional[Path]) -> None:
    """Print the largest differences between a recording of the authors' code and ours; exit with 1 beyond tolerance."""
    found = compare(tensors, settings)
    for difference in found:
        verdict = "ok" if difference.ok else "DIFFERS"
        print(f"{difference.name:<60} {difference.largest:10.3g}  allowed {difference.allowed:<8g} {verdict}")
    if not all(difference.ok for difference in found):
        sys.exit(1)


def convert(
    checkpoint: tyro.conf.Positional[Path],
    output: tyro.conf.Positional[Path],
    num_classes: int,
    trial: Annotated[TrialConfig, tyro.conf.arg(name="")] = _PAPER,
) -> None:
    """Write the authors' checkpoint as our side network's weights (.safetensors) and say which keys did not fit."""
    model = SideNetwork(trial, backbone_shape(trial.backbone.name), num_classes)
    unfit = load_checkpoint(checkpoint, model)
    save_file(model.state_dict(), output)
    print(f"{output}: {sum(tensor.numel() for tensor in model.state_dict().values()):,} parameters")
    print(f"keys that did not fit: {', '.join(unfit) or 'none'}")


def main() -> None:
    """Parse the command line and run its verb."""
    tyro.extras.subcommand_cli_from_dict({"compare": print_comparison, "convert": convert}, description=__doc__)


if __name__ == "__main__":
    run_command(main)
