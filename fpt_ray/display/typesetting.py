"""A table as text, Markdown, CSV, JSON or LaTeX, with the best and the second of its columns marked."""

import csv
import io
import json
import re
import textwrap
from collections.abc import Iterable, Sequence
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
    """What stands in a row of a column: a number in the column's unit, or a text."""

    value: float | None = None
    """None: there is no number."""
    std: float | None = None
    """Standard deviation over seeds, in the same unit."""
    of_validation: bool = False
    """Of the validation split, marked so beside numbers of the test split."""
    failed: bool = False
    """There is no number because what should have given it failed."""
    text: str | None = None
    """What people read instead of the number."""
    plain: object = None
    """What CSV and JSON hold where there is a text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of cells, from the first row to the last."""

    title: str
    cells: Sequence[Cell]
    name: str | None = None
    """What CSV and JSON call it; None: the title."""
    left: bool = False
    """Whether its cells are flush left, as labels are, and not right, as numbers are."""
    digits: int = 2
    """After the point."""
    ranked: bool = False
    """Whether higher is better and the best is to be marked."""
    of_paper: bool = False
    """The paper's numbers for the column before it, where that one is ours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows, and what must be known to read them."""

    title: str = ""
    notes: Sequence[str] = ()
    """Between the title and the rows."""
    footnotes: Sequence[str] = ()
    """Below the rows; each keeps its line."""
    heading: str = ""
    """Over the labels."""
    labels: Sequence[str] = ()
    """Of the rows, before the first column; empty: the rows have none."""
    columns: Sequence[Column] = ()


def text_column(title: str, texts: Iterable[str], *, left: bool = False) -> Column:
    """A column of texts; CSV and JSON hold the same."""
    return Column(title=title, cells=[Cell(text=text, plain=text) for text in texts], left=left)


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
    if cell.text is not None:
        return cell.text
    if cell.value is None:
        return "/" if cell.failed else "-"
    std = "" if cell.std is None else f" ± {cell.std:.{digits}f}"
    return f"{cell.value:.{digits}f}{std}{' (val)' if cell.of_validation else ''}"


# --- the forms ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Strip:
    """A column as printed, as wide as its widest cell."""

    title: str
    texts: Sequence[str]
    left: bool

    @property
    def width(self) -> int:
        return max(map(len, (self.title, *self.texts)))

    def padded(self) -> list[str]:
        """The title and the texts."""
        pad, width = str.ljust if self.left else str.rjust, self.width
        return [pad(text, width) for text in (self.title, *self.texts)]


def typeset(table: Table, form: Form) -> str:
    """The table in this form; CSV and JSON hold plain values under the columns' names, and no marks."""
    if form in ("csv", "json"):
        rows = plain_rows(table)
        return json.dumps(rows, indent=1, ensure_ascii=False) if form == "json" else _csv(rows)
    marked = any(rank for column in table.columns for rank in ranks(column))
    notes = (*table.notes, *([_IN_WORDS[form]] if marked else []))
    strips = _strips(table, form)
    said = [part for part in (table.title, *notes) if part]
    if form == "latex":
        return _latex(said, strips, table.footnotes)
    if form == "markdown":
        return "\n\n".join((*said, *(["\n".join(_markdown(strips))] if strips else []), *table.footnotes))
    wrapped = [line for part in said for line in textwrap.wrap(part, 118)]
    lines = [line.rstrip() for line in _aligned(strips, "  ")]
    if not any(strip.title for strip in strips):
        del lines[:1]
    return "\n\n".join("\n".join(part) for part in (wrapped, lines, table.footnotes) if part)


def _strips(table: Table, form: str) -> list[_Strip]:
    """The labels and the columns."""
    written = _escaped if form == "latex" else str
    labels = _Strip(title=written(table.heading), texts=[written(label) for label in table.labels], left=True)
    columns = []
    for column in table.columns:
        title = written("paper" if column.of_paper else column.title)
        texts, places = [written(printed(cell, column.digits)) for cell in column.cells], ranks(column)
        if any(places):
            texts = [_MARKS[form].get(place, "{}").format(text) for text, place in zip(texts, places, strict=True)]
        columns.append(_Strip(title=title, texts=texts, left=column.left))
    return [labels, *columns] if table.labels else columns


def _aligned(strips: Sequence[_Strip], between: str) -> list[str]:
    """The titles and the rows."""
    return [between.join(line) for line in zip(*(strip.padded() for strip in strips), strict=True)]


def _markdown(strips: Sequence[_Strip]) -> list[str]:
    rule = " | ".join("-" * strip.width if strip.left else "-" * (strip.width - 1) + ":" for strip in strips)
    titles, *rows = _aligned(strips, " | ")
    return [f"| {line} |" for line in (titles, rule, *rows)]


def _latex(said: Sequence[str], strips: Sequence[_Strip], footnotes: Sequence[str]) -> str:
    """A tabular that needs no package; what is said about it stands around it in comments."""
    if not strips:
        return "\n".join(_commented((*said, *footnotes)))
    titles, *rows = (
        rf"{' & '.join(cells)} \\" for cells in zip(*((strip.title, *strip.texts) for strip in strips), strict=True)
    )
    return "\n".join(
        (
            *_commented(said),
            rf"\begin{{tabular}}{{{''.join('l' if strip.left else 'r' for strip in strips)}}}",
            r"\hline",
            titles,
            r"\hline",
            *rows,
            r"\hline",
            r"\end{tabular}",
            *_commented(footnotes),
        )
    )


def _commented(parts: Sequence[str]) -> list[str]:
    return [f"% {line}" for part in parts for line in part.splitlines()]


def _escaped(text: str) -> str:
    return re.sub(r"[\\~^±&%$#_{}]", lambda found: _LATEX.get(found[0], f"\\{found[0]}"), text)


def plain_rows(table: Table) -> list[dict[str, object]]:
    """{name: value} by row; "X std" and "X split" stand beside a column X where one of its cells has such a thing."""
    rows: list[dict[str, object]] = [{table.heading: label} for label in table.labels]
    if not rows and table.columns:
        rows = [{} for _ in table.columns[0].cells]
    for column in table.columns:
        name = column.title if column.name is None else column.name
        name = f"paper {name}" if column.of_paper else name
        with_std = any(cell.std is not None for cell in column.cells)
        with_split = any(cell.of_validation for cell in column.cells)
        for row, cell in zip(rows, column.cells, strict=True):
            row[name] = _plain(cell)
            if with_std:
                row[f"{name} std"] = _without_noise(cell.std)
            if with_split:
                row[f"{name} split"] = None if cell.value is None else "val" if cell.of_validation else "test"
    return rows


def _plain(cell: Cell) -> object:
    if cell.text is not None:
        return cell.plain
    return "/" if cell.value is None and cell.failed else _without_noise(cell.value)


def _without_noise(value: float | None) -> float | None:
    """To four digits: a ratio that is a percentage now has binary noise behind them."""
    return None if value is None else round(value, 4)


def _csv(rows: Sequence[dict[str, object]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip()
