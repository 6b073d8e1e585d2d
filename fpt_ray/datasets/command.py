"""Prepares image tables: a split that is made once, written down, and the same from then on.

Where neither folders nor a table say which split an image belongs to, a hash of its content does, so that images which
are added leave all others where they are. The shares of a class may then differ between splits; this makes them equal.
"""

import tyro


def split(images: tyro.conf.Positional[str], table: str | None = None, seed: int = 0) -> None:
    """Write a table of the images in which each class is divided 70/10/20, to be given as images from then on.

    Args:
        images: A folder of class folders, or a table (CSV, Parquet) of path, label[, group]. Images of one group, such
            as a patient, stay together.
        table: The CSV file to write, beside or above the images. Default: stratified.csv beside the class folders.
        seed: The seed of the split.
    """
    from fpt_ray.datasets.stratification import write_stratified

    print(write_stratified(images, table, seed))


VERBS = {"split": split}
