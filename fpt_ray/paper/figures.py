"""Figures 6 to 8 of the paper, drawn from the table of numbers behind them, as a picture and as a page."""

import html
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import plotly.graph_objects as go
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from fpt_ray.display.charts import BLUE, GREEN, VERMILION, caption_inches, frame_page, save_page, save_picture
from fpt_ray.display.typesetting import Cell, Column, Table, printed

Kind = Literal["lines", "bars"]
_OURS, _PAPER, _BEST = "measured here", "the paper's (other images)", "best"
_BAR = 0.44
_WIDTH = 150
"""Characters of a caption's line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One quantity against the rows of the table."""

    ours: Column
    paper: Sequence[Cell]
    """The paper's numbers; empty: it has none, or they are not wanted."""

    def best(self) -> int | None:
        """The row that gets the star: our highest, of a quantity of which more is better."""
        values = [(cell.value, -row) for row, cell in enumerate(self.ours.cells) if cell.value is not None]
        return -max(values)[1] if self.ours.ranked and values else None


def panels(table: Table) -> list[Panel]:
    """The table's columns, each with the paper's column that stands behind it."""
    return [
        Panel(ours=column, paper=following.cells if following and following.of_paper else ())
        for column, following in pairwise([*table.columns, None])
        if column and not column.of_paper
    ]


def _known(xs: Sequence[float], cells: Sequence[Cell]) -> tuple[list[float], list[float], list[float]]:
    """x, value and standard deviation of the cells that have a value."""
    found = [(x, cell.value, cell.std or 0.0) for x, cell in zip(xs, cells, strict=False) if cell.value is not None]
    return [x for x, _, _ in found], [value for _, value, _ in found], [std for _, _, std in found]


def _positions(table: Table, kind: Kind) -> list[float]:
    return (
        [float(row) for row in range(len(table.labels))] if kind == "bars" else [float(text) for text in table.labels]
    )


def _lowest(panel: Panel) -> float:
    """Where bars begin: scores not at 0, or differences of a few points would not be seen."""
    values = [cell.value for cell in (*panel.ours.cells, *panel.paper) if cell.value is not None]
    return max(0.0, min(values, default=0.0) - 10) if panel.ours.ranked else 0.0


# --- PNG ------------------------------------------------------------------------------------------------------


def draw_figure_png(table: Table, kind: Kind, path: Path) -> None:
    """A panel for each quantity; a star at the best of a line."""
    drawn = panels(table)
    caption = [line for note in table.notes for line in textwrap.wrap(note, _WIDTH)]
    foot = caption_inches(caption)
    across = 3 if len(drawn) == 3 else 2
    down = -(-len(drawn) // across)
    figure = Figure(figsize=(12, 4.4 * down + 0.8 + foot), dpi=150)
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for panel, axis in zip(drawn, axes, strict=True):
        (_draw_bars if kind == "bars" else _draw_line)(axis, panel, _positions(table, kind))
        axis.set_title(panel.ours.title, fontsize=11)
        if kind == "bars":
            axis.set_xticks(range(len(table.labels)), table.labels, rotation=25, ha="right", fontsize=9)
        else:
            axis.set_xlabel(table.heading, fontsize=10)
        axis.grid(alpha=0.3, linewidth=0.6, axis="y" if kind == "bars" else "both")
        axis.set_axisbelow(True)
    height = figure.get_figheight()
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    legend = {"loc": "upper center", "ncols": 3, "fontsize": 10, "frameon": False}
    figure.legend(found.values(), found.keys(), bbox_to_anchor=(0.5, 1 - 0.36 / height), **legend)
    title = figure.suptitle(table.title, fontsize=13, y=1 - 0.1 / height, va="top", parse_math=False)
    title.set_in_layout(False)  # else room is made for it twice
    figure.tight_layout(rect=(0.005, foot / height, 0.995, 1 - 0.6 / height))
    save_picture(figure, path, title=table.title, caption=" ".join(table.notes), lines=caption)


def _draw_line(axis: Axes, panel: Panel, positions: Sequence[float]) -> None:
    xs, ys, stds = _known(positions, panel.ours.cells)
    spread = stds if any(stds) else None
    axis.errorbar(xs, ys, yerr=spread, color=VERMILION, marker="D", markersize=6, capsize=3, label=_OURS, zorder=3)
    theirs, values, _ = _known(positions, panel.paper)
    if theirs:
        axis.scatter(theirs, values, marker="X", s=70, color=GREEN, linewidths=0, label=_PAPER, zorder=3.5)
    best = panel.best()
    if best is not None:
        star = {"marker": "*", "s": 330, "color": BLUE, "edgecolors": "white", "linewidths": 0.8}
        axis.scatter(positions[best], panel.ours.cells[best].value, label=_BEST, zorder=4, **star)  # type: ignore[arg-type]
    axis.set_xticks(positions, [f"{x:g}" for x in positions])
    axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
    axis.margins(x=0.08, y=0.15)


def _draw_bars(axis: Axes, panel: Panel, positions: Sequence[float]) -> None:
    both = bool(panel.paper)
    groups = [(panel.ours.cells, VERMILION, _OURS, -_BAR / 2 if both else 0.0)]
    if both:
        groups.append((panel.paper, GREEN, _PAPER, _BAR / 2))
    for cells, color, label, shift in groups:
        xs, ys, stds = _known(positions, cells)
        where = [x + shift for x in xs]
        width = _BAR if both else 1.4 * _BAR
        bars = axis.bar(where, ys, width, yerr=stds if any(stds) else None, capsize=3, color=color, label=label)
        axis.bar_label(bars, [f"{y:.{panel.ours.digits}f}" for y in ys], fontsize=7 if both else 9, padding=2)
    axis.set_ylim(bottom=_lowest(panel))
    axis.set_xlim(positions[0] - 0.6, positions[-1] + 0.6)
    axis.margins(y=0.12)


# --- HTML -----------------------------------------------------------------------------------------------------


def draw_figure_html(table: Table, kind: Kind, path: Path) -> None:
    """The same, to be hovered over; one file that needs no network."""
    drawn = panels(table)
    across = 3 if len(drawn) == 3 else 2
    down = -(-len(drawn) // across)
    titles = [panel.ours.title for panel in drawn]
    figure = make_subplots(rows=down, cols=across, subplot_titles=titles, vertical_spacing=0.16)
    for place, panel in enumerate(drawn):
        row, column = place // across + 1, place % across + 1
        for trace in _traces(table, panel, kind):
            trace.showlegend = place == 0
            figure.add_trace(trace, row=row, col=column)
        axis = {} if kind == "bars" else {"title_text": table.heading, "tickvals": _positions(table, kind)}
        figure.update_xaxes(**axis, row=row, col=column)
        lowest = _lowest(panel) if kind == "bars" else None
        figure.update_yaxes(exponentformat="none", autorangeoptions={"minallowed": lowest}, row=row, col=column)
    under = 130 if kind == "bars" else 70
    frame_page(figure, title=table.title, caption=" ".join(table.notes), width=_WIDTH, under=under)
    height = 400 * down + 110 + under
    legend = {"orientation": "h", "x": 0, "y": 1 - 64 / height, "yref": "container", "yanchor": "top"}
    figure.update_layout(height=height, margin_t=110, legend=legend)
    save_page(figure, path, "figure")


def _traces(table: Table, panel: Panel, kind: Kind) -> Iterable[go.Bar | go.Scatter]:
    labels = [html.escape(label) for label in table.labels]
    xs = labels if kind == "bars" else [float(label) for label in table.labels]
    for cells, name, color, symbol in (
        (panel.ours.cells, _OURS, VERMILION, "diamond"),
        (panel.paper, _PAPER, GREEN, "x"),
    ):
        if not cells:
            continue
        texts = [printed(cell, panel.ours.digits) for cell in cells]
        shown = {
            "x": xs,
            "y": [cell.value for cell in cells],
            "name": name,
            "legendgroup": name,
            "hovertext": [f"{label}: {text}" for label, text in zip(labels, texts, strict=True)],
            "hoverinfo": "text",
            "error_y": {"array": [cell.std or 0 for cell in cells]} if any(cell.std for cell in cells) else None,
        }
        if kind == "bars":
            yield go.Bar(**shown, marker={"color": color})
        else:
            mode = "lines+markers" if name == _OURS else "markers"
            yield go.Scatter(**shown, mode=mode, marker={"symbol": symbol, "size": 10, "color": color})
    best = panel.best() if kind == "lines" else None
    if best is not None:
        star = {"symbol": "star", "size": 18, "color": BLUE}
        at = {"x": [xs[best]], "y": [panel.ours.cells[best].value]}
        yield go.Scatter(**at, mode="markers", name=_BEST, legendgroup=_BEST, marker=star, hoverinfo="skip")
