"""Messidor-2 (adcis.net/en/third-party/messidor2): 1,748 fundus images of 874 examinations, both eyes of each.

Layout: ADCIS has the images, unpacked into ``IMAGES``, and ``messidor-2.csv``, lines ``left;right`` of the two images
of an examination; the grades are Google's, ``messidor_data.csv`` of
kaggle.com/datasets/google-brain/messidor2-dr-grades (CC0), columns image_id, adjudicated_dr_grade, adjudicated_dme,
adjudicated_gradable. So read by github.com/rajpurkarlab/BenchMD, whose page shows the tree; the FPT+ authors name both
places. Four images are ungradable. The grades' file writes ``.jpg`` where ADCIS has ``.JPG``. No split is published.
"""

from fpt_ray.datasets.published.layout import Download, Entry, Published
from fpt_ray.errors import ConfigError

LABELS, PAIRS, IMAGES = "messidor_data.csv", "messidor-2.csv", "IMAGES"
GRADES = ("0", "1", "2", "3", "4")


def entries(download: Download) -> list[Entry]:
    """Every image with its grade; the two images of an examination are of one patient."""
    folder = download.locate(IMAGES)
    spelled = {path.lower(): path for path in download.below(IMAGES)}
    patient: dict[str, str] = {}
    for number, pair in enumerate(download.rows(PAIRS, ("left", "right"), delimiter=";"), start=1):
        patient.update(dict.fromkeys((pair["left"].lower(), pair["right"].lower()), f"examination-{number}"))
    found: list[Entry] = []
    for row in download.rows(LABELS, ("image_id", "adjudicated_dr_grade", "adjudicated_gradable")):
        image = row["image_id"]
        path = f"{folder}/{image}"
        grade = row["adjudicated_dr_grade"].removesuffix(".0") if row["adjudicated_gradable"] == "1" else ""
        if grade not in ("", *GRADES):
            raise ConfigError(f"{LABELS} of {download.of.title} gives {image} the grade {grade!r}; get it anew")
        if image.lower() not in patient:
            raise ConfigError(f"{PAIRS} of {download.of.title} lacks {image}, which {LABELS} has; get both anew")
        found.append(Entry(spelled.get(path.lower(), path), grade, group=patient[image.lower()]))
    return found


MESSIDOR2 = Published(
    title="Messidor-2",
    home="adcis.net/en/third-party/messidor2 and kaggle.com/datasets/google-brain/messidor2-dr-grades",
    images=1_748,
    labelled=1_744,
    entries=entries,
    group="patient",
)
