"""Augmentation of side images: crop, flip, brightness and contrast, keyed by (seed, epoch, row)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from fpt_ray.images.pixels import unit_range

# The authors' augmentation of the side image.
AREA_SHARE = (0.8, 1.0)
ASPECT = (0.7, 1.3)
FLIP_PROBABILITY = 0.5
JITTER = (0.8, 1.2)
GREY_WEIGHTS = (0.2989, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """What happens to one image: the crop in pixels, then the flip, then the two factors of colour."""

    top: int
    left: int
    height: int
    width: int
    flip: bool
    brightness: float
    contrast: float
    brightness_first: bool
    """Whether brightness comes before contrast; ColorJitter of torchvision shuffles the two."""


def draw_augmentation(size: int, *, seed: int, epoch: int, row: int) -> Augmentation:
    """The augmentation of a row in an epoch: a function of (seed, epoch, row) and of the image's side in pixels.

    The crop is drawn as torchvision's RandomResizedCrop does: a share of the area, a log-uniform aspect, ten attempts
    to fit them, then the whole of the (square) image.
    """
    random = np.random.default_rng((seed, epoch, row))
    top, left, height, width = 0, 0, size, size
    for _ in range(10):
        area = size * size * random.uniform(*AREA_SHARE)
        aspect = math.exp(random.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        tried_width, tried_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < tried_width <= size and 0 < tried_height <= size:
            height, width = tried_height, tried_width
            top = int(random.integers(size - height + 1))
            left = int(random.integers(size - width + 1))
            break
    return Augmentation(
        top=top,
        left=left,
        height=height,
        width=width,
        flip=bool(random.random() < FLIP_PROBABILITY),
        brightness=random.uniform(*JITTER),
        contrast=random.uniform(*JITTER),
        brightness_first=bool(random.random() < 0.5),
    )


def augment(
    images: UInt8[Tensor, "B R R 3"], *, seed: int, epoch: int, rows: Sequence[int]
) -> Float[Tensor, "B 3 R R"]:
    """Randomly cropped, flipped and coloured copies in 0..1; ``rows`` says which image of the split each one is.

    An image's result depends on (seed, epoch, row) alone, neither on the rest of its batch nor on the worker.
    The crop is resampled bilinearly, equal to ``F.interpolate(crop, align_corners=False)``; as it is never larger than
    the image, there is nothing to antialias.
    """
    size = images.shape[1]
    draws = [draw_augmentation(size, seed=seed, epoch=epoch, row=int(row)) for row in rows]
    if len(draws) != len(images):
        raise ValueError(f"{len(images)} images but {len(draws)} rows")
    cropped = F.grid_sample(
        unit_range(images),
        _grid(draws, size, images.device),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return _colour(cropped, draws)


def _grid(draws: Sequence[Augmentation], size: int, device: torch.device) -> Float[Tensor, "B R R 2"]:
    def column(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device).view(-1, 1)

    def centres(start: Tensor, length: Tensor, steps: Tensor) -> Float[Tensor, "B R"]:
        inside = (steps + 0.5) * length / size - 0.5
        inside = inside.clamp(min=0).minimum(length - 1)  # a crop ends at its edge: no pixel beyond it is mixed in
        return (2 * (start + inside) + 1) / size - 1

    steps = torch.arange(size, dtype=torch.float64, device=device)
    flip = column([draw.flip for draw in draws]).bool()
    across = torch.where(flip, steps.flip(0), steps)
    x = centres(column([draw.left for draw in draws]), column([draw.width for draw in draws]), across)
    y = centres(column([draw.top for draw in draws]), column([draw.height for draw in draws]), steps)
    shape = (len(draws), size, size)
    return torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=-1).float()


def _colour(images: Float[Tensor, "B 3 R R"], draws: Sequence[Augmentation]) -> Float[Tensor, "B 3 R R"]:
    def factors(values: list[float]) -> Float[Tensor, "B 1 1 1"]:
        return images.new_tensor(values).view(-1, 1, 1, 1)

    before = factors([draw.brightness if draw.brightness_first else 1.0 for draw in draws])
    after = factors([1.0 if draw.brightness_first else draw.brightness for draw in draws])
    contrast = factors([draw.contrast for draw in draws])
    images = (images * before).clamp(0, 1)
    grey = (images * images.new_tensor(GREY_WEIGHTS).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    # Summed in float64, so that the order of summation, which depends on the batch, does not show in float32.
    mean = grey.mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64).to(images.dtype)
    images = (contrast * images + (1 - contrast) * mean).clamp(0, 1)
    return (images * after).clamp(0, 1)
