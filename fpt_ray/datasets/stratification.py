"""A stratified split, frozen into a table beside the images."""

import csv
import io
from collections import Counter

from fpt_ray.errors import ConfigError
from fpt_ray.images.sources import COLUMNS, SPLITS, find_images
from fpt_ray.images.splits import stratified
from fpt_ray.storage.errors import ExistsError
from fpt_ray.storage.files import absolute, write_once


def write_stratified(images: str, table: str | None, seed: int) -> str:
    """Writes path, label, split and group of all images as CSV; returns where it is and how many are in each split.

    Raises:
        ConfigError: the images have splits already, a class is too small, or the table would lie where it cannot name
            them; or it is there already, since to write it anew could move images between splits.
        StorageError: S3 fails.
    """
    root, found, _ = find_images(images)
    if found and found[0].split:
        raise ConfigError(f"images: {images} has splits already; give images without, to have them divided")
    uri = absolute(table or f"{root}/stratified.csv")
    folder = uri.rpartition("/")[0]
    if not uri.endswith(".csv") or not f"{root}/".startswith(f"{folder}/"):
        raise ConfigError(f"table is {uri}; give a .csv in {root} or above it, since its paths start there")
    below = f"{root}/".removeprefix(f"{folder}/")
    divided = stratified(found, seed)
    grouped = any(image.group for image in divided)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS[: 3 + grouped])
    writer.writerows((f"{below}{image.path}", *image[1:])[: 3 + grouped] for image in divided)
    try:
        write_once(uri, text.getvalue().encode())
    except ExistsError:
        raise ConfigError(f"table: {uri} is there already; give it as images, or another name") from None
    sizes = Counter(image.split for image in divided)
    return f"{uri}\n{', '.join(f'{sizes[split]} {split}' for split in SPLITS)}"
