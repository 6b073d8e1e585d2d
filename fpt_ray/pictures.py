"""The trade-off of a study as pictures: AUC against peak memory and against learnable parameters."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

_TRIAL, _FRONT, _FIRST = "#9aa5b1", "#d55e00", "#0072b2"  # told apart by people who do not see all colours
_AXES = (("peak memory of training [MB]", "memory_mb"), ("learnable parameters", "parameters"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A finished trial in the pictures."""

    number: int
    auc: float
    """Validation AUC in 0..1."""
    memory_mb: float
    parameters: float
    on_front: bool
    label: str
    """The configuration."""


def staircase(points: Sequence[Point], cost: Callable[[Point], float]) -> tuple[list[float], list[float]]:
    """The best AUC that can be had up to each cost, as the corners of a line."""
    xs: list[float] = []
    ys: list[float] = []
    for point in sorted(points, key=lambda point: (cost(point), -point.auc)):
        if not ys or point.auc > ys[-1]:
            if ys:
                xs.append(cost(point))
                ys.append(ys[-1])
            xs.append(cost(point))
            ys.append(point.auc)
    return xs, ys


def draw_png(points: Sequence[Point], title: str, caption: str, path: Path) -> None:
    """Two panels: every trial, the front, the paper's configuration (trial 0)."""
    figure = Figure(figsize=(11, 5.2), dpi=130)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (label, field) in zip(panels, _AXES, strict=True):

        def cost(point: Point, field: str = field) -> float:
            return getattr(point, field)

        rest = [point for point in points if not point.on_front]
        front = [point for point in points if point.on_front]
        first = [point for point in points if point.number == 0]
        panel.plot(*staircase(points, cost), color=_FRONT, linewidth=1.2, alpha=0.6, zorder=1)
        panel.scatter([cost(p) for p in rest], [p.auc for p in rest], s=42, color=_TRIAL, label="trial", zorder=2)
        panel.scatter([cost(p) for p in front], [p.auc for p in front], s=58, color=_FRONT, label="on the front", zorder=3)
        panel.scatter(
            [cost(p) for p in first],
            [p.auc for p in first],
            s=150,
            facecolors="none",
            edgecolors=_FIRST,
            linewidths=2,
            label="nearest to the paper's configuration",
            zorder=4,
        )
        panel.set_xscale("log")
        panel.set_xlabel(label)
        panel.grid(alpha=0.25, which="both", linewidth=0.5)
        panel.xaxis.set_major_formatter(_plain)
        panel.xaxis.set_minor_formatter(_plain)
        panel.tick_params(axis="x", which="both", labelsize=8, rotation=30)
    panels[0].set_ylabel("validation AUC")
    panels[0].legend(loc="lower right", fontsize=9)
    figure.suptitle(title)
    figure.text(0.5, 0.012, "\n".join(textwrap.wrap(caption, 150)), ha="center", va="bottom", fontsize=8, color="#555555")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path)


def _plain(value: float, _position: int) -> str:
    return f"{value / 1e6:g} M" if value >= 1e6 else f"{value / 1e3:g} k" if value >= 1e4 else f"{value:g}"


def draw_html(points: Sequence[Point], title: str, caption: str, path: Path) -> None:
    """The same, to be hovered over; one file that needs no network."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    groups = (
        ("trial", _TRIAL, [point for point in points if not point.on_front]),
        ("on the front", _FRONT, [point for point in points if point.on_front]),
    )
    for column, (label, field) in enumerate(_AXES, start=1):
        xs, ys = staircase(points, lambda point, field=field: getattr(point, field))
        line = {"color": _FRONT, "width": 1}
        figure.add_trace(go.Scatter(x=xs, y=ys, mode="lines", line=line, hoverinfo="skip", showlegend=False), 1, column)
        for name, color, group in groups:
            figure.add_trace(
                go.Scatter(
                    x=[getattr(point, field) for point in group],
                    y=[point.auc for point in group],
                    mode="markers",
                    name=name,
                    legendgroup=name,
                    showlegend=column == 1,
                    marker={"color": color, "size": 10},
                    text=[f"trial {point.number}<br>{point.label.replace(', ', '<br>')}" for point in group],
                    hovertemplate="%{text}<br>AUC %{y:.4f}<br>" + label + " %{x:,.0f}<extra></extra>",
                ),
                1,
                column,
            )
        figure.update_xaxes(title_text=label, type="log", row=1, col=column)
    figure.update_yaxes(title_text="validation AUC", row=1, col=1)
    figure.update_layout(title=f"{title}<br><sup>{caption}</sup>", template="plotly_white", height=620)
    figure.write_html(path, include_plotlyjs=True, full_html=True)
