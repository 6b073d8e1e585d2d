"""The frozen large pre-trained model (LPM): what its name determines, and its weights from timm or a file.

Any timm Vision Transformer with plain attention blocks serves.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from fpt_ray.config import BackboneConfig, ConfigError, Precision
from fpt_ray.storage import exists, is_s3, local_copy

RANDOM_WEIGHTS = "random"


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
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def num_tokens(self, resolution: int) -> int:
        """N at a resolution in pixels."""
        return (resolution // self.patch_size) ** 2 + self.num_prefix_tokens


@lru_cache(maxsize=32)
def backbone_shape(name: str) -> BackboneShape:
    """The geometry of a timm ViT, without weights.

    Raises:
        ConfigError: timm does not know the name, or the architecture has no plain attention blocks.
    """
    with torch.device("meta"):
        model = _create(name, pretrained=False)
    attention = _attentions(model, name)
    data: Mapping[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    patch_height, patch_width = model.patch_embed.patch_size
    if patch_height != patch_width:
        raise ConfigError(f"backbone.name is {name!r}; its patches are {patch_height}x{patch_width}, not square")
    return BackboneShape(
        name=name,
        depth=len(attention),
        width=model.embed_dim,
        num_heads=attention[0].num_heads,
        head_width=attention[0].head_dim,
        patch_size=patch_height,
        num_prefix_tokens=model.num_prefix_tokens,
        mean=data["mean"],
        std=data["std"],
    )


def check_resolution(shape: BackboneShape, resolution: int, name: str = "features.resolution") -> None:
    """ConfigError unless the resolution is a multiple of the patch; it offers the two nearest."""
    if resolution % shape.patch_size:
        below = resolution // shape.patch_size * shape.patch_size
        near = [str(size) for size in (below, below + shape.patch_size) if size > 0]
        raise ConfigError(
            f"{name} is {resolution}; {shape.name} has patches of {shape.patch_size} pixels, take {' or '.join(near)}"
        )


def check_depth(shape: BackboneShape, depth: int) -> None:
    """ConfigError if the side network has more layers than the backbone."""
    if depth > shape.depth:
        raise ConfigError(f"side.depth is {depth}; {shape.name} has {shape.depth} blocks, take at most {shape.depth}")


def kept_tokens(num_tokens: int, token_ratio: float) -> int:
    """T: tokens kept of N (section 3.5), at least one."""
    return max(1, int(num_tokens * token_ratio))


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The backbone's arithmetic on a device; auto is bfloat16 where the hardware multiplies it."""
    if precision != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


# --- loading --------------------------------------------------------------------------------------------------


def load_backbone(config: BackboneConfig, resolution: int) -> VisionTransformer:
    """The frozen ViT without its head, in evaluation mode, its position table interpolated to the resolution.

    Raises:
        ConfigError: the name, the weights or the resolution cannot be used; the message says what to do.
    """
    shape = backbone_shape(config.name)
    check_resolution(shape, resolution)
    if config.weights is None:
        model = _from_timm(config.name)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = _create(config.name, pretrained=False)
        if config.weights != RANDOM_WEIGHTS:
            _check_there(config.weights)
            with local_copy(config.weights) as path:
                _load_file(model, path)
    model.reset_classifier(0)
    digest = _digest(model)
    model.set_input_size(img_size=(resolution, resolution))
    model.weights_digest = digest  # type: ignore[assignment]
    return model.eval().requires_grad_(False)


def anchored(config: BackboneConfig, folder: str) -> BackboneConfig:
    """The same backbone, its weights' path found from this folder if it is relative: workers run in other folders."""
    if config.weights in (None, RANDOM_WEIGHTS) or is_s3(str(config.weights)):
        return config
    return replace(config, weights=str(Path(folder, str(config.weights))))


def unloaded_backbone(config: BackboneConfig, resolution: int) -> VisionTransformer:
    """``load_backbone`` without its weights, for a ``meta`` device."""
    check_resolution(backbone_shape(config.name), resolution)
    model: Any = timm.create_model(config.name, img_size=resolution, num_classes=0)
    return model.requires_grad_(False)


def weights_digest(model: VisionTransformer) -> str:
    """SHA-256 of the names and bytes of a loaded backbone's weights, before interpolation and without the head."""
    return str(model.weights_digest)


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _create(name: str, pretrained: bool) -> VisionTransformer:
    try:
        model = timm.create_model(name, pretrained=pretrained)
    except RuntimeError as error:
        if "Unknown model" not in str(error) and "Invalid pretrained tag" not in str(error):
            raise
        known = timm.list_models(f"*{name.split('.')[0][:14]}*")[:8] or [
            "vit_base_patch16_384",
            "vit_small_patch14_dinov2",
        ]
        raise ConfigError(f"backbone.name is {name!r}; timm has no such model, near are {', '.join(known)}") from None
    if not isinstance(model, VisionTransformer):
        raise _unsupported(name)
    _attentions(model, name)
    return model


def _attentions(model: VisionTransformer, name: str) -> list[Attention]:
    attentions = [getattr(block, "attn", None) for block in model.blocks]
    if not all(type(attention) is Attention for attention in attentions) or model.cls_token is None:
        raise _unsupported(name)
    return attentions  # type: ignore[return-value]


def _unsupported(name: str) -> ConfigError:
    return ConfigError(
        f"backbone.name is {name!r}, no Vision Transformer with plain attention blocks and a class token; "
        "these work: vit_{tiny,small,base,large}_patch{8,14,16}_*, deit_*, DINO (vit_*.dino), DINOv2 "
        "(vit_*_patch14_dinov2, vit_*_patch14_reg4_dinov2)"
    )


def _from_timm(name: str) -> VisionTransformer:
    try:
        return _create(name, pretrained=True)
    except ConfigError:
        raise
    except Exception as error:  # timm raises what its hub's client, the network and the file system raise
        raise ConfigError(
            f"backbone.weights: timm's weights of {name!r} cannot be had ({type(error).__name__}); connect to the "
            "network, or give a local file: --backbone.weights FILE.safetensors, .pth or .onnx"
        ) from error


def _check_there(weights: str) -> None:
    if not exists(weights):
        raise ConfigError(f"backbone.weights: there is no file {weights}; give a .safetensors, .pth or .onnx file")


def _load_file(model: VisionTransformer, path: Path) -> None:
    state = _without_head(checkpoint_filter_fn(_read_weights(path), model))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if name in shapes and tensor.shape != shapes[name]:
            raise ConfigError(
                f"backbone.weights: {path} is of another size than backbone.name: {name} is {tuple(tensor.shape)}, "
                f"not {tuple(shapes[name])}; give the name these weights belong to"
            )
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith(("head", "fc_norm"))]
    if missing or unexpected:
        raise ConfigError(
            f"backbone.weights: {path} does not fit a ViT of width {model.embed_dim} and depth {len(model.blocks)}: no "
            f"{missing[:3]} ({len(missing)} in all), unknown {list(unexpected)[:3]} ({len(unexpected)} in all)"
        )


def _without_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(("head.", "fc_norm."))}


def _read_weights(path: Path) -> dict[str, Any]:
    if path.suffix == ".onnx":
        from fpt_ray.onnx_weights import read_onnx

        return dict(read_onnx(path))
    if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise ConfigError(f"backbone.weights: {path} must end in .safetensors, .pth or .onnx")
    try:
        return timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # whatever a broken or hostile file makes the readers raise
        raise ConfigError(
            f"backbone.weights: {path} cannot be read as weights ({type(error).__name__}: {error})"
        ) from error
