"""Checks images, and prepares tables of them: of published data sets, or with a split that is written down once.

Where neither folders nor a table say which split an image belongs to, a hash of its content does, so that images which
are added leave all others where they are. The shares of a class may then differ between splits; this makes them equal.
"""

from typing import Annotated

import tyro

from fpt_ray.config.tasks import ImagesOptions
from fpt_ray.datasets.published.names import Name, Split

_OPTIONS = ImagesOptions()


def check(
    images: tyro.conf.Positional[str],
    resolution: int | None = None,
    json: bool = False,
    contact_sheets: str | None = None,
    workdir: str = ".",
    options: Annotated[ImagesOptions, tyro.conf.arg(name="")] = _OPTIONS,
) -> int:
    """Say what is odd or wrong about images; exit status 1 if results on them would be untrue.

    Every image is read once. What makes results untrue, and stops preload, train and tune: the same image, or images of
    one group, in several splits; labels of one image that contradict each other; a class that train lacks; one class or
    value alone in val or test; more than 1 % of the images that cannot be read.

    Args:
        images: A folder (train/ val/ test/, or classes to be split) or a table (CSV, Parquet) of path, label[, split][,
            group].
        resolution: At which they will be taken, in pixels; smaller ones are told then.
        json: Print JSON, for programs.
        contact_sheets: The folder for a picture of some images of each class. Default: there are none.
        workdir: The working directory, in which what is found is kept, so that preload reads no image again.
        options: How the images are read.
    """
    from fpt_ray.datasets.survey import survey, survey_json, survey_text
    from fpt_ray.images.table import read_images

    found = survey(read_images(images, options), workdir, resolution=resolution, sheets=contact_sheets)
    print(survey_json(found) if json else survey_text(found))
    return int(found.is_doubtful)


def split(
    images: tyro.conf.Positional[str],
    table: str | None = None,
    seed: int = 0,
    workdir: str = ".",
    options: Annotated[ImagesOptions, tyro.conf.arg(name="")] = _OPTIONS,
) -> None:
    """Write a table of the images in which each class is divided 70/10/20, to be given as images from then on.

    Args:
        images: A folder of class folders, or a table (CSV, Parquet) of path, label[, group]. Images of one group or of
            one patient, as DICOM files name them, and images of the same pixels stay together.
        table: The CSV file to write, beside or above the images. Default: stratified.csv beside the class folders.
        seed: The seed of the split.
        workdir: The working directory, in which what is found is kept, so that preload reads no image again.
        options: How the images are read.
    """
    from fpt_ray.datasets.stratification import write_stratified

    print(write_stratified(images, table, seed, options, workdir=workdir))


def prepare(
    name: tyro.conf.Positional[Name],
    source: Annotated[str, tyro.conf.arg(name="from")],
    out: str | None = None,
    split: Split | None = None,
    seed: int = 0,
    allow_partial: bool = False,
    workdir: str = ".",
) -> None:
    """Write the image table of a published data set, and the table of its findings' boxes where these are published.

    Args:
        name: The data set: the eight of the paper's section 4.1, and bccd (blood smears; is there a platelet?).
        source: The folder into which its archives were unpacked; docs/own-images.md says where they are had.
        out: The table's file, .csv or .parquet, in that folder or above it. Default: NAME.parquet in that folder.
        split: Where the splits come from. Default: the official ones; where there are none, 70/10/20 by patient; where
            patients are not published, at random, as the paper.
        seed: The seed of splits that are made.
        allow_partial: Go on with fewer images than are published; the table's note says how many.
        workdir: The working directory, in which what is found of images whose split is made is kept.
    """
    from fpt_ray.datasets.published.preparation import Division, prepare

    print(prepare(name, source, out, Division(split=split, seed=seed, workdir=workdir), allow_partial))


VERBS = {"check": check, "prepare": prepare, "split": split}
