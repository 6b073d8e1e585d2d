"""A contact sheet of each class: what a person sees at once, and no check does."""

import io
import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageDraw, ImageFont

from fpt_ray.config.preparation import Preparation
from fpt_ray.display.terminal import say
from fpt_ray.images.decoding import read_picture
from fpt_ray.images.picture import eight_bit
from fpt_ray.images.table import ImageTable
from fpt_ray.storage.files import read_bytes, write

IMAGES = 36
"""Of a sheet."""
MAX_SHEETS = 100
_COLUMNS, _SIDE, _GAP, _TITLE = 6, 128, 4, 20
"""Thumbnails in a row; the others in pixels."""
_EIGHT_BITS = 255
_OWN_RANGE = Preparation(intensity="percentile")
_OWN_RANGE_SAID = "; each of over 8 bits from its own {} % to its {} % percentile".format(*_OWN_RANGE.percentiles)


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
    number = _number_of_classes(table)
    if number > len(written):
        say(f"contact sheets: the first {len(written):,} of {number:,} classes have one, the others none")
    return written


def _number_of_classes(table: ImageTable) -> int:
    """How many have images."""
    if table.task == "regression":
        return len(table.classes)
    return int((table.labels == 1).any(axis=0).sum()) if table.task == "multilabel" else len(np.unique(table.labels))


def _classes(table: ImageTable) -> Iterator[tuple[str, Int[np.ndarray, " _"]]]:
    """(name, rows) of what has images."""
    for number, name in enumerate(table.classes):
        labels = table.labels[:, number] == 1 if table.task == "multilabel" else table.labels == number
        rows = np.flatnonzero(labels) if table.task != "regression" else np.arange(len(table))
        if len(rows):
            yield name, rows


def _sheet(table: ImageTable, rows: Int[np.ndarray, " _"], title: str) -> bytes:
    """A PNG of some images, in their order, each below the name of its split.

    By the whole range of their type, CT and grey of 12 bits in 16 would be black.
    """
    lines, pitch = -(-len(rows) // _COLUMNS), _SIDE + _GAP
    sheet = Image.new("RGB", (_COLUMNS * pitch + _GAP, _TITLE + lines * (pitch + _TITLE)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    wide = False
    for place, row in enumerate(table.rows_at(rows)):
        left, top = _GAP + place % _COLUMNS * pitch, _TITLE + place // _COLUMNS * (pitch + _TITLE)
        found = read_picture(read_bytes(f"{table.root}/{row.path}"), row.path)
        own = found.grey is not None and found.span[1] - found.span[0] > _EIGHT_BITS
        small, wide = Image.fromarray(eight_bit(found, _OWN_RANGE if own else Preparation())), wide or own
        small.thumbnail((_SIDE, _SIDE))
        sheet.paste(small, (left, top + _TITLE - _GAP))
        draw.text((left, top), row.split, "black", font)
    draw.text((_GAP, _GAP), title + _OWN_RANGE_SAID * wide, "black", font)
    content = io.BytesIO()
    sheet.save(content, "PNG", optimize=True)
    return content.getvalue()
