"""Prepares image tables: of published data sets, or with a split that is made once and written down.

Where neither folders nor a table say which split an image belongs to, a hash of its content does, so that images which
are added leave all others where they are. The shares of a class may then differ between splits; this makes them equal.
"""

from typing import Annotated, Literal

import tyro

from fpt_ray.config.tasks import ImagesOptions

_OPTIONS = ImagesOptions()


def split(
    images: tyro.conf.Positional[str],
    table: str | None = None,
    seed: int = 0,
    options: Annotated[ImagesOptions, tyro.conf.arg(name="")] = _OPTIONS,
) -> None:
    """Write a table of the images in which each class is divided 70/10/20, to be given as images from then on.

    Args:
        images: A folder of class folders, or a table (CSV, Parquet) of path, label[, group]. Images of one group, such
            as a patient, stay together.
        table: The CSV file to write, beside or above the images. Default: stratified.csv beside the class folders.
        seed: The seed of the split.
        options: How the images are read.
    """
    from fpt_ray.datasets.stratification import write_stratified

    print(write_stratified(images, table, seed, options))


def prepare(name: tyro.conf.Positional[Literal["bccd"]], source: Annotated[str, tyro.conf.arg(name="from")]) -> None:
    """Write the image table of a published data set, and the table of its findings' boxes, into its folder.

    Args:
        name: The data set. bccd: blood smears; is there a platelet?
        source: The folder as it is published; of bccd, a clone of github.com/Shenggan/BCCD_Dataset.
    """
    from fpt_ray.datasets.bccd import prepare_bccd

    print({"bccd": prepare_bccd}[name](source))


VERBS = {"prepare": prepare, "split": split}
