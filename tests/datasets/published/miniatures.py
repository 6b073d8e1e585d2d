"""Miniatures of the published layouts: the same folders, names and columns, a few images each."""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Miniature:
    """What lies in a download, and what must come out of it."""

    files: Mapping[str, bytes]
    classes: tuple[str, ...]
    images: int
    """Those without a label among them."""
    labelled: int
    needed: str
    """A file or folder without which the images have no labels."""


def _image(number: int, kind: str) -> bytes:
    """A picture of its own content."""
    pixels = np.random.default_rng(number).integers(0, 256, (12, 16), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").save(data, kind)
    return data.getvalue()


def _csv(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def ddr() -> Miniature:
    """Grades 0 to 4 in each list, and one image that is ungradable."""
    files: dict[str, bytes] = {}
    number = 0
    for split, copies in (("train", 3), ("valid", 1), ("test", 2)):
        lines: list[str] = []
        for grade in (*range(5),) * copies + (5,) * (split == "train"):
            number += 1
            name = f"007-{number:04d}-000.jpg"
            lines.append(f"{name} {grade}")
            files[f"DDR-dataset/DR_grading/{split}/{name}"] = _image(number, "JPEG")
        files[f"DDR-dataset/DR_grading/{split}.txt"] = _csv(*lines)
    return Miniature(
        files=files, classes=("0", "1", "2", "3", "4"), images=31, labelled=30, needed="DR_grading/train.txt"
    )


def messidor2() -> Miniature:
    """Six examinations of each grade, an image of the last one ungradable; ``.jpg`` in the labels, ``.JPG`` on disk."""
    files: dict[str, bytes] = {}
    pairs, labels = ["left;right "], ["image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable"]
    for number in range(30):
        eyes = [f"IM{number:06d}", f"20051020_{number:05d}_0100_PP"]
        pairs.append(f"{eyes[0]}.JPG;{eyes[1]}.png")
        for side, (eye, kind, spelled) in enumerate(zip(eyes, ("JPEG", "PNG"), ("JPG", "png"), strict=True)):
            files[f"IMAGES/{eye}.{spelled}"] = _image(2 * number + side, kind)
            gradable = (number, side) != (29, 1)
            labels.append(f"{eye}.{spelled.lower()},{number % 5 if gradable else ''},{'0' * gradable},{int(gradable)}")
    files |= {"messidor-2.csv": _csv(*pairs), "messidor_data.csv": _csv(*labels)}
    return Miniature(files=files, classes=("0", "1", "2", "3", "4"), images=60, labelled=59, needed="messidor_data.csv")


def isic2016() -> Miniature:
    """Words for labels in the training file, numbers in that of the test."""
    files: dict[str, bytes] = {}
    for name, first, count, words in (("Training", 0, 32, ("benign", "malignant")), ("Test", 50, 8, ("0.0", "1.0"))):
        lines = [f"ISIC_{first + number:07d},{words[number % 4 == 0]}" for number in range(count)]
        files[f"ISBI2016_ISIC_Part3_{name}_GroundTruth.csv"] = _csv(*lines)
        for number in range(first, first + count):
            files[f"ISBI2016_ISIC_Part3_{name}_Data/ISIC_{number:07d}.jpg"] = _image(number, "JPEG")
    return Miniature(
        files=files,
        classes=("benign", "malignant"),
        images=40,
        labelled=40,
        needed="ISBI2016_ISIC_Part3_Test_GroundTruth.csv",
    )


DIAGNOSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def isic2018() -> Miniature:
    """Seven diagnoses in every split; two training images a lesion; the ground truth in folders of its own."""
    files: dict[str, bytes] = {}
    lesions, number = ["image,lesion_id,diagnosis_confirm_type"], 24306
    for name, copies in (("Training", 6), ("Validation", 1), ("Test", 1)):
        lines = [f"image,{','.join(DIAGNOSES)}"]
        for place in range(7 * copies):
            image = f"ISIC_{number:07d}"
            files[f"ISIC2018_Task3_{name}_Input/{image}.jpg"] = _image(number, "JPEG")
            lines.append(f"{image},{','.join('1.0' if one == place // copies else '0.0' for one in range(7))}")
            if name == "Training":
                lesions.append(f"{image},HAM_{place // 2:07d},histopathology")
            number += 1
        files[f"ISIC2018_Task3_{name}_GroundTruth/ISIC2018_Task3_{name}_GroundTruth.csv"] = _csv(*lines)
    files["ISIC2018_Task3_Training_LesionGroupings.csv"] = _csv(*lesions)
    return Miniature(
        files=files,
        classes=tuple(sorted(DIAGNOSES)),
        images=56,
        labelled=56,
        needed="ISIC2018_Task3_Training_LesionGroupings.csv",
    )


def ddsm() -> Miniature:
    """Four views of each case, with a mask and what else lies there."""
    files: dict[str, bytes] = {}
    for letter, name in (("A", "Normal"), ("C", "Benign"), ("B", "Cancer")):
        for case in range(4):
            folder, stem = f"MINI-DDSM-Complete-JPEG-8/{name}/{case:04d}", f"{letter}_{case:04d}_1"
            for view in range(4):
                side, seen = ("LEFT", "RIGHT")[view % 2], ("CC", "MLO")[view // 2]
                files[f"{folder}/{stem}.{side}_{seen}.jpg"] = _image(1000 * ord(letter) + 4 * case + view, "JPEG")
            files[f"{folder}/{stem}.LEFT_CC_Mask.jpg"] = _image(0, "JPEG")
            files |= {f"{folder}/{stem.replace('_', '-')}.ics": b"ics", f"{folder}/TAPE_{stem}.COMB.16_PGM": b"P5"}
    files["MINI-DDSM-Complete-JPEG-8/BoundaryMask.png"] = _image(1, "PNG")
    files["MINI-DDSM-Complete-JPEG-8/DataWMask.xlsx"] = b"PK"
    return Miniature(
        files=files,
        classes=("Benign", "Cancer", "Normal"),
        images=48,
        labelled=48,
        needed="MINI-DDSM-Complete-JPEG-8/Benign",
    )


def covid() -> Miniature:
    """Names of all kinds."""
    kinds = (("png", "PNG"), ("jpg", "JPEG"), ("jfif", "JPEG"), ("jpeg", "JPEG"))
    files = {
        f"COVID_IEEE/{name}/{name} ({number}).{kinds[number % 4][0]}": _image(
            100 * start + number, kinds[number % 4][1]
        )
        for start, name in enumerate(("covid", "normal", "virus"))
        for number in range(10)
    }
    return Miniature(
        files=files, classes=("covid", "normal", "virus"), images=30, labelled=30, needed="COVID_IEEE/virus"
    )


def chncxr() -> Miniature:
    """The last digit of a name is the label; readings lie beside."""
    files: dict[str, bytes] = {}
    for number in range(1, 31):
        name = f"CHNCXR_{number:04d}_{int(number > 15)}"
        files[f"ChinaSet_AllFiles/CXR_png/{name}.png"] = _image(number, "PNG")
        files[f"ChinaSet_AllFiles/ClinicalReadings/{name}.txt"] = b"male 45yrs\nnormal"
    files["ChinaSet_AllFiles/CXR_png/Thumbs.db"] = b"db"
    return Miniature(files=files, classes=("normal", "tuberculosis"), images=30, labelled=30, needed="CXR_png")


def cmmd() -> Miniature:
    """Patients of one breast with two views, and patients of both breasts of whom one breast has no biopsy."""
    rows = [("ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype")]
    files: dict[str, bytes] = {}
    for number in range(1, 21):
        patient, both = f"D{1 + number % 2}-{number:04d}", number % 4 == 0
        rows.append((patient, "LR"[number % 2], "44", "2", "mass", ("Benign", "Malignant")[number % 5 < 2], ""))
        series = f"manifest-1616439774456/CMMD/{patient}/07-18-2010-NA-NA-{number:05d}/1.000000-NA-{number:05d}"
        for image, side in enumerate("LLRR" if both else 2 * "LR"[number % 2], start=1):
            files[f"{series}/1-{image}.dcm"] = dicom(patient, side, image)
    files["CMMD_clinicaldata_revision.xlsx"] = workbook(rows)
    return Miniature(
        files=files,
        classes=("Benign", "Malignant"),
        images=50,
        labelled=40,
        needed="CMMD_clinicaldata_revision.xlsx",
    )


def bccd() -> Miniature:
    """A platelet in every second image."""
    ends = "<xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax>"
    box = f"<object><name>Platelets</name><bndbox>{ends}</bndbox></object>"
    files: dict[str, bytes] = {}
    for split, first in (("train", 0), ("val", 4), ("test", 8)):
        names = [f"BloodImage_{number:05d}" for number in range(first, first + 4)]
        files[f"ImageSets/Main/{split}.txt"] = _csv(*names)
        for number, name in enumerate(names):
            files[f"JPEGImages/{name}.jpg"] = _image(first + number, "JPEG")
            files[f"Annotations/{name}.xml"] = f"<annotation>{box if number % 2 else ''}</annotation>".encode()
    return Miniature(files=files, classes=("no", "yes"), images=12, labelled=12, needed="ImageSets/Main/test.txt")


MINIATURES: Mapping[str, Callable[[], Miniature]] = {
    make.__name__: make for make in (ddr, messidor2, isic2016, isic2018, ddsm, cmmd, covid, chncxr, bccd)
}


def unpack(miniature: Miniature, folder: Path) -> Path:
    """Writes its files below a folder, which it returns."""
    for name, content in miniature.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


# --- formats ------------------------------------------------------------------------------------------------------


def dicom(patient: str, side: str, view: int = 1) -> bytes:
    """A mammogram of 12 x 16 pixels, as CMMD's headers have it."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.2"
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.PatientID, image.Modality = patient, "MG"
    if side:
        image.ImageLaterality = side
    image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = 12, 16, 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.PixelData = np.random.default_rng(zlib.crc32(f"{patient}{side}{view}".encode())).bytes(12 * 16)
    data = io.BytesIO()
    image.save_as(data, enforce_file_format=True)
    return data.getvalue()


def workbook(rows: list[tuple[str, ...]]) -> bytes:
    """An .xlsx file as spreadsheets write it: texts shared, numbers in place, empty cells left out."""
    strings = sorted({cell for row in rows for cell in row if cell and not cell.isdigit()})

    def cells(number: int, row: tuple[str, ...]) -> Iterator[str]:
        for column, cell in zip("ABCDEFG", row, strict=False):
            kind, value = ("", cell) if cell.isdigit() else (' t="s"', strings.index(cell) if cell else "")
            if cell:
                yield f'<c r="{column}{number}"{kind}><v>{value}</v></c>'

    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    lines = [f'<row r="{number}">{"".join(cells(number, row))}</row>' for number, row in enumerate(rows, start=1)]
    shared = "".join(f"<si><t>{escape(string)}</t></si>" for string in strings)
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as book:
        book.writestr("xl/sharedStrings.xml", f"<sst {space}>{shared}</sst>")
        book.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{''.join(lines)}</sheetData></worksheet>"
        )
    return data.getvalue()
