"""What all charts share: colours, small print below, and how pictures and pages are saved."""

import html
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by people who do not see all of them; the marks differ in shape as well.
GREY, VERMILION, BLUE, GREEN = "#8c959f", "#d55e00", "#0072b2", "#009e73"


# --- pictures (PNG) -------------------------------------------------------------------------------------------


def caption_inches(lines: Sequence[str]) -> float:
    """The height that a caption of these lines takes."""
    return 0.16 * (len(lines) + 1)


def save_picture(figure: Figure, path: Path | io.BytesIO, *, title: str, caption: str, lines: Sequence[str]) -> None:
    """Writes the caption's lines along the lower edge, and the figure with title and caption as its metadata.

    The caller has left room for the lines, ``caption_inches``.
    """
    figure.text(
        0.02,
        0.1 / figure.get_figheight(),
        "\n".join(lines),
        ha="left",
        va="bottom",
        fontsize=9,
        color="#444444",
        parse_math=False,
        linespacing=1.3,
    )
    figure.savefig(path, metadata={"Title": title, "Description": caption})


# --- pages (HTML) ---------------------------------------------------------------------------------------------


def frame_page(page: go.Figure, *, title: str, caption: str, width: int, under: int) -> None:
    """Gives a page its title and, ``under`` pixels below its axes, the caption in lines of ``width`` characters."""
    text = "<br>".join(textwrap.wrap(html.escape(caption, quote=False), width))
    page.update_layout(
        title=html.escape(title, quote=False),
        template="plotly_white",
        margin={"b": under + 30 + 16 * text.count("<br>")},
        font={"size": 14},
    )
    below = {"xref": "paper", "yref": "paper", "x": 0, "y": 0, "xanchor": "left", "yanchor": "top", "yshift": -under}
    page.add_annotation(text=text, showarrow=False, align="left", font={"size": 12}, **below)


def hover_text(lines: Sequence[str]) -> str:
    """What a page shows beside a mark, line by line."""
    return "<br>".join(map(html.escape, lines))


def save_page(page: go.Figure, path: Path, name: str) -> None:
    """Writes one file that needs no network and is the same each time."""
    page.write_html(path, include_plotlyjs=True, full_html=True, div_id=name)
