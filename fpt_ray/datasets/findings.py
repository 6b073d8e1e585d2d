"""What inspection has found of images, as columns, and the files that remember it.

Findings are kept by path, size and time of change: in parts as they come, which the next one makes one file of.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import hashlib
import importlib.metadata
import io
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import PIL
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fpt_ray.storage.files import GONE, list_files, read_bytes, remove, write

FOLDER = "inspected"
"""Of a working directory, for what is found; not ``images``, which may be the user's own."""
SAVE_EVERY_S = 10
"""What was found within this time is lost where the process is killed."""

SCHEMA = pa.schema(
    [
        ("sha256", pa.binary(32)),
        ("pixels", pa.binary(16)),
        ("reason", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("mode", pa.string()),
        ("bits", pa.uint8()),
        ("frames", pa.int32()),
        ("one_colour", pa.bool_()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("black", pa.float64()),
        ("white", pa.float64()),
        ("window", pa.bool_()),
        ("patient", pa.string()),
        ("profile", pa.string()),
        ("means", pa.list_(pa.float64(), 3)),
        ("squares", pa.list_(pa.float64(), 3)),
        ("perceptual", pa.uint64()),
    ]
)
"""The columns of a ``Finding``."""
STAMPED = SCHEMA.insert(0, pa.field("stamp", pa.string()))
"""With the stamp of the file that each is of (``storage.files.stamps``)."""
_VERSION = 2
"""Of what the columns mean: raised where the same file would have other findings in the same columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What inspection says of an image. Where it cannot be decoded, only the reason and the hash are there."""

    reason: str = ""
    """Why it cannot be used; empty where it can."""
    sha256: bytes | None = None
    """Of the file's bytes; None: it cannot be read."""
    pixels: bytes | None = None
    """A hash of the decoded values, which files of other formats or with other metadata may share."""
    width: int | None = None
    """In pixels, upright."""
    height: int | None = None
    mode: str | None = None
    """Of the file, as Pillow calls it: RGB, L, P, I;16, ...; empty where Pillow does not open it."""
    bits: int | None = None
    """Of a channel in the file. Of colours of 16 bits the upper 8 are read, and all else here is of these."""
    frames: int | None = None
    """Or pages, of which the first is taken."""
    one_colour: bool | None = None
    low: float | None = None
    """The least value of any channel in the file."""
    high: float | None = None
    """The largest."""
    black: float | None = None
    """The least value that its type can hold."""
    white: float | None = None
    """The largest."""
    window: bool | None = None
    """Whether the file has a window of its own, or needs none."""
    patient: str | None = None
    """Who it is of, where the file says that (DICOM); empty where it does not."""
    profile: str | None = None
    """Why its colour profile cannot be applied; empty where it can be, or where there is none."""
    means: tuple[float, float, float] | None = None
    """Of the channels, in 0..1."""
    squares: tuple[float, float, float] | None = None
    """Means of the squares, in 0..1."""
    perceptual: int | None = None
    """See ``perceptual_hash``."""


def as_columns(findings: Sequence[Finding]) -> pa.Table:
    """Findings as columns."""
    return pa.Table.from_pylist([asdict(finding) for finding in findings], schema=SCHEMA)


# --- the files ------------------------------------------------------------------------------------------------


def findings_name(root: str) -> str:
    """What files of findings on the images below a root are called.

    Those that were found by other means have another name: with another schema, other numbers in it, another Pillow or
    pydicom.
    """
    try:
        pydicom = importlib.metadata.version("pydicom")
    except importlib.metadata.PackageNotFoundError:
        pydicom = ""
    means = (_VERSION, PIL.__version__, pydicom, STAMPED)
    return hashlib.sha256("\n".join(map(str, (root, *means))).encode()).hexdigest()[:16]


def read_findings(folder: str, name: str) -> pa.Table:
    """What inspections have found so far, with stamps: of ``NAME.parquet`` and parts, which become one file.

    Not of images that a worker has found and that are not there where the command is started: nobody would see that
    they changed.
    """
    files = _files(folder, name)
    tables = [STAMPED.empty_table()]
    for file in files:
        try:
            tables.append(pq.read_table(pa.BufferReader(read_bytes(f"{folder}/{file}")), schema=STAMPED))
        except FileNotFoundError:
            continue  # another inspection of the same images has merged it
    known = pa.concat_tables(tables)
    known = known.filter(pc.invert(pc.ends_with(known["stamp"], f"|{GONE}")))
    if parts := [file for file in files if file != f"{name}.parquet"]:
        write(f"{folder}/{name}.parquet", _parquet(known))
        remove(folder, parts)
    return known


def _files(folder: str, name: str) -> list[str]:
    """Files are written whole under these names, or have others."""
    own = re.compile(rf"{name}(-[0-9a-f]{{16}})?\.parquet")
    return [file.path for file in list_files(folder) if own.fullmatch(file.path)]


@contextmanager
def remembered(folder: str, name: str) -> Iterator[Callable[[pa.Table], None]]:
    """What takes findings with their stamps and writes them as parts, every few seconds and at the end.

    A file that could not be read is not remembered: that says nothing of the next time.
    """
    waiting: list[pa.Table] = []
    saved = time.monotonic()

    def save() -> None:
        found = pa.concat_tables([STAMPED.empty_table(), *waiting])
        waiting.clear()
        if len(found := found.filter(pc.is_valid(found["sha256"]))):
            content = _parquet(found)
            write(f"{folder}/{name}-{hashlib.sha256(content).hexdigest()[:16]}.parquet", content)

    def add(found: pa.Table) -> None:
        nonlocal saved
        waiting.append(found)
        if time.monotonic() - saved > SAVE_EVERY_S:
            save()
            saved = time.monotonic()

    try:
        yield add
    finally:
        save()


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
