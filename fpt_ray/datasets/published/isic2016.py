"""ISIC 2016, task 3 (challenge.isic-archive.com/landing/2016/39): 1,279 dermoscopic images, benign or malignant.

Layout: ``ISBI2016_ISIC_Part3_{Training,Test}_Data`` of 900 and 379 images ``ISIC_<7 digits>.jpg``, and beside each
``..._GroundTruth.csv`` of two columns without a header: the training file says benign or malignant, the test file 0.0
or 1.0. The challenge's page describes the training files, and its page of data (github.com/ImageMarkup/stade has the
source, ``stade/core/templates/data/2016.html``) has counts, sizes and terms (CC0); the test file is as
github.com/ImageMarkup's scorer and many others read it. No validation split is published, and no patient.
"""

from fpt_ray.datasets.published.layout import Download, Entry, Published
from fpt_ray.errors import ConfigError

SPLITS = {"Training": "train", "Test": "test"}
LABELS = {"benign": "benign", "malignant": "malignant", "0.0": "benign", "1.0": "malignant"}


def entries(download: Download) -> list[Entry]:
    """Every image of the two ground-truth files, with its official split."""
    found: list[Entry] = []
    for name, split in SPLITS.items():
        truth, folder = (f"ISBI2016_ISIC_Part3_{name}_{kind}" for kind in ("GroundTruth.csv", "Data"))
        folder = download.locate(folder)
        for line in download.lines(truth):
            if len(line) != 2 or line[1] not in LABELS:
                raise ConfigError(f"{truth} of {download.of.title} has the line {','.join(line)!r}; get it anew")
            found.append(Entry(f"{folder}/{line[0]}.jpg", LABELS[line[1]], split))
    return found


ISIC2016 = Published(
    title="ISIC 2016",
    home="challenge.isic-archive.com/data/#2016 (task 3)",
    images=1_279,
    labelled=1_279,
    entries=entries,
)
