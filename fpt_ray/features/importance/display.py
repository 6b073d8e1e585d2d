"""A survey as a table and as a picture."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from fpt_ray.display.charts import caption_inches, save_picture
from fpt_ray.display.typesetting import Cell, Column, Table
from fpt_ray.features.importance.survey import BlockFigures, Survey

Flipped = Mapping[tuple[int, float], float]
_NOTES = {
    "heads": "heads: of the tokens that a head keeps, the share that another head keeps; at random, the ratio.",
    "images": "images: ... that the head keeps in another image, too; at random, the ratio. High: it is the place.",
    "neighbours": "neighbours: of the patches beside a kept patch, the share that is kept; at random, the ratio.",
    "flipped": "flipped: ... that the head keeps when the image is mirrored.",
    "touched": "touched: of findings, the share of which a head keeps a patch; chance: of tokens drawn at random.",
}


def survey_table(found: Survey, flipped: Flipped) -> Table:
    """A row for each block and ratio; blocks count from 0, as in ``side.blocks``."""
    figures = found.figures
    columns = [
        Column(title="ratio", cells=[Cell(text=f"{one.ratio:g}", plain=one.ratio) for one in figures]),
        Column(title="tokens", cells=[Cell(text=str(one.kept), plain=one.kept) for one in figures]),
        _column("heads", [one.heads for one in figures]),
        _column("images", [one.images for one in figures]),
        _column("neighbours", [one.neighbours for one in figures]),
    ]
    names = ["heads", "images", "neighbours"]
    if flipped:
        columns.append(_column("flipped", [flipped[one.block, one.ratio] for one in figures]))
        names.append("flipped")
    if found.num_findings:
        columns.append(_column("touched", [one.touched for one in figures]))
        columns.append(_column("by the best head", [one.touched_by_best for one in figures], name="touched_by_best"))
        columns.append(_column("chance", [one.chance for one in figures]))
        names.append("touched")
    counts = f"{found.num_images} training and validation images"
    counts += f", {found.num_findings} findings in them" if found.num_findings else ""
    return Table(
        title=f"Tokens that heads keep, by block (from 0) and ratio: {counts}",
        heading="block",
        labels=[str(one.block) for one in figures],
        columns=columns,
        footnotes=[_NOTES[name] for name in names],
    )


def _column(title: str, values: Sequence[float | None], name: str | None = None) -> Column:
    return Column(title=title, cells=[Cell(value=value) for value in values], name=name)


def draw_survey(found: Survey, flipped: Flipped, path: Path) -> None:
    """A panel for each measure: a line for each ratio over the blocks; what chance gives is dashed."""
    panels: list[tuple[str, Callable[[BlockFigures], float | None], Callable[[BlockFigures], float | None]]] = []
    share = lambda one: one.kept / found.num_tokens  # noqa: E731
    if found.num_findings:
        panels.append(("findings touched by a head", lambda one: one.touched, lambda one: one.chance))
    panels.append(("kept by another head, too", lambda one: one.heads, share))
    panels.append(("kept in another image, too", lambda one: one.images, share))
    panels.append(("kept beside a kept patch", lambda one: one.neighbours, share))
    if flipped:
        panels.append(("kept in the mirror image, too", lambda one: flipped[one.block, one.ratio], share))
    lines = [
        f"{found.num_images} training and validation images"
        + (f", {found.num_findings} findings" if found.num_findings else "")
        + ". Dashed: tokens drawn at random. Blocks count from 0."
    ]
    foot = caption_inches(lines)
    figure = Figure(figsize=(3.1 * len(panels) + 0.6, 3.6 + foot), dpi=90)
    ratios, blocks = (
        list(dict.fromkeys(kind)) for kind in zip(*((f.ratio, f.block) for f in found.figures), strict=True)
    )
    for axes, (title, value, chance) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, ratio in enumerate(ratios):
            rows = [one for one in found.figures if one.ratio == ratio]
            axes.plot(
                blocks, [value(one) for one in rows], marker="o", markersize=4, label=f"ratio {ratio:g}", c=f"C{number}"
            )
            axes.plot(blocks, [chance(one) for one in rows], linestyle="--", linewidth=0.9, c=f"C{number}")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("block of the LPM")
        axes.set_xticks(blocks)
        axes.set_ylim(0, 1.02)
        axes.grid(alpha=0.3, linewidth=0.6)
    figure.axes[0].set_ylabel("share")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="upper right", ncols=len(ratios), fontsize=9)
    title = "Which tokens the heads of each block keep"
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    figure.tight_layout(rect=(0.005, foot / figure.get_figheight(), 0.995, 0.97))
    save_picture(figure, path, title=title, caption=lines[0], lines=lines)
