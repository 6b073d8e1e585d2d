"""Checkpoints of the authors' code, read by their parameter names into our model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fpt_ray.errors import ConfigError
from fpt_ray.models.side_network import SideNetwork

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


def translate_vit(theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A ViT's parameters under timm's names (query, key and value joined), and the names that have no counterpart."""
    ours, unknown = _rename(theirs, _NAMES)
    parts: dict[str, dict[str, Tensor]] = {}
    for name in list(unknown):
        match = _QKV.match(name)
        if match:
            block, layer, kind = match.groups()
            parts.setdefault(f"blocks.{block}.attn.qkv.{kind}", {})[layer] = theirs[name]
            unknown.remove(name)
    for name, part in parts.items():
        ours[name] = torch.cat([part["query"], part["key"], part["value"]])
    return ours, unknown


def translate_side(theirs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The learnable parameters under our names, and the names that have no counterpart."""
    vit, unknown_vit = translate_vit(under(theirs, "side_encoder."))
    fusion, unknown_fusion = _rename(under(theirs, "fusion_module."), _FUSION_NAMES)
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


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What stands under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_authors_checkpoint(path: str | Path, model: SideNetwork) -> list[str]:
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
