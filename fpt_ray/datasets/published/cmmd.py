"""CMMD, the Chinese Mammography Database (cancerimagingarchive.net/collection/cmmd, CC BY 4.0): 5,202 images in DICOM.

Layout: the NBIA Data Retriever's ``manifest-<digits>/CMMD/<patient>/<study>/<series>/1-<1 to 4>.dcm``, a patient being
such as ``D1-0001``, and ``CMMD_clinicaldata_revision.xlsx`` with a row for each *breast* of which there is a biopsy:
ID1 (the patient), LeftRight, Age, number, abnormality, classification (Benign or Malignant), subtype. So in the listing
and the copy of the table in github.com/dangnh0611/kaggle_rsna_breast_cancer, and read so by
github.com/BiomedSciAI/fuse-med-ml. Which breast an image shows stands in its DICOM header (ImageLaterality). Images of
a breast without a row have no label here; those of a breast with rows of both results are Malignant, which the table's
note says. TCIA counts 1,775 patients; how many images have a label no page says that was found, and FPT+'s paper does
not say how it labelled them. No split is published.
"""

import io
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from fpt_ray.datasets.published.layout import Download, Entry, Published
from fpt_ray.datasets.published.workbook import first_sheet
from fpt_ray.errors import ConfigError

CLINICAL = "CMMD_clinicaldata_revision.xlsx"
COLUMNS = ("ID1", "LeftRight", "classification")
CLASSES = ("Benign", "Malignant")
BOTH = "of breasts with both results as Malignant"
_PATIENT = re.compile(r"(?:^|/)(D\d-\d{4})/")
_HEADER_BYTES = 2**16
_READERS = 16  # of headers at once: on S3 each is a request


def entries(download: Download) -> list[Entry]:
    """Every image with its patient and, where its breast has one, the biopsy's result."""
    labels = _labels(download)
    images = sorted(path for path in download.paths if path.lower().endswith(".dcm"))
    patients = [_patient(download, path) for path in images]
    with ThreadPoolExecutor(_READERS) as readers:
        sides = readers.map(lambda path: _side(path, download.content(path, _HEADER_BYTES)), images)
        found = zip(images, patients, sides, strict=True)
        return [_entry(path, patient, labels.get((patient, side), set())) for path, patient, side in found]


def _entry(path: str, patient: str, results: set[str]) -> Entry:
    return Entry(path, max(results, default=""), group=patient, decided=BOTH if len(results) > 1 else "")


def _labels(download: Download) -> dict[tuple[str, str], set[str]]:
    """{(patient, L or R): Benign, Malignant or both}."""
    try:
        header, *rows = first_sheet(download.read(CLINICAL))
        places = [header.index(column) for column in COLUMNS]
    except ValueError as error:
        raise ConfigError(f"{CLINICAL} of CMMD is not as published ({error}); get it anew") from None
    labels: dict[tuple[str, str], set[str]] = {}
    for patient, side, name in (_cells(row, places) for row in rows if any(row)):
        if side not in ("L", "R") or name not in CLASSES:
            raise ConfigError(f"{CLINICAL} of CMMD has a row {patient!r}, {side!r}, {name!r}; get it anew")
        labels.setdefault((patient, side), set()).add(name)
    return labels


def _cells(row: Sequence[str], places: Sequence[int]) -> list[str]:
    return [row[place].strip() if place < len(row) else "" for place in places]


def _patient(download: Download, path: str) -> str:
    found = _PATIENT.search(path)
    if not found:
        raise ConfigError(
            f"{download.root}/{path} lies in no patient's folder, such as D1-0001; let the NBIA Data Retriever write"
            " descriptive directory names"
        )
    return found[1]


def _side(path: str, header: bytes) -> str:
    try:
        from pydicom import dcmread  # pyright: ignore[reportMissingImports] -- an extra
        from pydicom.errors import InvalidDicomError  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError("CMMD's images are DICOM files: pip install 'fpt_ray[dicom]'") from None
    try:
        read = dcmread(io.BytesIO(header), stop_before_pixels=True, specific_tags=["ImageLaterality"])
    except InvalidDicomError:
        raise ConfigError(f"{path} is no DICOM file; get it anew") from None
    side = str(read.get("ImageLaterality", ""))
    if side not in ("L", "R"):
        raise ConfigError(f"{path} has the ImageLaterality {side!r}, neither L nor R; get it anew")
    return side


CMMD = Published(
    title="CMMD",
    home="cancerimagingarchive.net/collection/cmmd",
    images=5_202,
    labelled=None,
    entries=entries,
    group="patient",
)
