"""The fronts of several studies as one picture and one page."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from fpt_ray.display.charts import (
    BLUE,
    GREEN,
    VERMILION,
    caption_inches,
    frame_page,
    hover_text,
    save_page,
    save_picture,
)
from fpt_ray.report.pictures import AXES, Point, axis, frame_panel, staircase

_COLORS = (VERMILION, BLUE, GREEN, "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKS = (("D", "diamond"), ("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("X", "x"), ("v", "triangle-down"))
"""(Matplotlib's, Plotly's)."""
_WIDTH = 165
"""Characters of a caption's line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Front:
    """The front of a study."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fronts:
    """What both pictures show."""

    title: str
    caption: str
    score: str
    """What people call it."""
    fronts: Sequence[Front]

    @property
    def points(self) -> list[Point]:
        """All that is drawn."""
        return [point for front in self.fronts for point in front.points]


def _style(number: int) -> tuple[str, tuple[str, str]]:
    return _COLORS[number % len(_COLORS)], _MARKS[number % len(_MARKS)]


def draw_fronts_png(fronts: Fronts, path: Path) -> None:
    """Two panels: the score against peak memory and against learnable parameters."""
    lines = textwrap.wrap(fronts.caption, _WIDTH)
    foot = caption_inches(lines)
    figure = Figure(figsize=(12, 5.4 + foot), dpi=150)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (label, field) in zip(panels, AXES, strict=True):
        title, cost = axis(fronts.points, label, field)
        _draw_panel(panel, fronts, cost)
        panel.set_xlabel(title, fontsize=11)
    panels[0].set_ylabel(f"validation {fronts.score} x 100", fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    height = figure.get_figheight()
    legend = {"loc": "upper center", "ncols": 4, "fontsize": 10, "frameon": False}
    figure.legend(handles, labels, bbox_to_anchor=(0.5, 1 - 0.35 / height), **legend)
    figure.suptitle(textwrap.fill(fronts.title, 110), fontsize=13, parse_math=False)
    rows = -(-len(fronts.fronts) // 4)
    figure.tight_layout(rect=(0.005, foot / height, 0.995, 1 - (0.35 + 0.25 * rows) / height))
    save_picture(figure, path, title=fronts.title, caption=fronts.caption, lines=lines)


def _draw_panel(panel: Axes, fronts: Fronts, cost: Callable[[Point], float]) -> None:
    for number, front in enumerate(fronts.fronts):
        color, (mark, _) = _style(number)
        xs, ys = staircase(front.points, cost)
        panel.plot(xs, [100 * y for y in ys], color=color, linewidth=1.3, alpha=0.6)
        at = [cost(point) for point in front.points]
        label = front.name.lstrip("_") or front.name  # Matplotlib leaves out names that begin so
        panel.scatter(at, [100 * one.score for one in front.points], color=color, marker=mark, s=46, label=label)
    frame_panel(panel, ticker.LogLocator(subs=(1, 2, 5)))


def draw_fronts_html(fronts: Fronts, path: Path) -> None:
    """The same, to be hovered over; one file that needs no network."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, (label, field) in enumerate(AXES, start=1):
        title, cost = axis(fronts.points, label, field)
        for number, front in enumerate(fronts.fronts):
            for trace in _traces(front, number, cost, in_legend=column == 1):
                figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text=title, type="log", exponentformat="none", row=1, col=column)
    figure.update_yaxes(title_text=f"validation {fronts.score} x 100", row=1, col=1)
    frame_page(figure, title=fronts.title, caption=fronts.caption, width=_WIDTH, under=60)
    figure.update_layout(height=640, legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"})
    save_page(figure, path, "compared")


def _traces(front: Front, number: int, cost: Callable[[Point], float], *, in_legend: bool) -> list[go.Scatter]:
    color, (_, symbol) = _style(number)
    xs, ys = staircase(front.points, cost)
    line = {"color": color, "width": 1.5}
    name = hover_text([front.name])
    marks = go.Scatter(
        x=[cost(point) for point in front.points],
        y=[100 * point.score for point in front.points],
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=in_legend,
        marker={"symbol": symbol, "size": 11, "color": color},
        text=[hover_text((f"{front.name}, {point.name}", *point.details)) for point in front.points],
        hoverinfo="text",
    )
    steps = go.Scatter(x=xs, y=[100 * y for y in ys], mode="lines", line=line, hoverinfo="skip", showlegend=False)
    return [steps, marks]
