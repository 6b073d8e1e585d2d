"""Images: bytes to RGB arrays, the square resize, and the augmentation of the side network's input.

High-resolution inputs are never augmented (section 3.6), so only the low-resolution copy passes through ``augment``.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fpt_ray.config import ConfigError

# Pillow warns above this many pixels. Keeping to it means that none of Pillow's global switches has to be touched.
MAX_PIXELS = 89_478_485
MAX_BYTES = 512 * 2**20
# Only these decoders run on foreign bytes; Pillow has others that start programs (EPS) or are hardly maintained.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")

# The authors' augmentation of the side image.
AREA_SHARE = (0.8, 1.0)
ASPECT = (0.7, 1.3)
FLIP_PROBABILITY = 0.5
JITTER = (0.8, 1.2)
GREY_WEIGHTS = (0.2989, 0.587, 0.114)

_TIFF_PHOTOMETRIC = 262


class ImageError(ConfigError):
    """An image cannot be used. The message names the file and the reason; ``reason`` is the latter alone."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


def decode(data: bytes, source: str) -> UInt8[np.ndarray, "Y X 3"]:
    """The RGB pixels of an encoded image, upright (EXIF orientation applied).

    Grey becomes three equal channels; 16-bit grey is scaled by its full range (65535 to 255); palettes and CMYK are
    converted (colour profiles are not applied); transparent pixels are blended onto black. Of several frames or pages
    the first is taken.

    Raises:
        ImageError: the bytes are empty, too many, no image of a known format, cut off or damaged; the image has no
            pixels or more than MAX_PIXELS (said by its header, before anything is decoded); its range is unknown.
    """
    if not data:
        raise ImageError(source, "the file is empty (0 bytes)")
    if len(data) > MAX_BYTES:
        raise ImageError(source, f"the file has more than {MAX_BYTES:,} bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, source)
            white_is_zero = image.format == "TIFF" and image.getexif().get(_TIFF_PHOTOMETRIC) == 0
            image.load()
            return _rgb(ImageOps.exif_transpose(image), white_is_zero, source)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(source, f"no readable image of a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(source, f"it has more than {MAX_PIXELS:,} pixels; make it smaller first") from None
    except Exception as error:  # Decoders of foreign bytes raise whatever they like; each means: not readable.
        raise ImageError(source, f"it cannot be decoded ({type(error).__name__}: {error})") from error


def _check_size(size: tuple[int, int], source: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(source, f"it is {width}x{height}; it has no pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(source, f"it is {width}x{height}, more than {MAX_PIXELS:,} pixels; make it smaller first")


def _rgb(image: Image.Image, white_is_zero: bool, source: str) -> UInt8[np.ndarray, "Y X 3"]:
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = _eight_bit(np.asarray(image), source)
        # Pillow turns WhiteIsZero round for 8 bits, not for 16.
        return np.repeat((255 - grey if white_is_zero else grey)[..., None], 3, axis=2)
    if image.mode == "F":
        raise ImageError(source, "it holds floating-point values of unknown range; save it as 8-bit or 16-bit grey")
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _eight_bit(values: np.ndarray, source: str) -> UInt8[np.ndarray, "Y X"]:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(source, f"its values are {low}..{high}, neither 8 nor 16 bits; save it as 16-bit grey")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257, rounded to nearest


def resize(image: UInt8[np.ndarray, "Y X 3"], resolution: int) -> UInt8[np.ndarray, "R R 3"]:
    """The image stretched to a square of ``resolution`` pixels, as the authors do it: the aspect is not kept.

    Pillow's bicubic filter, whose support grows with the reduction (antialiased).
    """
    return np.array(Image.fromarray(image).resize((resolution, resolution), Image.Resampling.BICUBIC))


def normalise(
    images: UInt8[Tensor, "B R R 3"] | Float[Tensor, "B 3 R R"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "B 3 R R"]:
    """Images as a ViT takes them: (image - mean) / std per channel, of bytes or of floats in 0..1."""
    if images.dtype == torch.uint8:
        images = _unit(images)
    centre, spread = (images.new_tensor(tuple(values)).view(1, 3, 1, 1) for values in (mean, std))
    return (images - centre) / spread


def _unit(images: UInt8[Tensor, "B R R 3"]) -> Float[Tensor, "B 3 R R"]:
    return images.permute(0, 3, 1, 2).float() / 255


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
        _unit(images), _grid(draws, size, images.device), mode="bilinear", padding_mode="border", align_corners=False
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
