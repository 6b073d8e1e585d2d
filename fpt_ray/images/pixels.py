"""Pixels as a network takes them: normalised."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def normalise(
    images: UInt8[Tensor, "B R R 3"] | Float[Tensor, "B 3 R R"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "B 3 R R"]:
    """Images as a ViT takes them: (image - mean) / std per channel, of bytes or of floats in 0..1."""
    if images.dtype == torch.uint8:
        images = unit_range(images)
    centre, spread = (images.new_tensor(tuple(values)).view(1, 3, 1, 1) for values in (mean, std))
    return (images - centre) / spread


def unit_range(images: UInt8[Tensor, "B R R 3"]) -> Float[Tensor, "B 3 R R"]:
    """Bytes 0..255 as numbers 0..1, channels first."""
    return images.permute(0, 3, 1, 2).float() / 255
