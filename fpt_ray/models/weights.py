"""The weights of the frozen ViT: from timm by name, or from a file; their digest."""

import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from timm.models import beit, eva, vision_transformer
from torch import Tensor, nn

from fpt_ray.config.trial import BackboneConfig
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.models.backbone import ViT, backbone_shape, check_resolution, create_vit
from fpt_ray.models.published import backbone_state, dropped_text, read_checkpoint
from fpt_ray.storage.files import exists, local_copy, local_path

RANDOM_WEIGHTS = "random"
_FAMILIES: dict[type, Any] = {eva.Eva: eva, beit.Beit: beit}
"""timm's modules, of which each reads checkpoints in its own way."""
_FIELDS = ("backbone.weights", "backbone")
"""What says where the weights are: of a trial, and of a bundle that is applied."""
_WHOLE = {"fpt_ray": "backbone"}
"""Metadata of a file that ``backbone_bytes`` made: it has each weight of the LPM by its name here."""


# --- loading --------------------------------------------------------------------------------------------------


def load_backbone(config: BackboneConfig, resolution: int) -> ViT:
    """The frozen ViT without its head, in evaluation mode, its position table interpolated to the resolution.

    Raises:
        ConfigError: the name, the weights or the resolution cannot be used; the message says what to do.
    """
    check_resolution(backbone_shape(config.name), resolution)
    model = _load_headless(config)
    digest = _digest(model)
    set_resolution(model, resolution)
    model.weights_digest = digest  # type: ignore[assignment]
    return model.eval().requires_grad_(False)


def set_resolution(model: ViT, resolution: int) -> None:
    """Interpolates the positions of a ViT, which may be a table of them or, of BEiT, of their differences."""
    with warnings.catch_warnings():  # timm interpolates a table of differences by what PyTorch will refuse one day
        warnings.filterwarnings(
            "ignore", ".*non-contiguous|.*non-tuple sequence", UserWarning, "timm.layers.interpolate"
        )
        model.set_input_size(img_size=(resolution, resolution))


def known_weights(backbones: Iterable[BackboneConfig], folder: str) -> dict[BackboneConfig, str]:
    """{backbone: digest of its weights}, for each also as ``anchored`` in this folder.

    Raises:
        ConfigError: weights cannot be had or read.
    """
    found: dict[BackboneConfig, str] = {}
    for backbone in backbones:
        found[backbone] = found[anchored(backbone, folder)] = _digest(_load_headless(backbone))
    return found


def _load_headless(config: BackboneConfig) -> ViT:
    if config.weights is None:
        model = _from_timm(config.name)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = create_vit(config.name, pretrained=False)
        if config.weights != RANDOM_WEIGHTS:
            _check_there(config.weights)
            with local_copy(config.weights) as path:
                _load_file(model, path)
    model.reset_classifier(0)
    return model


def check_packable(config: BackboneConfig) -> None:
    """ConfigError if the LPM's weights do not suffice to build it: its name says where its shape is to be had."""
    if ":" in config.name:
        raise ConfigError(
            f"with_backbone: backbone.name is {config.name!r}, a folder or hub that would be needed still; give a "
            "model by the name that timm has for it, and its file as backbone.weights",
            fields=("with_backbone",),
        )


def backbone_bytes(config: BackboneConfig, digest: str) -> bytes:
    """The LPM's weights without its head as a .safetensors file, which has this digest when it is loaded.

    Raises:
        ConfigError: they cannot be had, are others, or do not suffice.
    """
    check_packable(config)
    model = _load_headless(config)
    if (found := _digest(model)) != digest:
        raise ConfigError(
            f"backbone.weights (SHA-256) is {found[:12]}... of {config.weights or 'timm'}, not {digest[:12]}...; give "
            "the file that was trained with",
            fields=("backbone",),
        )
    return save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, metadata=_WHOLE)


def anchored(config: BackboneConfig, folder: str) -> BackboneConfig:
    """The same backbone, its weights' path found from this folder if it is relative: workers run in other folders."""
    if config.weights is None or config.weights == RANDOM_WEIGHTS or (path := local_path(config.weights)) is None:
        return config
    return replace(config, weights=str(Path(folder, path)))


def unloaded_backbone(config: BackboneConfig, resolution: int) -> ViT:
    """``load_backbone`` without its weights, for a ``meta`` device."""
    check_resolution(backbone_shape(config.name), resolution)
    model: Any = timm.create_model(config.name, img_size=resolution, num_classes=0)
    return model.requires_grad_(False)


def weights_digest(model: ViT) -> str:
    """SHA-256 of the names and bytes of a loaded backbone's weights, before interpolation and without the head."""
    return str(model.weights_digest)


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _from_timm(name: str) -> ViT:
    try:
        return create_vit(name, pretrained=True)
    except ConfigError:
        raise
    except Exception as error:  # timm raises what its hub's client, the network and the file system raise
        raise ConfigError(
            f"backbone.weights: timm's weights of {name!r} cannot be had ({type(error).__name__}); connect to the "
            "network, or give a local .safetensors, .pth or .onnx file",
            fields=_FIELDS,
        ) from error


def _check_there(weights: str) -> None:
    if not exists(weights):
        problem = f"backbone.weights: there is no file {weights}; give a .safetensors, .pth or .onnx file"
        raise ConfigError(problem, fields=_FIELDS)


def _load_file(model: ViT, path: Path) -> None:
    if _is_whole(path):
        try:
            model.load_state_dict(load_file(path), strict=False)  # the head, which it lacks, is removed
        except RuntimeError:
            raise ConfigError(f"backbone.weights: {path} is of another model than backbone.name says") from None
        return
    family = next((one for kind, one in _FAMILIES.items() if isinstance(model, kind)), vision_transformer)
    state, dropped = _read_weights(path)
    if dropped:
        _say_once(f"weights: {path}: not of the backbone and dropped: {dropped_text(dropped)}")
    state = family.checkpoint_filter_fn(state, model)  # type: ignore[arg-type]
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


def _is_whole(path: Path) -> bool:
    """Whether a file is one of ``backbone_bytes``: no other is so marked."""
    if path.suffix != ".safetensors":
        return False
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() == _WHOLE
    except Exception:  # whatever a broken file makes the reader raise; who reads it whole says so
        return False


@cache
def _say_once(message: str) -> None:
    """A study loads the weights of a file several times."""
    say(message)


def _read_weights(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """(the backbone's weights, names of what else the file has)."""
    if path.suffix == ".onnx":
        from fpt_ray.models.onnx_weights import read_onnx

        return backbone_state(read_onnx(path))
    if path.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
        raise ConfigError(f"backbone.weights: {path} must end in .safetensors, .pth or .onnx")
    try:
        return backbone_state(read_checkpoint(path))
    except Exception as error:  # whatever a broken or hostile file makes the readers raise
        raise ConfigError(
            f"backbone.weights: {path} cannot be read as weights ({type(error).__name__}: {error})"
        ) from error
