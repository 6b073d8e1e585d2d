"""Figure 2 as a picture and as a page: a line for each method, and the memory of GPUs."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import plotly.graph_objects as go
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from fpt_ray.config.trial import SIDE_METHODS
from fpt_ray.cost.figure2.resolutions import GIB, LIMITS_GIB, TITLES, Line, Runner
from fpt_ray.display.charts import BLUE, GREEN, GREY, VERMILION, caption_inches, frame_page, save_page, save_picture

_TITLE = "Memory of training against resolution"
_X, _Y = "resolution [px]", "memory of the training process [GiB]"
_WIDTH = 165
"""Characters of a caption's line."""
_RED = "#cc0000"
_SIDE = (VERMILION, BLUE, GREEN, "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of the methods beside the LPM, in their order; those that change the LPM are grey and differ by their marks."""
_MARKS: Mapping[str, str] = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "v": "triangle-down",
    "D": "diamond",
    "X": "x",
    "P": "cross",
    "*": "star",
}
"""{Matplotlib's mark: Plotly's}."""


def _style(line: Line, found: Sequence[Line]) -> tuple[str, str]:
    """(colour, Matplotlib's mark) of a line, the same in both panels."""
    methods = list(dict.fromkeys(one.method for one in found))
    beside = line.method in SIDE_METHODS
    group = [method for method in methods if (method in SIDE_METHODS) == beside]
    place = group.index(line.method)
    return _SIDE[place % len(_SIDE)] if beside else GREY, list(_MARKS)[place % len(_MARKS)]


def draw_resolutions(found: Sequence[Line], about: str, picture: Path) -> Path:
    """Draws the picture, and a page of the same name beside it, which is returned."""
    page = picture.with_suffix(".html")
    draw_resolutions_png(found, about, picture)
    draw_resolutions_html(found, about, page)
    return page


def _panels(found: Sequence[Line]) -> list[tuple[Runner, list[Line]]]:
    return [(runner, [line for line in found if line.runner == runner]) for runner in get_args(Runner)]


# --- PNG ------------------------------------------------------------------------------------------------------


def draw_resolutions_png(found: Sequence[Line], about: str, path: Path) -> None:
    """Two panels: as this project runs each method, and as the paper ran those that it has."""
    lines = textwrap.wrap(about, _WIDTH)
    foot = caption_inches(lines)
    figure = Figure(figsize=(13, 7.2 + foot), dpi=130)
    axes = figure.subplots(1, 2, sharey=True)
    for panel, (runner, of_these) in zip(axes, _panels(found), strict=True):
        _draw_panel(panel, of_these, found)
        panel.set_title(textwrap.fill(TITLES[runner], 62), fontsize=11)
    axes[0].set_ylabel(_Y, fontsize=11)
    handles, labels = axes[0].get_legend_handles_labels()
    height = figure.get_figheight()
    at = {"loc": "lower center", "bbox_to_anchor": (0.5, (foot + 0.05) / height), "ncols": 6}
    figure.legend(handles, labels, fontsize=10, frameon=False, **at)
    figure.suptitle(_TITLE, fontsize=13)
    figure.tight_layout(rect=(0.005, (foot + 0.8) / height, 0.995, 0.99))
    save_picture(figure, path, title=_TITLE, caption=about, lines=lines)


def _draw_panel(panel: Axes, of_these: Sequence[Line], found: Sequence[Line]) -> None:
    sizes = list(of_these[0].memory_bytes)
    for line in of_these:
        color, mark = _style(line, found)
        values = [memory / GIB for memory in line.memory_bytes.values()]
        width = 2.2 if line.method == "fpt+" else 1.2
        panel.plot(sizes, values, color=color, marker=mark, markersize=5, linewidth=width, label=line.name)
    for limit in LIMITS_GIB:
        panel.axhline(limit, color=_RED, linewidth=1, linestyle="--", alpha=0.8)
        panel.text(sizes[0], limit, f"{limit} GB", color=_RED, fontsize=9, va="bottom")
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xticks(sizes, [str(size) for size in sizes], rotation=45, fontsize=9)
    panel.xaxis.set_minor_locator(ticker.NullLocator())
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    panel.set_xlabel(_X, fontsize=11)
    panel.grid(alpha=0.3, linewidth=0.6)


# --- HTML -----------------------------------------------------------------------------------------------------


def draw_resolutions_html(found: Sequence[Line], about: str, path: Path) -> None:
    """The same, to be hovered over; one file that needs no network."""
    panels = _panels(found)
    titles = ["<br>".join(textwrap.wrap(TITLES[runner], 70)) for runner, _ in panels]
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=titles)
    for column, (runner, of_these) in enumerate(panels, start=1):
        for line in of_these:
            figure.add_trace(_trace(line, found, in_legend=runner == "ours"), row=1, col=column)
        for limit in LIMITS_GIB:
            figure.add_hline(limit, line_dash="dash", line_color=_RED, line_width=1, row=1, col=column)  # type: ignore[arg-type]
        sizes = list(of_these[0].memory_bytes)
        figure.update_xaxes(title_text=_X, type="log", tickvals=sizes, row=1, col=column)
    figure.update_yaxes(type="log", exponentformat="none")
    figure.update_yaxes(title_text=_Y, row=1, col=1)
    limits = ", ".join(map(str, LIMITS_GIB))
    frame_page(figure, title=_TITLE, caption=f"{about} Dashed: {limits} GB.", width=_WIDTH, under=80)
    figure.update_layout(height=720, margin_t=120)
    save_page(figure, path, "figure")


def _trace(line: Line, found: Sequence[Line], *, in_legend: bool) -> go.Scatter:
    color, mark = _style(line, found)
    values = [memory / GIB for memory in line.memory_bytes.values()]
    return go.Scatter(
        x=list(line.memory_bytes),
        y=values,
        mode="lines+markers",
        name=line.name,
        legendgroup=line.method,
        showlegend=in_legend,
        line={"color": color, "width": 3 if line.method == "fpt+" else 1.5},
        marker={"symbol": _MARKS[mark], "size": 7},
        hovertext=[
            f"{line.name}: {value:,.2f} GiB at {size} px" for size, value in zip(line.memory_bytes, values, strict=True)
        ],
        hoverinfo="text",
    )
