"""The trade-off of a study as pictures: its score against peak memory and against learnable parameters."""

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import plotly.graph_objects as go
from matplotlib import patheffects, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from fpt_ray.display.charts import (
    BLUE,
    GREEN,
    GREY,
    VERMILION,
    caption_inches,
    frame_page,
    hover_text,
    save_page,
    save_picture,
)
from fpt_ray.paper.numbers import table1

AXES = (("peak memory of training [MiB]", "memory_mib"), ("learnable parameters [% of all]", "param_percent"))
"""(the title of an axis, the field of ``Point`` that stands on it)."""
_WIDTH = 165
"""Characters of a caption's line."""
_FIRST = "nearest to the paper's settings (trial 0)"
_PAPER = "the paper's Table 1 (other images)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A finished trial in the pictures, or one of the paper's methods."""

    name: str
    """"trial 3" or a method of the paper's."""
    score: float
    """On the validation split; 1 is best."""
    memory_mib: float
    param_percent: float
    """Learnable parameters, percent of all."""
    details: tuple[str, ...] = ()
    """The configuration and what else is known, line by line."""
    on_front: bool = False
    is_first: bool = False
    """Trial 0, which the search starts with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """What both pictures of a study show."""

    title: str
    caption: str
    trials: Sequence[Point]
    paper: Sequence[Point] = ()
    score: str = "AUC"
    """What people call it."""

    def groups(self) -> Iterable[tuple[str, list[Point]]]:
        """(group, its points), from back to front."""
        yield "paper", list(self.paper)
        yield "trial", [point for point in self.trials if not point.on_front]
        yield "front", [point for point in self.trials if point.on_front]
        yield "first", [point for point in self.trials if point.is_first]

    @property
    def points(self) -> list[Point]:
        """All that is drawn."""
        return [*self.paper, *self.trials]


# --- pure -----------------------------------------------------------------------------------------------------

_NAMED_IN_PNG = ("Full fine-tuning", "Linear probing", "FPT", "FPT+")  # the others lie upon each other
_WEIGHTS: Mapping[str, Literal["supervised", "dino"]] = {
    "vit_base_patch16_384.augreg_in21k_ft_in1k": "supervised",
    "vit_base_patch16_224.dino": "dino",
}


def paper_points(settings: Iterable[Mapping[str, str]]) -> tuple[tuple[Point, ...], str]:
    """The points of Table 1 that trials of these parameters can be held against, and why these or why none.

    Memory, and what a method can do, hang on the backbone, the resolution and the batch: all must be the paper's.
    """
    names = ("backbone.name", "backbone.weights", "features.resolution", "training.batch_size")
    found = {tuple(params.get(name, "") for name in names) for params in settings}
    theirs = {(name, "None", "512", "16") for name in _WEIGHTS}
    if len(found) != 1 or not found <= theirs:
        seen = "; ".join(f"{name} at {size} px, batch {batch}" for name, _, size, batch in sorted(found))
        return (), f"The paper's points are not drawn: they are of ViT-B/16 at 512 px, batch 16, these trials of {seen}"
    points = tuple(
        Point(
            name=row["method"],
            score=row["average_auc"] / 100,
            memory_mib=float(row["memory_mb"]),
            param_percent=row["params_percent"],
        )
        for row in table1(_WEIGHTS[found.pop()[0]])
    )
    about = "mean test AUC of its eight data sets, memory as nvidia-smi showed it"
    points = tuple(replace(point, details=(about, "other images than this study's")) for point in points)
    return points, f"The paper's points are those of Table 1: other images ({about})"


def staircase(points: Sequence[Point], cost: Callable[[Point], float]) -> tuple[list[float], list[float]]:
    """The best score that can be had up to each cost, as the corners of a line."""
    xs: list[float] = []
    ys: list[float] = []
    for point in sorted(points, key=lambda point: (cost(point), -point.score)):
        if not ys or point.score > ys[-1]:
            if ys:
                xs.append(cost(point))
                ys.append(ys[-1])
            xs.append(cost(point))
            ys.append(point.score)
    return xs, ys


def axis(points: Iterable[Point], label: str, field: str) -> tuple[str, Callable[[Point], float]]:
    """The title of a logarithmic axis, and where a point stands on it: left of all others if its cost is 0."""
    costs = [getattr(point, field) for point in points]
    left = min((cost for cost in costs if cost), default=3) / 3
    note = "" if all(costs) else f", 0 is drawn at {left:.2g}"
    return label + note, lambda point: getattr(point, field) or left


# --- PNG ------------------------------------------------------------------------------------------------------

_PNG_MARKS: Mapping[str, Mapping[str, object]] = {
    "paper": {"marker": "X", "s": 60, "color": GREEN, "label": _PAPER, "zorder": 2, "linewidths": 0},
    "trial": {"marker": "o", "s": 38, "color": GREY, "label": "trial", "zorder": 3, "linewidths": 0},
    "front": {"marker": "D", "s": 52, "color": VERMILION, "label": "on the front", "zorder": 4, "linewidths": 0},
    "first": {
        "marker": "o",
        "s": 190,
        "facecolors": "none",
        "edgecolors": BLUE,
        "linewidths": 1.8,
        "label": _FIRST,
        "zorder": 5,
    },
}


def draw_png(picture: Picture, path: Path) -> None:
    """Two panels beside each other: every trial, the front, the trial nearest to the paper's, the paper's points."""
    caption = textwrap.wrap(picture.caption, _WIDTH)
    foot = caption_inches(caption)
    figure = Figure(figsize=(12, 5.2 + foot), dpi=150)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (label, field) in zip(panels, AXES, strict=True):
        title, cost = axis(picture.points, label, field)
        _draw_panel(panel, picture, cost)
        panel.set_xlabel(title, fontsize=11)
    panels[0].set_ylabel(f"validation {picture.score} x 100", fontsize=11)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=5, fontsize=10, frameon=False, bbox_to_anchor=(0.5, 0.945))
    figure.suptitle(picture.title, fontsize=13, parse_math=False)
    figure.tight_layout(rect=(0.005, foot / figure.get_figheight(), 0.995, 0.925))
    save_picture(figure, path, title=picture.title, caption=picture.caption, lines=caption)


def _draw_panel(panel: Axes, picture: Picture, cost: Callable[[Point], float]) -> None:
    xs, ys = staircase([point for point in picture.trials if point.on_front], cost)
    panel.plot(xs, [100 * y for y in ys], color=VERMILION, linewidth=1.3, alpha=0.6, zorder=1)
    for group, points in picture.groups():
        if points:
            panel.scatter([cost(p) for p in points], [100 * p.score for p in points], **_PNG_MARKS[group])  # type: ignore[arg-type]
    costs = [cost(point) for point in picture.points]
    _write_names(panel, picture, cost, min(costs) ** 0.2 * max(costs) ** 0.8)
    steps = ((5, ticker.MaxNLocator(6)), (500, ticker.LogLocator(subs=(1, 2, 5))), (math.inf, ticker.LogLocator()))
    frame_panel(panel, next(locator for most, locator in steps if max(costs) <= most * min(costs)))


def frame_panel(panel: Axes, ticks: ticker.Locator) -> None:
    """A panel's logarithmic axis of costs with these ticks, its margins and its grid."""
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(ticks)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    panel.xaxis.set_minor_locator(ticker.NullLocator())
    panel.margins(x=0.07, y=0.1)
    panel.grid(alpha=0.3, linewidth=0.6)
    panel.set_axisbelow(True)


def _write_names(panel: Axes, picture: Picture, cost: Callable[[Point], float], edge: float) -> None:
    """Names of the paper's methods or, without them, numbers of the front's trials; beyond the edge, to the left."""
    halo = [patheffects.withStroke(linewidth=1.5, foreground="white")]
    methods = [point for point in picture.paper if point.name in _NAMED_IN_PNG]
    for point in methods or [point for point in picture.trials if point.on_front]:
        left = cost(point) > edge
        panel.annotate(
            point.name.removeprefix("trial "),
            (cost(point), 100 * point.score),
            xytext=(-6 if left else 6, 6),
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=9,
            path_effects=halo,
            zorder=6,
        )


# --- HTML -----------------------------------------------------------------------------------------------------

_HTML_MARKS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "paper": (_PAPER, {"symbol": "x", "size": 9, "color": GREEN}),
    "trial": ("trial", {"symbol": "circle", "size": 9, "color": GREY}),
    "front": ("on the front", {"symbol": "diamond", "size": 11, "color": VERMILION}),
    "first": (_FIRST, {"symbol": "circle-open", "size": 20, "color": BLUE, "line": {"width": 2}}),
}
_SIGNS = {"paper": "✕", "trial": "●", "front": "◆", "first": "○"}


def draw_html(picture: Picture, path: Path) -> None:
    """The same, to be hovered over; one file that needs no network."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, (label, field) in enumerate(AXES, start=1):
        title, cost = axis(picture.points, label, field)
        for trace in _traces(picture, cost, column == 1):
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text=title, type="log", exponentformat="none", row=1, col=column)
    figure.update_yaxes(title_text=f"validation {picture.score} x 100", row=1, col=1)
    frame_page(figure, title=picture.title, caption=picture.caption, width=_WIDTH, under=60)
    figure.update_layout(height=640, legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"})
    save_page(figure, path, "front")


def legend(picture: Picture) -> list[tuple[str, str, str]]:
    """(sign, colour, what it marks) of the groups that have points, to be written beside charts without a legend."""
    named = [(group, *_HTML_MARKS[group]) for group, points in picture.groups() if points]
    return [(_SIGNS[group], str(mark["color"]), name) for group, name, mark in named]


def front_charts(picture: Picture) -> list[go.Figure]:
    """A chart for each axis, without title, legend and caption: for a page that has these itself and may be narrow."""
    charts = []
    for label, field in AXES:
        title, cost = axis(picture.points, label, field)
        chart = go.Figure(list(_traces(picture, cost, False)))
        ticks = _ticks([cost(point) for point in picture.points])
        texts = [f"{tick:,g}" for tick in ticks]
        chart.update_xaxes(title_text=title, type="log", tickvals=ticks, ticktext=texts)
        chart.update_yaxes(title_text=f"validation {picture.score} x 100")
        margins = {"l": 60, "r": 12, "t": 12, "b": 56}
        chart.update_layout(template="plotly_white", height=400, margin=margins, font={"size": 13}, dragmode=False)
        chart.update_layout(hoverlabel={"bgcolor": "white", "font": {"color": "#1f2328"}})
        charts.append(chart)
    return charts


def _ticks(costs: Sequence[float]) -> list[float]:
    """Round numbers around these costs for a logarithmic axis: fewer steps the more they span."""
    least, most = min(costs), max(costs)
    steps = (1, 10, 100) if most > 1000 * least else (1, 2, 5) if most > 3 * least else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    powers = range(math.floor(math.log10(least)) - 1, math.ceil(math.log10(most)) + 2)
    ticks = sorted({float(f"{step * 10.0**power:.3g}") for power in powers for step in steps})
    return [tick for tick in ticks if least / 2 <= tick <= most * 2]


def _traces(picture: Picture, cost: Callable[[Point], float], in_legend: bool) -> Iterable[go.Scatter]:
    xs, ys = staircase([point for point in picture.trials if point.on_front], cost)
    line = {"color": VERMILION, "width": 1.5}
    yield go.Scatter(x=xs, y=[100 * y for y in ys], mode="lines", line=line, hoverinfo="skip", showlegend=False)
    for group, points in picture.groups():
        name, mark = _HTML_MARKS[group]
        if points:
            yield go.Scatter(
                x=[cost(point) for point in points],
                y=[100 * point.score for point in points],
                mode="markers",
                name=name,
                legendgroup=name,
                showlegend=in_legend,
                marker=mark,
                text=[_hover(point, picture.score) for point in points],
                hoverinfo="skip" if group == "first" else "text",
            )


def _hover(point: Point, score: str) -> str:
    numbers = (
        f"{score} x 100: {100 * point.score:.2f}",
        f"memory {point.memory_mib:,.0f} MiB",
        f"learnable {point.param_percent:.3g} %",
    )
    return hover_text((point.name, *point.details, *numbers))
