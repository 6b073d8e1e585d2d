"""DICOM, compared with decoders that it is not read by (imagecodecs, NumPy) and with the standard's formulas by hand.

Codestreams are those of the wheel wsidicom-data, files those in pydicom's own. Nothing is downloaded.
"""

import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage

from fpt_ray.config.preparation import Preparation
from fpt_ray.errors import ConfigError
from fpt_ray.images import dicom
from fpt_ray.images.decoding import decode, image_size, read_picture
from fpt_ray.images.picture import ImageError, eight_bit
from fpt_ray.images.table import read_images
from tests.images.test_table import put

# --- another decoder ------------------------------------------------------------------------------------------

LOSSY = {UID(f"1.2.840.10008.1.2.4.{end}") for end in ("50", "51", "81", "91", "203")}


def decoded_otherwise(stream, file):
    """The frame of a codestream, by imagecodecs."""
    syntax, name = file.file_meta.TransferSyntaxUID, file.file_meta.TransferSyntaxUID.name
    if syntax == RLELossless:
        return unpacked(stream, file)
    if "JPEG-LS" in name:
        return imagecodecs.jpegls_decode(stream)
    if "JPEG 2000" in name:
        return imagecodecs.jpeg2k_decode(stream)
    if "Lossless" in name:
        return imagecodecs.jpegsof3_decode(stream)
    given = "RGB" if file.PhotometricInterpretation == "RGB" else None
    return imagecodecs.jpeg8_decode(stream, colorspace=given, outcolorspace=given)


def unpacked(stream, file):
    """PackBits segments, one for each byte of each sample, most significant first (PS3.5, annex G)."""
    starts = np.frombuffer(stream, "<u4", 16)
    ends = [*starts[2 : starts[0] + 1], len(stream)]
    each, size = file.BitsAllocated // 8, file.Rows * file.Columns
    parts = zip(starts[1 : starts[0] + 1], ends, strict=True)
    segments = [imagecodecs.packbits_decode(stream[start:end])[:size] for start, end in parts]
    found = np.stack([np.frombuffer(one, np.uint8) for one in segments]).reshape(-1, each, size)
    sign = "i" if file.PixelRepresentation else "u"
    values = np.ascontiguousarray(found.transpose(0, 2, 1)).view(f">{sign}{each}")
    return values.reshape(-1, file.Rows, file.Columns).transpose(1, 2, 0).squeeze()


def native(file):
    """The values of a frame that is not compressed."""
    order = "<" if file.original_encoding[1] else ">"
    rows, columns, samples = file.Rows, file.Columns, file.SamplesPerPixel
    if file.BitsAllocated == 1:
        return np.unpackbits(np.frombuffer(file.PixelData, np.uint8), bitorder="little")[: rows * columns].reshape(
            rows, columns
        )
    data = file.PixelData
    if order == ">" and file.BitsAllocated == 8 and file["PixelData"].VR == "OW":
        data = np.frombuffer(data, ">u2").astype("<u2").tobytes()
    kind = f"{order}{'i' if file.PixelRepresentation else 'u'}{file.BitsAllocated // 8}"
    if file.PhotometricInterpretation == "YBR_FULL_422":  # Y Y Cb Cr for two pixels
        four = np.frombuffer(data, np.uint8)[: rows * columns * 2].reshape(rows, columns // 2, 4)
        chroma = np.repeat(four[..., 2:], 2, axis=1)
        return np.concatenate([four[..., :2].reshape(rows, columns, 1), chroma], axis=2)
    values = np.frombuffer(data, kind)[: rows * columns * samples]
    if samples == 1:
        return values.reshape(rows, columns)
    if file.PlanarConfiguration:
        return values.reshape(samples, rows, columns).transpose(1, 2, 0)
    return values.reshape(rows, columns, samples)


def rgb_of(ybr):
    """PS3.3, C.7.6.3.1.2, of values that are not subsampled."""
    y, cb, cr = np.moveaxis(ybr.astype(float), -1, 0)
    cb, cr = cb - 128, cr - 128
    return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1).round().clip(0, 255)


def expected(file):
    """Grey values, rescaled, or RGB of 8 bits."""
    syntax = file.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        values = decoded_otherwise(get_frame(file.PixelData, 0, number_of_frames=1), file)
    else:
        values = native(file)
    if file.PhotometricInterpretation == "PALETTE COLOR":
        tables = [getattr(file, f"{name}PaletteColorLookupTableData") for name in ("Red", "Green", "Blue")]
        return np.stack([np.frombuffer(one, "<u2")[values] for one in tables], axis=-1) / 65535 * 255
    if file.SamplesPerPixel == 3:
        # A JPEG says itself what it holds; that of lossless YBR in wsidicom-data says RGB, and holds it.
        plain_ybr = file.PhotometricInterpretation.startswith("YBR_FULL") and "JPEG " not in syntax.name
        scale = 255 / (2.0**file.BitsStored - 1)
        return rgb_of(values) if plain_ybr else values * scale
    if file.PixelRepresentation and values.dtype.kind == "u":
        values = values.astype(np.int64)
        values = np.where(values >= 2 ** (file.BitsStored - 1), values - 2**file.BitsStored, values)
    return values * float(file.get("RescaleSlope", 1)) + float(file.get("RescaleIntercept", 0))


def assert_same(data, file):
    picture = read_picture(data, "a")
    found = picture.grey if picture.colours is None else np.array(picture.colours)
    wanted = expected(file)
    assert found.shape == wanted.shape
    lossy = file.file_meta.TransferSyntaxUID in LOSSY
    rounded = picture.colours is not None  # to 8 bits, or from other colours
    assert np.abs(found - wanted).max() <= (2 if lossy else 1 if rounded else 1e-3)


# --- each codestream of wsidicom-data -------------------------------------------------------------------------

STREAMS = Path(importlib.util.find_spec("wsidicom_data").submodule_search_locations[0], "data", "encoded")
SYNTAXES = {
    uid.name.replace(" ", "_"): uid
    for uid in map(UID, ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", *dicom._DECODERS))
}


def wrapped(pixels, syntax, **tags):
    """A DICOM file of one frame; ``pixels`` are its bytes, encoded."""
    file = Dataset()
    file.SOPClassUID, file.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    grey = {"PhotometricInterpretation": "MONOCHROME2", "SamplesPerPixel": 1, "PixelRepresentation": 0}
    for name, value in ({"BitsAllocated": 8, "BitsStored": 8} | grey | tags).items():
        setattr(file, name, value)
    file.HighBit = file.BitsStored - 1
    if file.SamplesPerPixel == 3:
        file.PlanarConfiguration = 0
    file.PixelData = encapsulate([pixels]) if syntax.is_encapsulated else pixels
    file["PixelData"].VR = "OB" if file.BitsAllocated == 8 or syntax.is_encapsulated else "OW"
    file["PixelData"].is_undefined_length = syntax.is_encapsulated
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    file.save_as(
        buffer, enforce_file_format=True, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian
    )
    return buffer.getvalue()


@pytest.mark.parametrize("path", sorted(STREAMS.iterdir()), ids=lambda path: path.name)
def test_each_codestream_gives_the_pixels_of_another_decoder(path):
    name, channels, bits = path.stem.rsplit("-", 2)
    (syntax,) = [uid for known, uid in SYNTAXES.items() if known.startswith(name)][:1]
    tags = {"BitsStored": int(bits), "BitsAllocated": 8 if bits == "8" else 16}
    if channels != "GRAYSCALE":
        ybr = "YBR_ICT" if "2000_Image_Compression-" in path.name else "YBR_RCT" if "2000" in name else "YBR_FULL"
        tags |= {"SamplesPerPixel": 3, "PhotometricInterpretation": ybr if channels == "YBR" else "RGB"}
    with Image.open(STREAMS.parent / "test_tile.png") as image:
        tags |= {"Rows": image.height, "Columns": image.width}
    data = wrapped(path.read_bytes(), syntax, **tags)
    if bits == "12":
        with pytest.raises(ImageError, match="encoded as JPEG extended of 12 bits, which is not read; decompress"):
            read_picture(data, "a")
    else:
        assert_same(data, pydicom.dcmread(io.BytesIO(data)))


# --- each image of pydicom's test files -----------------------------------------------------------------------

FILES = Path(pydicom.__file__).parent / "data"
REFUSED = {
    "ExplVR_BigEndNoMeta.dcm": "no readable image of a known format",  # nothing in it says that it is DICOM
    "ExplVR_LitEndNoMeta.dcm": "no readable image of a known format",
    "no_meta.dcm": "no readable image of a known format",
    "JPEG-lossy.dcm": "JPEG extended of 12 bits",  # the decoder that reads it is under the GPL
    "JPGExtended.dcm": "JPEG extended of 12 bits",
    "JPEG2000-embedded-sequence-delimiter.dcm": "cannot be read",  # 250 bytes of a codestream
    "MR_truncated.dcm": "less than expected",
    "SC_rgb_rle_16bit_2frame.dcm": "2 frames",
    "SC_rgb_rle_2frame.dcm": "2 frames",
    "SC_rgb_rle_32bit_2frame.dcm": "2 frames",
    "examples_ybr_color.dcm": "30 frames",
    "rtdose.dcm": "15 frames",
    "rtdose_expb.dcm": "15 frames",
    "rtdose_rle.dcm": "15 frames",
    "image_dfl.dcm": "deflated",
    "badVR.dcm": "cannot be read",
    "meta_missing_tsyntax.dcm": "cannot be read",
    "nested_priv_SQ.dcm": "cannot be read",
}


def dicom_files():
    return sorted(path for path in FILES.rglob("*") if path.is_file() and path.suffix in (".dcm", ""))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", dicom_files(), ids=lambda path: str(path.relative_to(FILES)))
def test_each_image_of_pydicom_gives_the_pixels_of_another_decoder(path):
    data = path.read_bytes()
    if path.name in REFUSED:
        with pytest.raises(ImageError, match=REFUSED[path.name]):
            read_picture(data, path.name)
        return
    file = pydicom.dcmread(path, force=True)
    if "PixelData" in file:
        assert_same(data, file)
    else:
        with pytest.raises(ImageError, match=r"no pixels \(modality|and has none|no readable image of a known format"):
            read_picture(data, path.name)


# --- what a file says of its values -----------------------------------------------------------------------------


def grey_file(values, syntax=ExplicitVRLittleEndian, **tags):
    values = np.array(values)
    bits = 8 * values.itemsize
    tags = {"BitsAllocated": bits, "BitsStored": bits, "PixelRepresentation": int(values.dtype.kind == "i")} | tags
    return wrapped(values.tobytes(), syntax, Rows=values.shape[0], Columns=values.shape[1], **tags)


def prepared(data, **settings):
    return decode(data, "a", Preparation(**settings))[0, :, 0].tolist()


HOUNSFIELD = np.array([[0, 824, 924, 1024, 1064, 1224, 1225, 4095]], np.int16)
RESCALED = {"RescaleSlope": 1, "RescaleIntercept": -1024, "BitsStored": 13}


def test_windows_are_of_rescaled_values():
    """Centre 40 and width 400, as a radiologist asks for soft tissue: -160 HU is black and 239 HU white."""
    data = grey_file(HOUNSFIELD, **RESCALED)
    shares = [0, 0, (-100 + 160) / 399, 160 / 399, 200 / 399, 360 / 399, 361 / 399, 1]
    expected = [round(255 * share) for share in shares]
    assert prepared(data, intensity="window", window=(40, 400)) == expected
    own = grey_file(HOUNSFIELD, WindowCenter=[40, 500], WindowWidth=[400, 2000], **RESCALED)
    assert prepared(own, intensity="window") == expected
    exact = grey_file(HOUNSFIELD, WindowCenter=40, WindowWidth=400, VOILUTFunction="LINEAR_EXACT", **RESCALED)
    assert prepared(exact, intensity="window")[2:5] == [round(255 * (value + 160) / 400) for value in (-100, 0, 40)]
    sigmoid = grey_file(HOUNSFIELD, WindowCenter=40, WindowWidth=400, VOILUTFunction="SIGMOID", **RESCALED)
    s_curve = [255 / (1 + np.exp(-4 * (value - 40) / 400)) for value in (-100, 0, 40)]
    assert prepared(sigmoid, intensity="window")[2:5] == [int(value + 0.5) for value in s_curve]


def test_the_whole_range_is_of_the_bits_that_are_stored_and_rescaled():
    twelve = grey_file(np.array([[0, 2048, 4095]], np.uint16), BitsStored=12)
    assert prepared(twelve) == [0, 128, 255]
    signed = grey_file(np.array([[-2048, 0, 2047]], np.int16), BitsStored=12, RescaleSlope=2, RescaleIntercept=-7)
    assert prepared(signed) == [0, 128, 255]
    falling = grey_file(np.array([[0, 4095]], np.uint16), BitsStored=12, RescaleSlope=-1, RescaleIntercept=0)
    assert prepared(falling) == [255, 0]


def test_monochrome1_is_white_at_its_least():
    data = grey_file(np.array([[0, 100, 255]], np.uint8), PhotometricInterpretation="MONOCHROME1")
    assert prepared(data) == [255, 155, 0]
    assert prepared(data, intensity="window", window=(100, 101)) == [255, 126, 0]


def table_of(entries, first, bits):
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [len(entries), first, bits], list(entries)
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    return [table]


def test_tables_of_a_file_are_looked_up():
    """Values before the first and after the last entry have that one's (PS3.3, C.11.2.1.1)."""
    values = np.array([[0, 100, 101, 102, 4000]], np.uint16)
    own = grey_file(values, BitsStored=12, VOILUTSequence=table_of([0, 51, 255], 100, 8))
    assert prepared(own, intensity="window") == [0, 0, 51, 255, 255]
    wide = grey_file(values, BitsStored=12, VOILUTSequence=table_of([0, 32768, 65535], 100, 16))
    assert prepared(wide, intensity="window") == [0, 0, 128, 255, 255]
    modality = grey_file(values, BitsStored=12, ModalityLUTSequence=table_of([5, 10, 255], 100, 8))
    assert read_picture(modality, "a").grey.tolist() == [[5, 5, 10, 255, 255]]
    assert prepared(modality) == [5, 5, 10, 255, 255]


def test_a_table_that_cannot_be_looked_up_is_told_of_its_image():
    """The table is looked at after the file was read, and only where it is asked for."""
    table = table_of([0, 51, 255], 100, 8)
    del table[0].LUTData
    data = grey_file(np.array([[0, 100]], np.uint16), BitsStored=12, VOILUTSequence=table)
    assert prepared(data) == [0, 6]
    with pytest.raises(ImageError, match="a: its DICOM cannot be read"):
        prepared(data, intensity="window")


def test_an_enhanced_image_has_them_in_its_functional_groups():
    groups, values, window = Dataset(), Dataset(), Dataset()
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1024, "HU"
    window.WindowCenter, window.WindowWidth = 40, 400
    groups.PixelValueTransformationSequence, groups.FrameVOILUTSequence = [values], [window]
    data = grey_file(HOUNSFIELD, BitsStored=13, NumberOfFrames=1, SharedFunctionalGroupsSequence=[groups])
    flat = grey_file(HOUNSFIELD, WindowCenter=40, WindowWidth=400, **RESCALED)
    assert prepared(data, intensity="window") == prepared(flat, intensity="window")


def test_the_size_is_read_without_the_pixels_and_the_patient_with_them():
    data = grey_file(np.zeros((3, 5), np.uint8), PatientID=" P 7 ")
    assert image_size(data, "a") == (5, 3)
    assert read_picture(data, "a").facts().patient == "P 7"
    assert read_picture(grey_file(np.zeros((3, 5), np.uint8)), "a").facts().patient == ""


# --- what is refused --------------------------------------------------------------------------------------------


def broken(data, **tags):
    file = pydicom.dcmread(io.BytesIO(data))
    for name, value in tags.items():
        setattr(file, name, value) if value is not None else delattr(file, name)
    buffer = io.BytesIO()
    file.save_as(buffer)
    return buffer.getvalue()


WHOLE = grey_file(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (broken(WHOLE, PixelData=None, Rows=None, Modality="SR"), r"it has no pixels \(modality SR\); leave it out"),
        (
            broken(WHOLE, PixelData=None),
            r"says how large its pixels are and has none; it may be cut off, copy it again",
        ),
        (broken(WHOLE, NumberOfFrames=7), r"it has 7 frames; save each that counts as a file of its own"),
        (broken(WHOLE, Columns=60_000, Rows=60_000), r"it is 60000x60000; it must have 1 to 89,478,485 pixels"),
        (broken(WHOLE, Columns=0), r"it is 0x4"),
        (broken(WHOLE, Rows=5), r"cannot be read \(ValueError: The number of bytes .* less than expected"),
        (WHOLE[:-1], r"cannot be read .*less than expected"),
        (broken(WHOLE, PhotometricInterpretation="HSV"), r"cannot be read|photometric interpretation is HSV"),
    ],
)
def test_what_cannot_be_used_is_named(data, said):
    with pytest.raises(ImageError, match=said) as error:
        read_picture(data, "x.dcm")
    assert str(error.value).startswith("x.dcm: ")


def test_half_of_a_compressed_file_is_no_image():
    whole = (FILES / "test_files" / "SC_rgb_jpeg_gdcm.dcm").read_bytes()
    read_picture(whole, "x.dcm")
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(ImageError, match=r"x\.dcm: "):
            read_picture(whole[: int(share * len(whole))], "x.dcm")


def test_an_encoding_that_is_not_read_is_named_with_the_remedy():
    video = wrapped(b"\0" * 64, UID("1.2.840.10008.1.2.4.102"), Rows=4, Columns=4)
    with pytest.raises(
        ImageError, match=r"encoded as MPEG-4 .*1\.2\.840\.10008\.1\.2\.4\.102\), which is not read; deco"
    ):
        read_picture(video, "x.dcm")


def test_a_frame_of_another_size_is_refused_before_it_is_decoded():
    """Of JPEG-LS and of lossless JPEG; the first few bytes say 26 GB."""
    stream = imagecodecs.jpegls_encode(np.zeros((8, 8), np.uint8))
    at = stream.index(b"\xff\xf7") + 5
    huge = stream[:at] + b"\xff\xff\xff\xff" + stream[at + 4 :]
    said = "its header says 8x8 of 1, its pixels are 65535x65535 of 1"
    with pytest.raises(ImageError, match=said):
        read_picture(wrapped(huge, UID("1.2.840.10008.1.2.4.80"), Rows=8, Columns=8), "x.dcm")
    lossless = b"\xff\xd8\xff\xc3\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00"
    with pytest.raises(ImageError, match=said):
        read_picture(wrapped(lossless, UID("1.2.840.10008.1.2.4.70"), Rows=8, Columns=8), "x.dcm")
    with pytest.raises(ImageError, match="its header ends before the marker ffc3"):
        read_picture(wrapped(lossless[:3] + b"\xda", UID("1.2.840.10008.1.2.4.70"), Rows=8, Columns=8), "x.dcm")


def test_a_deflated_file_is_refused_however_long_its_first_header_is():
    data = (FILES / "test_files" / "image_dfl.dcm").read_bytes()
    group = 132 + 12  # the preamble, and the length of the group, which nobody needs
    long = data[:group] + b"\x02\x00\x01\x00OB\x00\x00" + (4096).to_bytes(4, "little") + bytes(4096) + data[group:]
    with pytest.raises(ImageError, match="deflated"):
        read_picture(long, "x.dcm")


def test_a_codestream_of_another_size_is_refused_before_it_is_decoded():
    buffer = io.BytesIO()
    Image.new("L", (64, 64)).save(buffer, "JPEG")
    data = wrapped(buffer.getvalue(), UID("1.2.840.10008.1.2.4.50"), Rows=4, Columns=4)
    with pytest.raises(ImageError, match="its header says 4x4, its pixels are 64x64"):
        read_picture(data, "x.dcm")


def test_a_missing_decoder_is_no_fault_of_the_image(monkeypatch):
    """An unreadable image may be skipped; what is not installed stops all."""
    monkeypatch.setitem(dicom._DECODERS, str(RLELossless), ("RLE", "absent"))
    with pytest.raises(ConfigError, match=r"absent is missing; pip install 'fpt_ray\[dicom\]'") as error:
        read_picture((FILES / "test_files" / "MR_small_RLE.dcm").read_bytes(), "x.dcm")
    assert not isinstance(error.value, ImageError)


def test_without_the_extra_a_dicom_file_names_it():
    code = (
        "import sys\n"
        "sys.modules['pydicom'] = None\n"
        "from fpt_ray.images.decoding import read_picture\n"
        "read_picture(bytes(128) + b'DICM' + bytes(100), 'x.dcm')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        "ConfigError: images: x.dcm is a DICOM file, which needs pydicom; pip install 'fpt_ray[dicom]'" in done.stderr
    )


def test_dicom_files_stand_in_folders_and_tables(tmp_path):
    for label in "ab":
        for number in range(3):
            put(tmp_path / f"images/{label}/{number}.dcm", WHOLE)
        put(tmp_path / f"images/{label}/IM0001", WHOLE)
    table = read_images(str(tmp_path / "images"))
    assert len(table) == 6
    (tmp_path / "images/t.csv").write_text("path,label\na/IM0001,a\nb/IM0001,b\n")
    assert len(read_images(str(tmp_path / "images/t.csv"))) == 2
    assert eight_bit(read_picture((tmp_path / "images/a/IM0001").read_bytes(), "a"), Preparation()).shape == (4, 4, 3)
