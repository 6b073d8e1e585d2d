"""Semi-synthetic fundus pictures: one photograph of a healthy retina, varied, with lesions drawn on top.

What the grades are and how hard they are to tell apart is said in one place, ``DIFFICULTY``. Pure: a photograph and a
random generator in, pixels out; ``demo.py`` keeps the files.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image

Range = tuple[float, float]
Counts = tuple[tuple[int, int], ...]
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels: the first pixel inside, and the first beyond."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesion:
    """A kind of spot. Lengths are pixels of a picture 896 pixels wide; ranges are drawn from uniformly."""

    radius: Range
    strength: Range
    """How much of the picture it hides, 0..1."""
    tint: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """What it leaves of red, green and blue ..."""
    glow: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """... and what it adds to them, 0..255."""
    elongation: Range = (1.0, 1.2)
    roughness: float = 0.1
    """How far its outline strays from an ellipse, as a share of the radius."""
    softness: float = 0.3
    """Width of its edge, as a share of the radius."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difficulty:
    """What the grades 0 to 4 are and how hard they are to tell apart. Counts are (fewest, most) for each grade."""

    microaneurysms: Counts = ((0, 0), (4, 11), (7, 18), (10, 24), (10, 26))
    haemorrhages: Counts = ((0, 0), (0, 0), (2, 6), (5, 12), (5, 13))
    exudate_clusters: Counts = ((0, 0), (0, 0), (0, 0), (0, 0), (2, 4))
    cluster_spots: tuple[int, int] = (4, 12)
    cluster_spread: Range = (12.0, 34.0)
    microaneurysm: Lesion = Lesion(radius=(1.0, 2.5), strength=(0.5, 0.9), tint=(0.72, 0.35, 0.45))
    haemorrhage: Lesion = Lesion(
        radius=(5.0, 13.0), strength=(0.45, 0.8), tint=(0.7, 0.3, 0.35), elongation=(1.0, 2.0), roughness=0.2
    )
    exudate: Lesion = Lesion(radius=(1.5, 4.5), strength=(0.4, 0.8), glow=(240, 215, 130), roughness=0.25)
    dust: Lesion = Lesion(radius=(2.0, 9.0), strength=(0.08, 0.3), tint=(0.5, 0.5, 0.5), softness=1.2)
    smudge: Lesion = Lesion(
        radius=(2.0, 4.5), strength=(0.2, 0.5), tint=(0.72, 0.4, 0.5), elongation=(3.0, 8.0), roughness=0.2
    )
    reflection: Lesion = Lesion(radius=(5.0, 22.0), strength=(0.08, 0.3), glow=(255, 240, 225), softness=1.5)
    distractors: tuple[int, int] = (2, 6)
    """How many of each of dust, smudges and reflections every grade has."""
    rotation: float = 30.0
    """Degrees to either side."""
    crop: Range = (0.78, 0.98)
    brightness: Range = (0.75, 1.2)
    contrast: Range = (0.8, 1.2)
    colour: float = 0.1
    """How far a channel's gain strays from 1."""
    shading: float = 0.12
    """How much brighter one edge of the picture is than its middle."""
    noise: Range = (1.0, 5.0)
    """Standard deviation of the sensor's noise, of 0..255."""


DIFFICULTY = Difficulty()
NUM_GRADES = 5
REFERENCE_SIZE = 896

# Where the photograph (1411x1411) has its disc and, in it, the head of the optic nerve: centre and radius.
_PHOTO_SIZE = 1411
_DISC = (704.0, 703.0, 690.0)
_NERVE = (232.0, 645.0, 125.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """How a picture looks at the photograph: picture = inverse of (photo = matrix @ (picture - middle) + centre)."""

    matrix: Float[np.ndarray, "2 2"]
    centre: Float[np.ndarray, "2"]
    middle: float

    def in_picture(self, point: Float[np.ndarray, "2"]) -> Float[np.ndarray, "2"]:
        """Where a point of the photograph is in the picture."""
        return np.linalg.solve(self.matrix, point - self.centre) + self.middle

    def in_photo(self, at: Float[np.ndarray, "2"]) -> Float[np.ndarray, "2"]:
        """Where a point of the picture is in the photograph."""
        return self.matrix @ (at - self.middle) + self.centre


def scaled_photo(photo: Image.Image, size: int) -> Image.Image:
    """The photograph at about the scale of pictures of that size, so that views of it need no further antialiasing."""
    side = round(size / (sum(DIFFICULTY.crop) / 2))
    return photo.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def draw(
    photo: Image.Image, grade: int, size: int, random: np.random.Generator
) -> tuple[Float[np.ndarray, "R R 3"], list[Box]]:
    """(a picture of a grade, 0..255; where its lesions are). The photograph is a square of any size."""
    view = _view(photo.width, size, random)
    (a, b), (d, e) = view.matrix
    c, f = view.centre - view.matrix @ np.full(2, view.middle)
    whole = photo.transform((size, size), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BICUBIC)
    picture = np.array(whole, dtype=np.float32)
    meaningful = (DIFFICULTY.microaneurysm, DIFFICULTY.haemorrhage, DIFFICULTY.exudate)
    boxes = []
    for lesion, at in _spots(grade, view, photo.width / _PHOTO_SIZE, size, random):
        box = _stain(picture, lesion, at, size / REFERENCE_SIZE, random)
        if lesion in meaningful and box is not None:
            boxes.append(box)
    return _develop(picture, random), boxes


def _view(photo_size: int, size: int, random: np.random.Generator) -> View:
    look = DIFFICULTY
    crop = random.uniform(*look.crop)
    angle = math.radians(random.uniform(-look.rotation, look.rotation))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    flips = np.diag(random.choice([-1.0, 1.0], size=2))
    play = photo_size * (1 - crop) / 2
    centre = photo_size / 2 + random.uniform(-play, play, size=2)
    return View(matrix=turn @ flips * (crop * photo_size / size), centre=centre, middle=size / 2)


def _spots(
    grade: int, view: View, photo_scale: float, size: int, random: np.random.Generator
) -> Iterator[tuple[Lesion, Float[np.ndarray, "2"]]]:
    """Every lesion and distractor of a picture and where it is, in the order they are drawn."""
    look = DIFFICULTY

    def places(counts: tuple[int, int]) -> Iterator[Float[np.ndarray, "2"]]:
        for _ in range(random.integers(*counts, endpoint=True)):
            yield _place(view, photo_scale, size, random)

    for lesion in (look.dust, look.smudge, look.reflection):
        yield from ((lesion, at) for at in places(look.distractors))
    yield from ((look.microaneurysm, at) for at in places(look.microaneurysms[grade]))
    yield from ((look.haemorrhage, at) for at in places(look.haemorrhages[grade]))
    for at in places(look.exudate_clusters[grade]):
        spread = random.uniform(*look.cluster_spread) * size / REFERENCE_SIZE
        for _ in range(random.integers(*look.cluster_spots, endpoint=True)):
            beside = at + random.normal(0, spread, size=2).clip(-2 * spread, 2 * spread)
            if math.dist(view.in_photo(beside) / photo_scale, _DISC[:2]) < 0.97 * _DISC[2]:
                yield look.exudate, beside


def _place(view: View, photo_scale: float, size: int, random: np.random.Generator) -> Float[np.ndarray, "2"]:
    """A random point of the picture inside the retina's disc, well off its rim and off the optic nerve's head."""
    (*disc, radius), (*nerve, nerve_radius) = _DISC, _NERVE
    while True:
        point = np.array(disc) + random.uniform(-radius, radius, size=2)
        at = view.in_picture(point * photo_scale)
        inside = math.dist(point, disc) < 0.88 * radius and math.dist(point, nerve) > nerve_radius
        if inside and 0.03 * size < at.min() and at.max() < 0.97 * size:
            return at


def _stain(
    picture: Float[np.ndarray, "R R 3"],
    lesion: Lesion,
    at: Float[np.ndarray, "2"],
    scale: float,
    random: np.random.Generator,
) -> Box | None:
    """Blends one spot into the picture, in place: an ellipse with a wavy outline and a soft edge.

    Returns:
        the box of the pixels that it covers by half of its strength at least; None: of a few blurred ones, none.
    """
    radius, strength = random.uniform(*lesion.radius) * scale, random.uniform(*lesion.strength)
    stretch, angle = math.sqrt(random.uniform(*lesion.elongation)), random.uniform(0, math.pi)
    waves = zip(random.normal(0, lesion.roughness / 2, size=4), random.uniform(0, 2 * math.pi, size=4), strict=True)
    edge = max(1.0, lesion.softness * radius)
    reach = math.ceil(radius * stretch * (1 + 2 * lesion.roughness) + edge)
    (left, top), (right, bottom) = ((at + sign * reach).astype(int).clip(0, len(picture)) for sign in (-1, 1))
    y, x = np.mgrid[top:bottom, left:right] + 0.5
    x, y = x - at[0], y - at[1]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    along, across = along / stretch, across * stretch
    waves = [w * np.cos((k + 2) * np.arctan2(across, along) + p) for k, (w, p) in enumerate(waves)]
    cover = ((radius * (1 + sum(waves)) - np.hypot(along, across)) / edge + 0.5).clip(0, 1)
    # A spot smaller than a pixel hides only its own area of it.
    rows, columns = (np.flatnonzero((cover >= 0.5).any(axis=axis)) for axis in (1, 0))
    cover = (cover * strength * min(1.0, math.pi * radius**2)).astype(np.float32)[..., None]
    patch = picture[top:bottom, left:right]
    patch += cover * (patch * (np.array(lesion.tint, np.float32) - 1) + np.array(lesion.glow, np.float32))
    if not rows.size:
        return None
    return int(left + columns[0]), int(top + rows[0]), int(left + columns[-1] + 1), int(top + rows[-1] + 1)


def _develop(picture: Float[np.ndarray, "R R 3"], random: np.random.Generator) -> Float[np.ndarray, "R R 3"]:
    """What the camera does: uneven light, brightness, colour, contrast, noise."""
    look = DIFFICULTY
    ramp = np.linspace(-1, 1, len(picture), dtype=np.float32)
    slope = random.uniform(-look.shading, look.shading, size=2).astype(np.float32)
    light = 1 + slope[0] * ramp[:, None] + slope[1] * ramp
    gain = random.uniform(*look.brightness) * random.uniform(1 - look.colour, 1 + look.colour, size=3)
    contrast = random.uniform(*look.contrast)
    picture *= light[..., None] * (gain * contrast).astype(np.float32)
    picture += np.float32((1 - contrast) * picture.mean())
    noise = random.standard_normal(picture.shape, dtype=np.float32)
    picture += noise * np.float32(random.uniform(*look.noise))
    return picture.clip(0, 255, out=picture)
