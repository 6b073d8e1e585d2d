"""Preloading as the authors' procedure does it, written from the paper and from facts of their code.

The LPM runs in float32 to its end, and every layer's attention is computed as plain products whose maps are kept, as a
library gives them that is asked for attentions. The mean of a head's map over all queries says how important a token is
(section 3.5), and each image becomes a float32 file. Queries, keys and values come of one product, as in ours, which is
in its favour.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from safetensors.torch import save_file
from timm.layers.attention import Attention
from torch import Tensor

from fpt_ray.config.trial import TrialConfig
from fpt_ray.errors import ConfigError
from fpt_ray.images.pixels import normalise
from fpt_ray.models.backbone import ViT, backbone_shape, blocks_read, kept_tokens
from fpt_ray.models.weights import load_backbone

_Attended = tuple[Float[Tensor, "B H N E"], Float[Tensor, "B H N E"], Float[Tensor, "B H N N"]]
"""Keys, values and map of a layer."""
PlainFeatures = tuple[Float[Tensor, "L B H T E"], Float[Tensor, "L B H T E"]]
"""Keys and values of the important tokens, best first."""


def plain_extractor(
    model: ViT, blocks: Sequence[int], num_kept: int
) -> Callable[[Float[Tensor, "B 3 R R"]], PlainFeatures]:
    """Makes an LPM run as the authors run theirs, and gives what takes features of normalised images from it.

    Raises:
        ConfigError: its attention is another than theirs.
    """
    attended: list[_Attended] = []
    layers: list[Any] = [block.attn for block in model.blocks]
    if not all(isinstance(attention, Attention) for attention in layers):
        raise ConfigError(f"backbone.name: the authors' way of a {type(model).__name__} is not known; take a plain ViT")
    for attention in layers:
        attention.forward = partial(_attend, attention, attended)  # type: ignore[method-assign]

    @torch.no_grad()
    def extract(images: Tensor) -> PlainFeatures:
        attended.clear()
        model.forward_features(images)
        found = [_important(attended[block], num_kept) for block in blocks]
        keys, values = (torch.stack(kind) for kind in zip(*found, strict=True))
        return keys, values

    return extract


def _attend(
    attention: Attention, attended: list[_Attended], tokens: Float[Tensor, "B N D"], **_unmasked: object
) -> Float[Tensor, "B N D"]:
    split = attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    queries, keys, values = split.unbind(0)
    queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    scores = queries @ keys.transpose(-2, -1)
    maps = (scores * attention.scale).softmax(dim=-1)
    attended.append((keys, values, maps))
    return attention.proj((maps @ values).transpose(1, 2).flatten(-2))


def _important(attended: _Attended, num_kept: int) -> tuple[Float[Tensor, "B H T E"], Float[Tensor, "B H T E"]]:
    keys, values, maps = attended
    tokens = maps.mean(dim=2).topk(num_kept).indices
    at = tokens.unsqueeze(-1).expand(-1, -1, -1, keys.shape[-1])
    return keys.gather(2, at), values.gather(2, at)


def plain_preload(images: Iterable[Path], trial: TrialConfig, folder: Path, device: torch.device) -> None:
    """Loads the LPM, and writes a file of float32 keys and values for each image, one image after the other."""
    shape, resolution = backbone_shape(trial.backbone.name), trial.features.resolution
    model = load_backbone(trial.backbone, resolution).to(device)
    kept = kept_tokens(shape.num_tokens(resolution), trial.features.token_ratio)
    extract = plain_extractor(model, blocks_read(trial.side, shape), kept)
    for path in images:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((resolution, resolution), Image.Resampling.BICUBIC)
        pixels = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(1, resolution, resolution, 3)
        keys, values = extract(normalise(pixels.to(device), shape.mean, shape.std))
        save_features(path, folder, keys[:, 0], values[:, 0])


def save_features(image: Path, folder: Path, keys: Float[Tensor, "L H T E"], values: Float[Tensor, "L H T E"]) -> None:
    """Writes an image's features as the authors keep them: a file in float32, named by the image's stem alone."""
    tensors = {"keys": keys, "values": values}
    save_file({name: kind.float().cpu().contiguous() for name, kind in tensors.items()}, features_file(image, folder))


def features_file(image: Path, folder: Path) -> Path:
    """Where an image's features are."""
    return folder / f"{image.stem}.safetensors"
