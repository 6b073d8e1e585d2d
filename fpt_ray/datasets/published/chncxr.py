"""CHNCXR (the Shenzhen set of the NLM): 662 chest X-rays, 326 normal and 336 with tuberculosis.

Layout: ``ChinaSet_AllFiles/CXR_png/CHNCXR_<4 digits>_<0 or 1>.png``, 0 is normal; beside them ``ClinicalReadings``,
which are not needed. The archive is openi.nlm.nih.gov/imgs/collections/ChinaSet_AllFiles.zip; the counts are the NLM's
(lhncbc.nlm.nih.gov/LHC-publications/pubs/TuberculosisChestXrayImageDataSets.html), the names are read so by
github.com/mlmed/torchxrayvision. No split is published. The 336 are of as many patients (doi 10.3390/data7070095); of
the normal ones that is not said, and each is taken as a patient of its own.
"""

import re

from fpt_ray.datasets.published.layout import Download, Entry, Published

FOLDER = "CXR_png"
CLASSES = ("normal", "tuberculosis")
_NAME = re.compile(r"(CHNCXR_\d{4})_([01])\.png")


def entries(download: Download) -> list[Entry]:
    """Every X-ray by its name."""
    return [
        Entry(path, CLASSES[int(name[2])], group=name[1])
        for path in download.below(FOLDER)
        if (name := _NAME.fullmatch(path.rpartition("/")[2]))
    ]


CHNCXR = Published(
    title="CHNCXR",
    home="openi.nlm.nih.gov/imgs/collections/ChinaSet_AllFiles.zip",
    images=662,
    labelled=662,
    entries=entries,
    group="patient",
)
