"""The frozen large pre-trained model (LPM): what its name determines.

Any timm Vision Transformer serves whose blocks have one attention each, with as many heads of keys as of queries: with
or without a class token, with learnt, rotary (DINOv3, EVA-02) or relative positions (BEiT), and however it pools
(SigLIP).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.attention import Attention, AttentionRope
from timm.models import beit
from timm.models.eva import Eva, EvaAttention
from timm.models.vision_transformer import VisionTransformer

from fpt_ray.config.trial import EVEN, PATTERNS, Precision, SideConfig
from fpt_ray.errors import ConfigError
from fpt_ray.models.hardware import Hardware

ViT = VisionTransformer | Eva | beit.Beit
_ATTENTIONS = (Attention, AttentionRope, EvaAttention, beit.Attention)


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneShape:
    """What a backbone's name alone determines."""

    name: str
    depth: int
    width: int
    num_heads: int
    head_width: int
    patch_size: int
    num_prefix_tokens: int
    """The class token and registers, as far as it has them."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    has_class_token: bool = True
    plain_attention: bool = True
    """One projection gives queries, keys and values, which are attended to as they are: not rotated, without bias."""

    def num_tokens(self, resolution: int) -> int:
        """N at a resolution in pixels."""
        return (resolution // self.patch_size) ** 2 + self.num_prefix_tokens


@lru_cache(maxsize=32)
def backbone_shape(name: str) -> BackboneShape:
    """The geometry of a timm ViT, without weights.

    Raises:
        ConfigError: timm does not know the name, or the architecture is none of those that serve.
    """
    with torch.device("meta"):
        model = create_vit(name, pretrained=False)
    attention = _attentions(model, name)
    data: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    embedding: Any = model.patch_embed
    patch_height, patch_width = embedding.patch_size
    if patch_height != patch_width:
        raise ConfigError(f"backbone.name is {name!r}; its patches are {patch_height}x{patch_width}, not square")
    return BackboneShape(
        name=name,
        depth=len(attention),
        width=model.embed_dim,
        num_heads=attention[0].num_heads,
        head_width=model.embed_dim // attention[0].num_heads,
        patch_size=patch_height,
        num_prefix_tokens=model.num_prefix_tokens,
        has_class_token=model.cls_token is not None,
        plain_attention=all(isinstance(one, Attention) for one in attention),
        mean=tuple(data["mean"]),  # a folder's are lists, out of JSON
        std=tuple(data["std"]),
    )


def check_resolution(shape: BackboneShape, resolution: int, name: str = "features.resolution") -> None:
    """ConfigError unless the resolution is a multiple of the patch; it offers the two nearest."""
    if resolution % shape.patch_size:
        below = resolution // shape.patch_size * shape.patch_size
        near = [str(size) for size in (below, below + shape.patch_size) if size > 0]
        raise ConfigError(
            f"{name} is {resolution}; {shape.name} has patches of {shape.patch_size} pixels, take {' or '.join(near)}"
        )


def blocks_read(side: SideConfig, shape: BackboneShape) -> tuple[int, ...]:
    """The LPM's blocks, from 0, that the layers of the side network read, in order (Eq. 5 has the last L_S).

    Raises:
        ConfigError: the LPM has fewer, or the listed ones are not so many, not numbers or not in order.
    """
    blocks = listed_blocks(side.blocks, side.depth, shape)
    if len(blocks) != side.depth:
        raise ConfigError(f"side.blocks is {side.blocks!r}, which are {len(blocks)}, and side.depth is {side.depth}")
    return blocks


def listed_blocks(blocks: str, depth: int, shape: BackboneShape) -> tuple[int, ...]:
    """The blocks of a text as ``side.blocks`` has it; of a pattern, so many.

    Of 12 blocks, 3 are: last 9, 10, 11; two_thirds 6, 7, 8; middle 4, 5, 6; even 3, 7, 11.

    Raises:
        ConfigError: the LPM has fewer, or they are neither a pattern nor numbers in order.
    """
    if blocks in PATTERNS:
        if depth > shape.depth:
            most = f"{shape.name} has {shape.depth} blocks, take at most {shape.depth}"
            raise ConfigError(f"side.depth is {depth}; {most}")
        if blocks == EVEN:
            return tuple((layer + 1) * shape.depth // depth - 1 for layer in range(depth))
        first = {
            "last": shape.depth - depth,
            "two_thirds": max(0, 2 * shape.depth // 3 + 1 - depth),
            "middle": (shape.depth - depth) // 2,
        }[blocks]
        return tuple(range(first, first + depth))
    parts = [part.strip() for part in blocks.split(",")]
    numbers = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    rising = len(numbers) == len(parts) and all(one < other for one, other in itertools.pairwise(numbers))
    if not rising or numbers[-1] >= shape.depth:
        raise ConfigError(
            f"side.blocks is {blocks!r}; give {', '.join(PATTERNS)}, or numbers from 0 to {shape.depth - 1} in rising "
            "order with commas between"
        )
    return numbers


def kept_tokens(num_tokens: int, token_ratio: float) -> int:
    """T: tokens kept of N (section 3.5), at least one."""
    return max(1, int(num_tokens * token_ratio))


def resolve_precision(precision: Precision, hardware: Hardware) -> torch.dtype:
    """The backbone's arithmetic on such hardware; auto is bfloat16 where it multiplies that."""
    if precision == "auto":
        return torch.bfloat16 if hardware.has_bfloat16 else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]


def create_vit(name: str, pretrained: bool) -> ViT:
    """The ViT that timm knows by a name, with its head.

    Raises:
        ConfigError: timm does not know the name, what it names on a disk or a hub cannot be had, or the architecture is
            none of those that serve.
    """
    if name.startswith("local-dir:") and not Path(name.removeprefix("local-dir:")).is_absolute():
        raise ConfigError(f"backbone.name is {name!r}; give the folder from the root: workers run in other folders")
    try:
        model = timm.create_model(name, pretrained=pretrained)
    except Exception as error:  # what a hub's client, the network and the file system raise
        if ":" in name:
            raise ConfigError(
                f"backbone.name is {name!r}, which cannot be had ({type(error).__name__}: {str(error)[:200]}); give a "
                "folder that every host has, or connect to the network"
            ) from error
        if "Unknown model" not in str(error) and "Invalid pretrained tag" not in str(error):
            raise
        known = timm.list_models(f"*{name.split('.')[0][:14]}*")[:8] or [
            "vit_base_patch16_384",
            "vit_small_patch14_dinov2",
        ]
        raise ConfigError(f"backbone.name is {name!r}; timm has no such model, near are {', '.join(known)}") from None
    if not isinstance(model, ViT):
        raise _unsupported(name, f"it is a {type(model).__name__}")
    _attentions(model, name)
    return model


def _attentions(model: ViT, name: str) -> list[Any]:
    attentions: list[Any] = [getattr(block, "attn", None) for block in model.blocks]
    for attention in attentions:
        if type(attention) not in _ATTENTIONS:
            raise _unsupported(name, f"its blocks attend by {type(attention).__name__}")
        if getattr(attention, "num_kv_groups", 1) > 1:
            raise _unsupported(name, "it has fewer heads of keys than of queries")
        if attention.proj.in_features != model.embed_dim:
            raise _unsupported(name, "its heads are not as wide together as its tokens")
    return attentions


def _unsupported(name: str, why: str) -> ConfigError:
    return ConfigError(
        f"backbone.name is {name!r}, which does not serve: {why}. These work: vit_{{tiny,small,base,large}}_patch*_*, "
        "deit_*, DINO (vit_*.dino), DINOv2 (vit_*_dinov2), DINOv3 (vit_*_dinov3), EVA-02 (eva02_*), BEiT "
        "(beit_*, beitv2_*), SigLIP (vit_*_siglip_*), vit_*_rope_*"
    )


def uses_bfloat16(precision: Precision, hardware: Hardware) -> bool:
    """Whether the side network computes in bfloat16 autocast; auto: on a GPU that has it."""
    if precision == "auto":
        return hardware.device == "cuda" and hardware.has_bfloat16
    return precision == "bfloat16"
