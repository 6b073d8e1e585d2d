"""Augmentation of side images: crop, flip, turn, blur, brightness and contrast, keyed by (seed, epoch, row)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from fpt_ray.config.augmentation import AugmentConfig
from fpt_ray.images.pixels import unit_range

ASPECT = (0.7, 1.3)
"""Of a crop, as in the authors' code."""
GREY_WEIGHTS = (0.2989, 0.587, 0.114)


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """What happens to one image: it is turned, cropped and flipped, blurred, and coloured by two factors."""

    top: int
    left: int
    height: int
    width: int
    flip: bool
    brightness: float
    contrast: float
    brightness_first: bool
    """Whether brightness comes before contrast; ColorJitter of torchvision shuffles the two."""
    flip_vertically: bool
    degrees: float
    """Counter-clockwise."""
    sigma: float
    """Of the blur, in pixels."""


def draw_augmentation(size: int, settings: AugmentConfig, *, seed: int, epoch: int, row: int) -> Augmentation:
    """The augmentation of a row in an epoch: a function of (seed, epoch, row) and of the image's side in pixels.

    The crop is drawn as torchvision's RandomResizedCrop does: a share of the area, a log-uniform aspect, ten attempts
    to fit them, then the whole of the (square) image. All is drawn whether it is used or not, the authors' first, so
    that one setting changes no other draw.
    """
    random = np.random.default_rng((seed, epoch, row))
    top, left, height, width = 0, 0, size, size
    for _ in range(10):
        area = size * size * random.uniform(settings.min_area, 1.0)
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
        flip=bool(random.random() < settings.horizontal_flip),
        brightness=random.uniform(1 - settings.jitter, 1 + settings.jitter),
        contrast=random.uniform(1 - settings.jitter, 1 + settings.jitter),
        brightness_first=bool(random.random() < 0.5),
        flip_vertically=bool(random.random() < settings.vertical_flip),
        degrees=random.uniform(-1.0, 1.0) * settings.rotation_degrees,
        sigma=random.random() * settings.blur_sigma,
    )


def augment(
    images: UInt8[Tensor, "B R R 3"], settings: AugmentConfig, *, seed: int, epoch: int, rows: Sequence[int]
) -> Float[Tensor, "B 3 R R"]:
    """Randomly changed copies in 0..1; ``rows`` says which image of the split each one is.

    An image's result depends on (seed, epoch, row) alone, neither on the rest of its batch nor on the worker.
    The crop is resampled bilinearly, equal to ``F.interpolate(crop, align_corners=False)``; as it is never larger than
    the image, there is nothing to antialias. It ends at its edge, whose pixels fill what a turn brings in beyond it.
    """
    size = images.shape[1]
    draws = [draw_augmentation(size, settings, seed=seed, epoch=epoch, row=int(row)) for row in rows]
    if len(draws) != len(images):
        raise ValueError(f"{len(images)} images but {len(draws)} rows")
    cropped = F.grid_sample(
        unit_range(images),
        _grid(draws, size, images.device),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return _colour(_blurred(cropped, draws, settings.blur_sigma), draws)


def _grid(draws: Sequence[Augmentation], size: int, device: torch.device) -> Float[Tensor, "B R R 2"]:
    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=device).view(-1, 1, 1)

    def centres(start: Tensor, length: Tensor, steps: Tensor) -> Float[Tensor, "B _ _"]:
        inside = (steps + 0.5) * length / size - 0.5
        inside = inside.clamp(min=0).minimum(length - 1)  # a crop ends at its edge: no pixel beyond it is mixed in
        return (2 * (start + inside) + 1) / size - 1

    steps = torch.arange(size, dtype=torch.float64, device=device)
    x, y = steps.view(1, 1, -1), steps.view(1, -1, 1)
    if any(draw.degrees for draw in draws):
        angle, middle = column([math.radians(draw.degrees) for draw in draws]), (size - 1) / 2
        right, below = x - middle, y - middle
        x, y = middle + angle.cos() * right - angle.sin() * below, middle + angle.sin() * right + angle.cos() * below
    x = torch.where(column([draw.flip for draw in draws]).bool(), size - 1 - x, x)
    y = torch.where(column([draw.flip_vertically for draw in draws]).bool(), size - 1 - y, y)
    x = centres(column([draw.left for draw in draws]), column([draw.width for draw in draws]), x)
    y = centres(column([draw.top for draw in draws]), column([draw.height for draw in draws]), y)
    shape = (len(draws), size, size)
    return torch.stack((x.float().expand(shape), y.float().expand(shape)), dim=-1)


def _blurred(
    images: Float[Tensor, "B 3 R R"], draws: Sequence[Augmentation], largest: float
) -> Float[Tensor, "B 3 R R"]:
    """Along one axis and then the other, tap by tap, so that an image's result does not depend on its batch."""
    if not largest:
        return images
    reach = min(math.ceil(3 * largest), images.shape[-1] - 1)
    taps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    sigmas = torch.tensor([draw.sigma for draw in draws], dtype=torch.float64).clamp(min=1e-3)
    weights = torch.exp(-((taps / sigmas[:, None]) ** 2) / 2)
    weights = (weights / weights.sum(dim=1, keepdim=True)).to(images)
    for axis in (2, 3):
        places = torch.arange(images.shape[axis], device=images.device)
        blurred = torch.zeros_like(images)
        for at, tap in enumerate(range(-reach, reach + 1)):
            shifted = images.index_select(axis, (places + tap).clamp(0, len(places) - 1))
            blurred += weights[:, at].view(-1, 1, 1, 1) * shifted
        images = blurred
    return images


def _colour(images: Float[Tensor, "B 3 R R"], draws: Sequence[Augmentation]) -> Float[Tensor, "B 3 R R"]:
    def factors(values: list[float]) -> Float[Tensor, "B 1 1 1"]:
        return images.new_tensor(values).view(-1, 1, 1, 1)

    before = factors([draw.brightness if draw.brightness_first else 1.0 for draw in draws])
    after = factors([1.0 if draw.brightness_first else draw.brightness for draw in draws])
    contrast = factors([draw.contrast for draw in draws])
    images = (images * before).clamp_(0, 1)
    grey = (images * images.new_tensor(GREY_WEIGHTS).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    # Summed in float64, so that the order of summation, which depends on the batch, does not show in float32.
    mean = grey.mean(dim=(1, 2, 3), keepdim=True, dtype=torch.float64).to(images.dtype)
    images = images.mul_(contrast).add_((1 - contrast) * mean).clamp_(0, 1)
    return images.mul_(after).clamp_(0, 1)
