"""What the networks looked at in an image, as a picture: the paper's Figures 9 and 5, curves, and images alike."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, SubplotSpec
from matplotlib.patches import Rectangle

from fpt_ray.display.charts import BLUE, GREEN, GREY, VERMILION, caption_inches, save_picture
from fpt_ray.features.importance.findings import OnSquare
from fpt_ray.predict.evidence.attention import Evidence, heat, times_selected
from fpt_ray.predict.evidence.curves import SHARES, Curves

_SMALL_A_ROW = 6
_COLUMNS = 12
_HEIGHTS = (3.2, 2.05, 2.7)
"""Of the rows, in inches: the image, six layers or heads, and what is below them."""
_WIDTH = 12.4
_DPI = 100
"""A picture is 1,240 pixels wide and about 1 MB: a page of a study holds some."""
_CAPTION = (
    "Green: patches whose tokens heads keep, the important ones. Colour: the attention that prompts (of a probe: "
    "queries) pay to them on the way to the answer,",
    "in a scale of each panel's own. Deleted patches are painted over with the mean colour, inserted ones shown on a "
    "blurred image, and all is computed anew (grey: in",
    "random order). Attention says where the network looked, and not that what is there is the reason.",
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Looked:
    """All that is known of what was looked at in an image."""

    path: str
    square: UInt8[np.ndarray, "R R 3"]
    """The image as the LPM sees it."""
    answer: str
    label: str
    """Empty where it is not known."""
    evidence: Evidence
    places: tuple[OnSquare, ...] = ()
    """Where its findings lie."""
    curves: Curves | None = None
    alike: tuple[tuple[str, UInt8[np.ndarray, "R R 3"]], ...] = ()
    """(caption, pixels) of training images, the most alike first."""


def picture_of(looked: Looked) -> bytes:
    """A PNG."""
    evidence = looked.evidence
    layers, heads, _ = evidence.tokens.shape
    rows = [layers if layers > 1 else 0, heads]
    small = [-(-panels // _SMALL_A_ROW) for panels in rows]
    below = bool(evidence.to_prompts is not None or looked.curves is not None or looked.alike)
    heights = [_HEIGHTS[0], *[_HEIGHTS[1]] * sum(small), *[_HEIGHTS[2]] * below]
    foot, head = caption_inches(_CAPTION), 0.35
    whole = sum(heights) + foot + head + 0.3
    figure = Figure(figsize=(_WIDTH, whole), dpi=_DPI)
    grid = GridSpec(
        len(heights),
        _COLUMNS,
        figure=figure,
        height_ratios=heights,
        left=0.035,
        right=0.99,
        bottom=(foot + 0.5) / whole,
        top=1 - (head + 0.2) / whole,
        hspace=0.22,
        wspace=0.6,
    )
    _draw_image(figure, grid, looked)
    for number in range(rows[0]):
        axes = _small(figure, grid, 1, number)
        _show(axes, looked.square, f"block {evidence.blocks[number]}: attention", heat(evidence, number))
    for number in range(heads):
        axes = _small(figure, grid, 1 + small[0], number)
        _show(axes, looked.square, f"block {evidence.blocks[-1]}, head {number}", heat(evidence, -1, number))
        _outline(axes, looked, times_selected(evidence, -1, number))
    if below:
        _draw_below(figure, grid, looked)
    title = f"{looked.path[-70:]}: {looked.answer}" + (f" (labelled {looked.label})" if looked.label else "")
    figure.suptitle(title, x=0.01, y=1 - 0.08 / whole, ha="left", va="top", fontsize=12, parse_math=False)
    sink = io.BytesIO()
    save_picture(figure, sink, title=title, caption=" ".join(_CAPTION), lines=_CAPTION)
    return sink.getvalue()


def _small(figure: Figure, grid: GridSpec, first: int, number: int) -> Axes:
    """A panel in the rows of small ones that begin at a row."""
    row, column = divmod(number, _SMALL_A_ROW)
    return figure.add_subplot(grid[first + row, 2 * column : 2 * column + 2])


# --- rows -----------------------------------------------------------------------------------------------------


def _draw_image(figure: Figure, grid: GridSpec, looked: Looked) -> None:
    evidence, top = looked.evidence, looked.evidence.blocks[-1]
    panels = [figure.add_subplot(grid[0, first : first + 3]) for first in range(0, _COLUMNS, 3)]
    findings = f", {len(looked.places)} findings" if looked.places else ""
    _show(panels[0], looked.square, f"the image{findings}")
    _show(panels[1], looked.square, f"block {top}: kept by any head")
    _outline(panels[1], looked, times_selected(evidence, -1))
    _show(panels[2], looked.square, f"block {top}: attention, all heads", heat(evidence, -1))
    if len(evidence.blocks) > 1:
        listed = ", ".join(map(str, evidence.blocks))
        _show(panels[3], looked.square, f"blocks {listed}: attention", heat(evidence))
    else:
        panels[3].remove()
    _draw_findings(panels[0], looked)
    _draw_findings(panels[2], looked)


def _draw_below(figure: Figure, grid: GridSpec, looked: Looked) -> None:
    evidence, cells = looked.evidence, [grid[-1, first : first + 3] for first in range(0, _COLUMNS, 3)]
    if evidence.to_prompts is not None:
        _draw_to_prompts(figure.add_subplot(cells[0]), evidence)
    if looked.curves is not None:
        curves = looked.curves
        areas = curves.areas()
        for cell, name in ((cells[1], "deletion"), (cells[2], "insertion")):
            axes = figure.add_subplot(cell)
            own, drawn = getattr(curves, name), getattr(curves, f"random_{name}")
            axes.set_title(f"{name}: area {areas[name]:.2f}, random {areas[f'random_{name}']:.2f}", fontsize=9)
            _draw_curve(axes, own, drawn)
            axes.set_xlabel("patches" + (" deleted" if name == "deletion" else " inserted") + " [%]", fontsize=8)
    if looked.alike:
        _draw_alike(figure, cells[3], looked.alike)


def _draw_to_prompts(axes: Axes, evidence: Evidence) -> None:
    """Figure 5."""
    assert evidence.to_prompts is not None
    assert evidence.uniform_to_prompts is not None
    means = evidence.to_prompts.mean(axis=(0, 2))
    axes.bar(np.arange(len(means)), means, color=BLUE, width=0.7)
    axes.axhline(evidence.uniform_to_prompts, color=GREY, linestyle="--", linewidth=1)
    axes.set_xticks(np.arange(len(means)), [str(block) for block in evidence.blocks])
    axes.set_title("attention that prompts are paid (dashed: if even)", fontsize=9)
    axes.set_xlabel("LPM block that the layer reads", fontsize=8)
    axes.tick_params(labelsize=8)


def _draw_curve(axes: Axes, own: Float[np.ndarray, " K"], drawn: Float[np.ndarray, "R K"]) -> None:
    shares = np.array(SHARES) * 100
    for one in drawn:
        axes.plot(shares, one, color=GREY, linewidth=0.9)
    axes.plot(shares, own, color=VERMILION, marker="o", markersize=3)
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    ticks = (1, 5, 20, 100)
    axes.set_xticks(ticks, [f"{tick}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlim(0, 100)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3, linewidth=0.6)


def _draw_alike(figure: Figure, cell: SubplotSpec, images: Sequence[tuple[str, np.ndarray]]) -> None:
    within = cell.subgridspec(2, 2, hspace=0.3, wspace=0.05)
    for number, (caption, pixels) in enumerate(images[:4]):
        axes = figure.add_subplot(within[divmod(number, 2)])
        axes.imshow(pixels)
        axes.set_axis_off()
        axes.set_title(("looked like:  " if number == 0 else "") + caption, fontsize=7.5, pad=2, parse_math=False)


# --- an image -------------------------------------------------------------------------------------------------


def _show(axes: Axes, square: np.ndarray, title: str, paid: Float[np.ndarray, "side side"] | None = None) -> None:
    """The image, or in grey with the attention upon it."""
    side = len(square)
    axes.set_title(title, fontsize=9, pad=3, parse_math=False)
    axes.set_axis_off()
    if paid is None:
        axes.imshow(square, extent=(0, side, side, 0))
        return
    axes.imshow(square.mean(axis=2), cmap="gray", vmin=0, vmax=255, extent=(0, side, side, 0))
    strength = paid / (paid.max() or 1.0)
    axes.imshow(strength, cmap="inferno", alpha=0.85 * np.sqrt(strength), extent=(0, side, side, 0), vmin=0, vmax=1)


def _outline(axes: Axes, looked: Looked, times: np.ndarray) -> None:
    """Boxes around the patches that are kept, the stronger, the more heads keep them."""
    size, most = len(looked.square) / len(times), times.max() or 1
    rows, columns = np.nonzero(times)
    boxes = [Rectangle((column * size, row * size), size, size) for row, column in zip(rows, columns, strict=True)]
    colours = [(*_rgb(GREEN), 0.25 + 0.75 * times[at] / most) for at in zip(rows, columns, strict=True)]
    axes.add_collection(PatchCollection(boxes, facecolor="none", edgecolor=colours, linewidth=0.9))


def _draw_findings(axes: Axes, looked: Looked) -> None:
    size = len(looked.square) / looked.evidence.patches_a_side
    for x0, y0, x1, y1 in looked.places:
        corner, width, height = (x0 * size, y0 * size), (x1 - x0) * size, (y1 - y0) * size
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=VERMILION, linewidth=1.2))


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue
