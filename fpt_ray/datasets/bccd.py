"""BCCD (github.com/Shenggan/BCCD_Dataset, MIT): 364 blood smears with the boxes of cells and platelets, as Pascal VOC.

The question of the image table is whether there is a platelet in an image; a platelet covers 0.5 % of it.
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from xml.etree import ElementTree

from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import SPLITS
from fpt_ray.storage.errors import ExistsError
from fpt_ray.storage.files import absolute, read_bytes, write_once

FINDING = "Platelets"
TABLE, BOXES = "platelets.csv", "platelets_boxes.csv"


def prepare_bccd(folder: str) -> str:
    """Writes two tables into a clone: of the images (path, label, split) and of the platelets (image, x0, y0, x1, y1).

    The splits are the official ones. Returns where the tables are, and how many images each split has.

    Raises:
        ConfigError: a file is missing or is not as BCCD has it, or other tables of these names are there.
        StorageError: S3 fails.
    """
    root = absolute(folder)
    images: list[tuple[str, str, str]] = []
    boxes: list[tuple[str, float, float, float, float]] = []
    for split in SPLITS:
        for name in _read(f"{root}/ImageSets/Main/{split}.txt").decode().split():
            if name != PurePosixPath(name).name:
                raise ConfigError(f"{root}/ImageSets/Main/{split}.txt names {name!r}, which is no image of the clone")
            path = f"JPEGImages/{name}.jpg"
            found = _boxes(f"{root}/Annotations/{name}.xml")
            images.append((path, "yes" if found else "no", split))
            boxes += [(path, *box) for box in found]
    _put(f"{root}/{TABLE}", ("path", "label", "split"), images)
    _put(f"{root}/{BOXES}", ("image", "x0", "y0", "x1", "y1"), boxes)
    sizes = Counter(split for _, _, split in images)
    positive = sum(label == "yes" for _, label, _ in images)
    counts = ", ".join(f"{sizes[split]} {split}" for split in SPLITS)
    return f"{root}/{TABLE}: {counts}; {positive} with a platelet\n{root}/{BOXES}: {len(boxes)} platelets"


def _boxes(uri: str) -> list[tuple[float, float, float, float]]:
    """(x0, y0, x1, y1) of every platelet: VOC counts pixels from 1, the last one included."""
    try:
        root = ElementTree.fromstring(_read(uri))
        return [
            (ends["xmin"] - 1, ends["ymin"] - 1, ends["xmax"], ends["ymax"])
            for one in root.iter("object")
            if one.findtext("name") == FINDING
            for ends in [{name: float(one.findtext(f"bndbox/{name}") or "") for name in _ENDS}]
        ]
    except (ElementTree.ParseError, ValueError) as error:
        raise ConfigError(f"{uri} is no annotation of BCCD ({error}); clone Shenggan/BCCD_Dataset again") from None


_ENDS = ("xmin", "ymin", "xmax", "ymax")


def _read(uri: str) -> bytes:
    try:
        return read_bytes(uri)
    except OSError as error:
        raise ConfigError(f"{uri} cannot be read ({error.strerror}); give a clone of Shenggan/BCCD_Dataset") from None


def _put(uri: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    try:
        write_once(uri, text.getvalue().encode())
    except ExistsError:
        raise ConfigError(f"{uri} is there already and is another table; remove it or give another folder") from None
