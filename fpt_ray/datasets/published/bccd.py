"""BCCD (github.com/Shenggan/BCCD_Dataset, MIT): 364 blood smears with the boxes of cells and platelets, as Pascal VOC.

Layout: ``ImageSets/Main/{train,val,test}.txt`` of names, ``JPEGImages`` and ``Annotations``, as in a clone. The
question of the image table is whether there is a platelet in an image; a platelet covers 0.5 % of it.
"""

from pathlib import PurePosixPath
from xml.etree import ElementTree

from fpt_ray.datasets.published.layout import Box, Download, Entry, Published
from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import SPLITS

FINDING = "Platelets"
_ENDS = ("xmin", "ymin", "xmax", "ymax")


def entries(download: Download) -> list[Entry]:
    """Every image of the three lists with its official split and its platelets."""
    found: list[Entry] = []
    for split in SPLITS:
        listed = f"ImageSets/Main/{split}.txt"
        root = download.locate(listed).removesuffix(listed)
        for name, *_ in download.lines(listed):
            if name != PurePosixPath(name).name:
                raise ConfigError(f"{listed} of BCCD names {name!r}, which is no image of it; get it anew")
            boxes = _platelets(download, f"{root}Annotations/{name}.xml")
            found.append(Entry(f"{root}JPEGImages/{name}.jpg", "yes" if boxes else "no", split, boxes=boxes))
    return found


def _platelets(download: Download, path: str) -> tuple[Box, ...]:
    """The box of every platelet: VOC counts pixels from 1, the last one included."""
    try:
        root = ElementTree.fromstring(download.content(path))
        return tuple(
            Box(ends["xmin"] - 1, ends["ymin"] - 1, ends["xmax"], ends["ymax"])
            for one in root.iter("object")
            if one.findtext("name") == FINDING
            for ends in [{name: float(one.findtext(f"bndbox/{name}") or "") for name in _ENDS}]
        )
    except (ElementTree.ParseError, ValueError) as error:
        raise ConfigError(f"{path} is no annotation of BCCD ({error}); get it anew") from None


BCCD = Published(
    title="BCCD",
    home="github.com/Shenggan/BCCD_Dataset",
    images=364,
    labelled=364,
    entries=entries,
    table="platelets.csv",
)
