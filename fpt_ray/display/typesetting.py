"""A table of numbers as text, Markdown, CSV, JSON or LaTeX, with the best and the second of its columns marked."""

import csv
import io
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Form = Literal["text", "markdown", "csv", "json", "latex"]
Rank = Literal["best", "second"]
_MARKS = {
    "text": {"best": "*{}*", "second": "_{}_", None: " {} "},
    "markdown": {"best": "**{}**", "second": "<u>{}</u>"},
    "latex": {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"},
}
_IN_WORDS = {
    "text": "*best*, _second_ of a column.",
    "markdown": "**best**, <u>second</u> of a column.",
    "latex": "Bold: best, underlined: second of a column.",
}
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A number as printed, in the unit of its column."""

    value: float | None = None
    """None: there is none."""
    std: float | None = None
    """Standard deviation over seeds, in the same unit."""
    of_validation: bool = False
    """Of the validation split, marked so beside numbers of the test split."""
    failed: bool = False
    """There is no number because what should have given it failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of numbers, from the first row to the last."""

    title: str
    cells: Sequence[Cell]
    digits: int = 2
    """After the point."""
    ranked: bool = False
    """Whether higher is better and the best is to be marked."""
    of_paper: bool = False
    """The paper's numbers for the column before it, where that one is ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows with labels, and what must be known to read them."""

    title: str
    notes: Sequence[str]
    heading: str
    """Over the labels."""
    labels: Sequence[str]
    columns: Sequence[Column]


def ranks(column: Column) -> list[Rank | None]:
    """Which cells are best and second; those that print alike share a rank. One cell alone is not marked.

    Where some cells are of the test split, those of the validation split are left out.
    """
    shown = [cell for cell in column.cells if cell.value is not None]
    compared = [cell for cell in shown if not cell.of_validation] or shown
    if not column.ranked or len(compared) < 2:
        return [None] * len(column.cells)
    order = sorted({_rounded(cell, column) for cell in compared}, reverse=True)
    places: dict[float, Rank] = dict(zip(order, ("best", "second"), strict=False))
    return [places.get(_rounded(cell, column)) if cell in compared else None for cell in column.cells]


def _rounded(cell: Cell, column: Column) -> float:
    assert cell.value is not None
    return float(f"{cell.value:.{column.digits}f}")


def printed(cell: Cell, digits: int) -> str:
    """A cell as tables show it: "/" for what failed, "-" for what there is not."""
    if cell.value is None:
        return "/" if cell.failed else "-"
    std = "" if cell.std is None else f" ± {cell.std:.{digits}f}"
    return f"{cell.value:.{digits}f}{std}{' (val)' if cell.of_validation else ''}"


def typeset(table: Table, form: Form) -> str:
    """The table in this form; CSV and JSON hold plain numbers in the units of the titles, and no marks."""
    if form in ("csv", "json"):
        rows = plain_rows(table)
        return json.dumps(rows, indent=1, ensure_ascii=False) if form == "json" else _csv(rows)
    marked = any(rank for column in table.columns for rank in ranks(column))
    notes = (*table.notes, *([_IN_WORDS[form]] if marked else []))
    columns = [_marked(column, form) for column in table.columns]
    heading = [table.heading, *("paper" if column.of_paper else column.title for column in table.columns)]
    body = [list(cells) for cells in zip(table.labels, *columns, strict=True)]
    if form == "latex":
        return _latex(table.title, notes, heading, body)
    if form == "markdown":
        return "\n\n".join((table.title, *notes, "\n".join(_aligned(heading, body, " | ", "|"))))
    said = [line for part in (table.title, *notes) for line in textwrap.wrap(part, 118)]
    return "\n".join((*said, "", *(line.rstrip() for line in _aligned(heading, body, "  ", ""))))


def _marked(column: Column, form: str) -> list[str]:
    texts, places = [printed(cell, column.digits) for cell in column.cells], ranks(column)
    if not any(places):
        return texts
    return [_MARKS[form].get(place, "{}").format(text) for text, place in zip(texts, places, strict=True)]


def _aligned(heading: list[str], body: list[list[str]], between: str, edge: str) -> list[str]:
    widths = [max(map(len, column)) for column in zip(heading, *body, strict=True)]
    lines = [heading, *body]
    padded = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    if edge:
        padded.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    before, after = (f"{edge} ", f" {edge}") if edge else ("", "")
    return [before + between.join(line) + after for line in padded]


def _latex(title: str, notes: Sequence[str], heading: list[str], body: list[list[str]]) -> str:
    """A tabular that needs no package; what is said about it stands before it as a comment."""
    head = [_escaped(text) for text in heading]
    rows = [[_escaped(line[0]), *(text.replace("±", _LATEX["±"]) for text in line[1:])] for line in body]
    lines = [f"{' & '.join(cells)} \\\\" for cells in (head, *rows)]
    return "\n".join(
        (
            *(f"% {line}" for part in (title, *notes) for line in part.splitlines()),
            rf"\begin{{tabular}}{{l{'r' * (len(heading) - 1)}}}",
            r"\hline",
            lines[0],
            r"\hline",
            *lines[1:],
            r"\hline",
            r"\end{tabular}",
        )
    )


def _escaped(text: str) -> str:
    return re.sub(r"[\\~^±&%$#_{}]", lambda found: _LATEX.get(found[0], f"\\{found[0]}"), text)


def plain_rows(table: Table) -> list[dict[str, object]]:
    """{title: number} by row; "X std" and "X split" stand beside a column X where one of its cells has such a thing."""
    rows: list[dict[str, object]] = [{table.heading: label} for label in table.labels]
    for column in table.columns:
        name = f"paper {column.title}" if column.of_paper else column.title
        with_std = any(cell.std is not None for cell in column.cells)
        with_split = any(cell.of_validation for cell in column.cells)
        for row, cell in zip(rows, column.cells, strict=True):
            row[name] = _plain(cell.value) if cell.value is not None else "/" if cell.failed else None
            if with_std:
                row[f"{name} std"] = _plain(cell.std)
            if with_split:
                row[f"{name} split"] = None if cell.value is None else "val" if cell.of_validation else "test"
    return rows


def _plain(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _csv(rows: Sequence[dict[str, object]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip()
