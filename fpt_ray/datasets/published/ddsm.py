"""Mini-DDSM (ardisdataset.github.io/MiniDDSM): 7,808 mammograms of 1,952 cases, four of each.

The authors' code names it as its data set; their paper says DDSM and cites CBIS-DDSM, which has no normal cases.

Layout: ``MINI-DDSM-Complete-JPEG-8/{Normal,Benign,Cancer}/<4 digits>/`` with images such as ``C_0029_1.LEFT_CC.jpg``,
beside them masks such as ``C_0029_1.LEFT_CC_Mask.jpg`` and other files; the class is that of the case. So in the
listing of the whole archive, kaggle.com/datasets/cheddad/miniddsm2, in github.com/dangnh0611/kaggle_rsna_breast_cancer
(``datasets/raw/miniddsm/pwd_structure.txt``), which has the counts too. An earlier edition of 9,684 images is another
one (kaggle.com/datasets/cheddad/miniddsm). No split is published.
"""

import re

from fpt_ray.datasets.published.layout import Download, Entry, Published

FOLDER = "MINI-DDSM-Complete-JPEG-8"
CLASSES = ("Normal", "Benign", "Cancer")
_VIEW = re.compile(r"([A-Z]_\d+_\d+)\.(?:LEFT|RIGHT)_(?:CC|MLO)\.jpg", re.IGNORECASE)


def entries(download: Download) -> list[Entry]:
    """Every view of every case; masks are none."""
    return [
        Entry(path, name, group=view[1])
        for name in CLASSES
        for path in download.below(f"{FOLDER}/{name}")
        if (view := _VIEW.fullmatch(path.rpartition("/")[2]))
    ]


DDSM = Published(
    title="Mini-DDSM",
    home="kaggle.com/datasets/cheddad/miniddsm2",
    images=7_808,
    labelled=7_808,
    entries=entries,
    group="patient",
)
