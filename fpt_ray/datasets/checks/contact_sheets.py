"""A contact sheet of each class: what a person sees at once, and no check does."""

import io
import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageDraw, ImageFont

from fpt_ray.images.decoding import decode
from fpt_ray.images.table import ImageTable
from fpt_ray.storage.files import read_bytes, write

IMAGES = 36
"""Of a sheet."""
MAX_SHEETS = 100
_COLUMNS, _SIDE, _GAP, _TITLE = 6, 128, 4, 20
"""Thumbnails in a row; the others in pixels."""


def write_contact_sheets(table: ImageTable, folder: str) -> list[str]:
    """Writes ``NUMBER_NAME.png`` for each class, or for each of several labels; returns where they are.

    The images of a sheet are those of the smallest content hashes: drawn at random, and the same each time.

    Raises:
        OSError, StorageError: an image cannot be read, or a sheet not be written.
    """
    written = []
    for number, (name, rows) in zip(range(MAX_SHEETS), _classes(table), strict=False):
        drawn = rows[np.lexsort(table.hashes()[rows, 7::-1].T)][:IMAGES]
        plain = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:60].strip("._")
        written.append(f"{folder}/{number:03d}_{plain}.png")
        write(written[-1], _sheet(table, drawn, f"{name}: {len(drawn)} of {len(rows)} images"))
    return written


def _classes(table: ImageTable) -> Iterator[tuple[str, Int[np.ndarray, " _"]]]:
    """(name, rows) of what has images."""
    for number, name in enumerate(table.classes):
        labels = table.labels[:, number] == 1 if table.task == "multilabel" else table.labels == number
        rows = np.flatnonzero(labels) if table.task != "regression" else np.arange(len(table))
        if len(rows):
            yield name, rows


def _sheet(table: ImageTable, rows: Int[np.ndarray, " _"], title: str) -> bytes:
    """A PNG of some images, in their order, each below the name of its split."""
    lines, pitch = -(-len(rows) // _COLUMNS), _SIDE + _GAP
    sheet = Image.new("RGB", (_COLUMNS * pitch + _GAP, _TITLE + lines * (pitch + _TITLE)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    draw.text((_GAP, _GAP), title, "black", font)
    for place, row in enumerate(table.rows_at(rows)):
        left, top = _GAP + place % _COLUMNS * pitch, _TITLE + place // _COLUMNS * (pitch + _TITLE)
        small = Image.fromarray(decode(read_bytes(f"{table.root}/{row.path}"), row.path))
        small.thumbnail((_SIDE, _SIDE))
        sheet.paste(small, (left, top + _TITLE - _GAP))
        draw.text((left, top), row.split, "black", font)
    content = io.BytesIO()
    sheet.save(content, "PNG", optimize=True)
    return content.getvalue()
