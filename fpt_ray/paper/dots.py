"""Figure 1 of the paper: AUC against learnable parameters, memory as the area of a dot; as a picture and as a page."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox, BboxBase

from fpt_ray.display.charts import BLUE, GREEN, caption_inches, frame_page, hover_text, save_page, save_picture
from fpt_ray.display.typesetting import Column, Table

_FIELDS = ("Params (%)", "Mem. (MB)", "Avg. AUC")
"""The titles of the table's columns that are drawn, as ``paper.tables`` writes them."""
_X, _Y = "learnable parameters [% of all]", "AUC x 100"
_LARGEST = 2600
"""The area of the largest dot of a picture, in square points."""
_WIDTH = 150
"""Characters of a caption's line."""
_GROUPS = {False: ("measured here", BLUE), True: ("the paper's (other images)", GREEN)}
_BESIDE = ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""Where a name may stand around its dot: to the right, above, below, to the left, and between these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """A method."""

    name: str
    params_percent: float
    memory_mb: float
    auc: float
    """x 100."""
    of_paper: bool = False

    @property
    def label(self) -> str:
        """What stands beside it."""
        return f"{self.name}, {self.memory_mb:,.0f} MB"


def dots(table: Table) -> list[Dot]:
    """The rows of the table of which all three numbers are known, the paper's first."""
    found = []
    for of_paper in (True, False):
        columns = [_column(table, title, of_paper) for title in _FIELDS]
        if not all(columns):
            continue
        values = zip(*([cell.value for cell in column.cells] for column in columns if column), strict=True)
        for name, (params, memory, auc) in zip(table.labels, values, strict=True):
            if params and memory is not None and auc is not None:  # a logarithmic axis has no 0
                dot = Dot(name=name, params_percent=params, memory_mb=memory, auc=auc, of_paper=of_paper)
                found.append(dot)
    return found


def _column(table: Table, title: str, of_paper: bool) -> Column | None:
    return next((one for one in table.columns if (one.title, one.of_paper) == (title, of_paper)), None)


def _caption(table: Table, found: Sequence[Dot]) -> str:
    largest = max(dot.memory_mb for dot in found)
    return f"The area of a dot is in proportion to the memory of training: the largest is of {largest:,.0f} MB. " + (
        " ".join(table.notes)
    )


# --- PNG ------------------------------------------------------------------------------------------------------


def draw_dots_png(table: Table, path: Path) -> None:
    """All dots, with names and memory; the large ones lie behind the small ones."""
    found = dots(table)
    text = _caption(table, found)
    lines = textwrap.wrap(text, _WIDTH)
    foot = caption_inches(lines)
    figure = Figure(figsize=(11, 6.2 + foot), dpi=150)
    axes = figure.subplots()
    scale = _LARGEST / max(dot.memory_mb for dot in found)
    ordered = sorted(found, key=lambda dot: -dot.memory_mb)
    for dot in ordered:
        style = {"color": _GROUPS[dot.of_paper][1], "alpha": 0.55, "linewidths": 1, "edgecolors": "white"}
        axes.scatter(dot.params_percent, dot.auc, s=scale * dot.memory_mb, **style)  # type: ignore[arg-type]
    for of_paper in sorted({dot.of_paper for dot in found}):
        axes.scatter([], [], color=_GROUPS[of_paper][1], alpha=0.55, label=_GROUPS[of_paper][0])
    axes.set_xscale("log")
    axes.margins(x=0.18, y=0.15)
    axes.set_xlabel(_X, fontsize=11)
    axes.set_ylabel(_Y, fontsize=11)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=10, loc="lower right")
    axes.set_title(textwrap.fill(table.title, 100), fontsize=13, parse_math=False)
    figure.tight_layout(rect=(0.005, foot / figure.get_figheight(), 0.995, 1))
    _write_labels(axes, ordered, scale)
    save_picture(figure, path, title=table.title, caption=text, lines=lines)


def _write_labels(axes: Axes, found: Iterable[Dot], scale: float) -> None:
    """Each label where it covers the least of those that are written, beginning with the smallest dots'."""
    taken: list[BboxBase] = []
    for dot in reversed(list(found)):
        radius = (scale * dot.memory_mb / 3.14) ** 0.5
        places = [_label(axes, dot, direction, radius) for direction in _BESIDE]
        boxes = [place.get_window_extent() for place in places]
        covered = [sum(_common(box, other) for other in taken) + _outside(box, axes) for box in boxes]
        best = covered.index(min(covered))
        taken.append(boxes[best])
        for number, place in enumerate(places):
            if number != best:
                place.remove()


def _label(axes: Axes, dot: Dot, direction: tuple[int, int], radius: float) -> Annotation:
    across, up = direction
    away = (radius * (0.7 if across and up else 1) + 3) if radius else 3
    return axes.annotate(
        dot.label,
        (dot.params_percent, dot.auc),
        xytext=(across * away, up * away),
        textcoords="offset points",
        ha={1: "left", 0: "center", -1: "right"}[across],
        va={1: "bottom", 0: "center", -1: "top"}[up],
        fontsize=9,
        color="#444444" if dot.of_paper else "black",
        parse_math=False,
    )


def _common(one: BboxBase, other: BboxBase) -> float:
    """The area that two boxes share."""
    shared = Bbox.intersection(one, other)
    return 0.0 if shared is None else shared.width * shared.height


def _outside(box: BboxBase, axes: Axes) -> float:
    """The area of a box that lies outside the axes."""
    return box.width * box.height - _common(box, axes.get_window_extent())


# --- HTML -----------------------------------------------------------------------------------------------------


def draw_dots_html(table: Table, path: Path) -> None:
    """The same, to be hovered over; one file that needs no network."""
    found = dots(table)
    largest = max(dot.memory_mb for dot in found)
    figure = go.Figure()
    for of_paper in sorted({dot.of_paper for dot in found}, reverse=True):
        group = sorted((dot for dot in found if dot.of_paper == of_paper), key=lambda dot: -dot.memory_mb)
        name, color = _GROUPS[of_paper]
        size = {"size": [dot.memory_mb for dot in group], "sizemode": "area", "sizeref": 2 * largest / 70**2}
        figure.add_trace(
            go.Scatter(
                x=[dot.params_percent for dot in group],
                y=[dot.auc for dot in group],
                mode="markers+text",
                name=name,
                marker={"color": color, "opacity": 0.55, **size},
                text=[hover_text([dot.name]) for dot in group],
                textposition="top center",
                hovertext=[_hover(dot) for dot in group],
                hoverinfo="text",
            )
        )
    figure.update_xaxes(title_text=_X, type="log", exponentformat="none")
    figure.update_yaxes(title_text=_Y)
    frame_page(figure, title=table.title, caption=_caption(table, found), width=_WIDTH, under=60)
    legend = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "itemsizing": "constant"}
    figure.update_layout(height=640, legend=legend)
    save_page(figure, path, "figure")


def _hover(dot: Dot) -> str:
    lines = (dot.label, f"AUC x 100: {dot.auc:.2f}", f"learnable {dot.params_percent:.3g} %")
    return hover_text(lines)
