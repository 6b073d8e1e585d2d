"""ISIC 2018, task 3 (challenge.isic-archive.com/landing/2018/47): 11,720 dermoscopic images of seven diagnoses.

Layout: ``ISIC2018_Task3_{Training,Validation,Test}_Input`` of 10,015, 193 and 1,512 images ``ISIC_<7 digits>.jpg``, and
``ISIC2018_Task3_..._GroundTruth.csv`` (in folders of the same names, as their archives unpack), a header ``image`` and
the seven diagnoses, 1.0 under the true one; the challenge's page has the columns, its page of data (source:
github.com/ImageMarkup/stade, ``stade/core/templates/data/2018.html``) sizes, terms (CC BY-NC 4.0) and all counts but
the 193, which are in the code of many users. ``ISIC2018_Task3_Training_LesionGroupings.csv`` says by ``lesion_id``
which training images are of one lesion. For validation and test images that is not published: each is taken as a lesion
of its own.
"""

from fpt_ray.datasets.published.layout import Download, Entry, Published
from fpt_ray.errors import ConfigError

SPLITS = {"Training": "train", "Validation": "val", "Test": "test"}
DIAGNOSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
LESIONS = "ISIC2018_Task3_Training_LesionGroupings.csv"


def entries(download: Download) -> list[Entry]:
    """Every image of the three ground-truth files, with its official split and its lesion."""
    lesions = {row["image"]: row["lesion_id"] for row in download.rows(LESIONS, ("image", "lesion_id"))}
    found: list[Entry] = []
    for name, split in SPLITS.items():
        truth = f"ISIC2018_Task3_{name}_GroundTruth.csv"
        folder = download.locate(f"ISIC2018_Task3_{name}_Input")
        for row in download.rows(truth, ("image", *DIAGNOSES)):
            image, given = row["image"], [diagnosis for diagnosis in DIAGNOSES if row[diagnosis] in ("1.0", "1")]
            if len(given) != 1:
                raise ConfigError(f"{truth} of {download.of.title} gives {image} the diagnoses {given}; get it anew")
            found.append(Entry(f"{folder}/{image}.jpg", given[0], split, lesions.get(image, image)))
    return found


ISIC2018 = Published(
    title="ISIC 2018",
    home="challenge.isic-archive.com/data/#2018 (task 3)",
    images=11_720,
    labelled=11_720,
    entries=entries,
    group="lesion",
)
