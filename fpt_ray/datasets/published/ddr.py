"""DDR (github.com/nkicsl/DDR-dataset): 13,673 fundus images, graded for diabetic retinopathy, officially split.

Layout: the archive, joined by ``cat DDR-dataset.zip.0* > DDR-dataset.zip``, has ``DR_grading/{train,valid,test}.txt``
of lines ``IMAGE GRADE``, the images of each in a folder of its name; grade 5 is ungradable. The repository's page has
the terms (CC BY-NC-SA 4.0) and does not describe the layout; the code of many users does, alike. The data set's paper
(doi 10.1016/j.ins.2019.06.011) counts 13,673 images of 9,598 patients, whom the files do not name; 12,522 of the images
are gradable, and that is the largest size in FPT+'s section 4.1.
"""

from fpt_ray.datasets.published.layout import Download, Entry, Published
from fpt_ray.errors import ConfigError

SPLITS = {"train": "train", "valid": "val", "test": "test"}
GRADES = ("0", "1", "2", "3", "4")
UNGRADABLE = "5"


def entries(download: Download) -> list[Entry]:
    """Every image of the three lists, with its grade and its official split."""
    found: list[Entry] = []
    for name, split in SPLITS.items():
        listed = f"DR_grading/{name}.txt"
        folder = download.locate(listed).removesuffix(".txt")
        for line in download.lines(listed, delimiter=" "):
            if len(line) != 2 or line[1] not in (*GRADES, UNGRADABLE):
                raise ConfigError(f"{listed} of {download.of.title} has the line {' '.join(line)!r}; get it anew")
            image, grade = line
            found.append(Entry(f"{folder}/{image}", "" if grade == UNGRADABLE else grade, split))
    return found


DDR = Published(
    title="DDR",
    home="github.com/nkicsl/DDR-dataset",
    images=13_673,
    labelled=12_522,
    entries=entries,
)
