"""A study's page as HTML: one file without any request to elsewhere.

What comes from the study (names of classes, notes, paths) is escaped where it is put in, by Jinja; a policy in the page
keeps the browser from fetching anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import plotly.io
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from fpt_ray.display.typesetting import Rank, Table, printed, ranks
from fpt_ray.report.page.content import Page
from fpt_ray.report.page.embedded import png_address
from fpt_ray.report.pictures import Picture, front_charts, legend
from fpt_ray.storage.files import write

_TEMPLATE = "page.html.jinja"
_CHARTS = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A cell of a table as the page shows it."""

    text: str
    left: bool
    rank: Rank | None = None


def page_html(page: Page, *, front_png: bytes | None, confusion_png: bytes | None) -> str:
    """The page. The front's picture is what stands on paper, where nothing can be hovered over."""
    drawn = bool(page.picture.trials)
    return template().render(
        page=page,
        charts=_charts(page.picture) if drawn else (),
        signs=legend(page.picture) if drawn else (),
        plotly=Markup(get_plotlyjs()) if drawn else "",
        front_png=png_address(front_png) if front_png else "",
        confusion_png=png_address(confusion_png) if confusion_png else "",
    )


def template() -> Template:
    """The page without what it says."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"header": header, "rows": rows}
    return environment.get_template(_TEMPLATE)


def write_page(page: Page, path: Path, pictures: Mapping[str, Path]) -> None:
    """Writes the page; ``pictures`` are "front" and "confusion", of which there may be no file."""
    found = {name: file.read_bytes() if file.exists() else None for name, file in pictures.items()}
    text = page_html(page, front_png=found["front"], confusion_png=found["confusion"])
    write(str(path), text.encode())


def _charts(picture: Picture) -> list[Markup]:
    """The front's charts; Plotly escapes what it is given to write."""
    return [
        Markup(
            plotly.io.to_html(chart, full_html=False, include_plotlyjs=False, div_id=f"front-{number}", config=_CHARTS)
        )
        for number, chart in enumerate(front_charts(picture))
    ]


def header(table: Table) -> list[Shown]:
    """The titles of a table's columns; empty where none has one."""
    titles = [Shown(text=table.heading, left=True)] if table.labels else []
    titles += [Shown(text="paper" if one.of_paper else one.title, left=one.left) for one in table.columns]
    return titles if any(one.text for one in titles) else []


def rows(table: Table) -> list[list[Shown]]:
    """The cells of a table, row by row."""
    columns = [[Shown(text=label, left=True) for label in table.labels]] if table.labels else []
    for column in table.columns:
        texts = [printed(cell, column.digits) for cell in column.cells]
        places = zip(texts, ranks(column), strict=True)
        columns.append([Shown(text=text, left=column.left, rank=rank) for text, rank in places])
    return [list(row) for row in zip(*columns, strict=True)]
