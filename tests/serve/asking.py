"""The application as it is asked without Ray, in this process, and files that it is given."""

import asyncio
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from starlette.testclient import TestClient

from fpt_ray.serve import replicas
from fpt_ray.serve.app import make_app
from fpt_ray.serve.limits import Limits
from fpt_ray.serve.server import answered_hosts

TOKEN = "a token of this test"
BEARING = {"Authorization": f"Bearer {TOKEN}"}
LIMITS = Limits(request_bytes=200_000, request_images=3, image_pixels=20_000, requests=2)


class Alone(replicas.Replica):
    """Without Ray there are no batches."""

    async def compute(self, square):
        (answer,) = await asyncio.get_running_loop().run_in_executor(self.computing, self._computed, [square])
        return answer


def client_of(model, token=TOKEN):
    app = make_app(model, LIMITS, token, answered_hosts("127.0.0.1"))
    return TestClient(app, base_url="http://127.0.0.1:8000", headers=BEARING, raise_server_exceptions=False)


def files_of(images):
    return sorted(Path(images, "test").rglob("*.png"))


def form(*files):
    return [("image", ("a secret name.png", data)) for data in files]


def dicom(**tags):
    """A grey DICOM file of one frame of a patient."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3"
    file.PatientName, file.PatientID = "Doe^Jane", "4711"
    file.Rows, file.Columns, file.SamplesPerPixel = 80, 96, 1
    file.PhotometricInterpretation, file.PixelRepresentation = "MONOCHROME2", 0
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit = 7
    file.PixelData = np.random.default_rng(0).integers(0, 255, (80, 96), np.uint8).tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    sink = io.BytesIO()
    file.save_as(sink, enforce_file_format=True)
    return sink.getvalue()


def bomb(side):
    """A PNG whose header says that it has side x side pixels; it has none."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
