"""The first sheet of an .xlsx workbook, by the standard library: one published table is no reason for a dependency."""

import io
import re
import zipfile
from collections.abc import Sequence
from xml.etree import ElementTree

_MAX_BYTES = 64 * 2**20
_SHARED = "xl/sharedStrings.xml"
_MAX_COLUMNS = 16_384  # of a sheet, as Excel has it


def first_sheet(data: bytes) -> list[list[str]]:
    """The cells of each row, as text; what the file leaves out is empty.

    Raises:
        ValueError: it is no workbook, or an implausibly large one.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as book:
            sheets = sorted(name for name in book.namelist() if re.fullmatch(r"xl/worksheets/[^/]+\.xml", name))
            if not sheets:
                raise ValueError("it has no sheet")
            shared = _part(book, _SHARED).findall("{*}si") if _SHARED in book.namelist() else []
            strings = [_text(string) for string in shared]
            return [_row(row, strings) for row in _part(book, sheets[0]).findall(".//{*}row")]
    except (zipfile.BadZipFile, ElementTree.ParseError, IndexError) as error:
        raise ValueError(f"it is no .xlsx file: {error}") from None


def _part(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    if book.getinfo(name).file_size > _MAX_BYTES:
        raise ValueError(f"its {name} has more than {_MAX_BYTES:,} bytes")
    return ElementTree.fromstring(book.read(name))


def _text(element: ElementTree.Element) -> str:
    """All text of a string, which formatting may have cut into runs."""
    return "".join(part.text or "" for part in element.findall(".//{*}t"))


def _row(row: ElementTree.Element, strings: Sequence[str]) -> list[str]:
    cells: list[str] = []
    for cell in row.findall("{*}c"):
        letters = re.match("[A-Z]+", cell.get("r", ""))
        place = _column(letters[0]) if letters else len(cells)
        if place >= _MAX_COLUMNS:
            raise ValueError(f"it has a cell {cell.get('r')}")
        cells += [""] * (place - len(cells) + 1)
        value, kind = cell.findtext("{*}v") or "", cell.get("t")
        cells[place] = _text(cell) if kind == "inlineStr" else strings[int(value)] if kind == "s" else value
    return cells


def _column(letters: str) -> int:
    """The number of a column, from 0: A, ..., Z, AA, ..."""
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1
