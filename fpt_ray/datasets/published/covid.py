"""COVID (kaggle.com/datasets/sid321axn/covid-cxr-image-dataset-research): 1,823 chest X-rays of three classes.

Layout: ``COVID_IEEE/{covid,normal,virus}`` of 536, 668 and 619 images, JPEG, PNG and others, of any names. Seen in the
code and on the pages of many users, with these counts; Kaggle's own page could not be read. No split and no patient is
published.
"""

from fpt_ray.datasets.published.layout import Download, Entry, Published

FOLDER = "COVID_IEEE"
CLASSES = ("covid", "normal", "virus")


def entries(download: Download) -> list[Entry]:
    """Every file of the three folders."""
    return [Entry(path, name) for name in CLASSES for path in download.below(f"{FOLDER}/{name}")]


COVID = Published(
    title="COVID",
    home="kaggle.com/datasets/sid321axn/covid-cxr-image-dataset-research",
    images=1_823,
    labelled=1_823,
    entries=entries,
)
