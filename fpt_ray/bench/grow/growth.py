"""An axis: a size that grows, what is measured at each, its exponent, and how all that is shown."""

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fpt_ray.display.charts import caption_inches, save_picture
from fpt_ray.display.typesetting import Table, text_column, typeset
from fpt_ray.display.units import MIB

_FITTED = 10
"""An exponent is fitted over the sizes from the largest divided by this on: below, what does not grow decides."""
_NOTE = "Exponents are fitted over the last decade of the sizes at which a line was measured."
_UNITS = {"s": "seconds", "MiB": "MiB", "GFLOP": "GFLOP"}


@dataclass(frozen=True, kw_only=True, slots=True)
class AtSize:
    """What was found at one size."""

    size: int
    values: Mapping[str, float]
    """{what, with its unit in brackets: how much}; what is not measured at every size may be missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """A size that may grow."""

    title: str
    sizes: tuple[int, ...]
    """Those that are measured by default, ascending."""
    measure: Callable[[Path, Sequence[int]], Iterator[AtSize]]
    """Measures each size in turn, in an empty folder."""


# --- measuring ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def timed(values: dict[str, float], what: str) -> Iterator[None]:
    """Adds the seconds that something takes."""
    started = time.perf_counter()
    yield
    values[f"{what} [s]"] = time.perf_counter() - started


@contextlib.contextmanager
def peak_memory(values: dict[str, float], what: str) -> Iterator[None]:
    """Adds how much more than before this process holds at most while something is done."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is then what is held now
    before = _status_bytes("VmRSS")
    yield
    values[f"{what} [MiB]"] = (_status_bytes("VmHWM") - before) / MIB


def resident_mib() -> float:
    """What this process holds."""
    return _status_bytes("VmRSS") / MIB


def _status_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


# --- what came out --------------------------------------------------------------------------------------------


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope of the values over the sizes, both as logarithms, over the last decade of sizes; NaN for one size."""
    fitted = [(size, value) for size, value in zip(sizes, values, strict=True) if size * _FITTED >= sizes[-1]]
    if len(fitted) < 2:
        return math.nan
    xs, ys = np.log(np.array(fitted)).T
    return float(np.polyfit(xs, ys, 1)[0])


def _lines(measured: Sequence[AtSize]) -> dict[str, tuple[list[int], list[float]]]:
    """{what: (sizes, its values there)}; what was too small to be seen, as memory held before, is left out."""
    names = dict.fromkeys(name for one in measured for name in one.values)
    there = {name: [(one.size, one.values[name]) for one in measured if one.values.get(name, 0) > 0] for name in names}
    return {name: ([size for size, _ in pairs], [value for _, value in pairs]) for name, pairs in there.items()}


def grow_text(axis: Axis, measured: Sequence[AtSize]) -> str:
    """A row for each size, and last the exponents."""
    columns = [
        text_column(
            name,
            [
                *(f"{one.values[name]:,.3g}" if name in one.values else "-" for one in measured),
                f"{exponent(sizes, values):z.2f}",
            ],
        )
        for name, (sizes, values) in _lines(measured).items()
    ]
    labels = [*(f"{one.size:,}" for one in measured), "exponent"]
    return typeset(Table(heading=axis.title, labels=labels, columns=columns, footnotes=(_NOTE,)), "text")


def draw_grow(axis: Axis, measured: Sequence[AtSize], path: Path) -> None:
    """A panel for each unit, over the sizes, all axes logarithmic; the widest is of seconds."""
    lines = _lines(measured)
    units = list(dict.fromkeys(unit for unit in _UNITS for name in lines if _unit(name) == unit))
    foot = caption_inches([_NOTE])
    figure = Figure(figsize=(10, 4.6 + foot), dpi=90)
    drawn = figure.subplots(1, len(units), squeeze=False, width_ratios=[2, 1.2, 1.2][: len(units)])
    panels = dict(zip(units, drawn[0], strict=True))
    kinds = list(dict.fromkeys(_kind(name) for name in lines))
    for name, (sizes, values) in lines.items():
        label = f"{_kind(name)} ({exponent(sizes, values):z.2f})"
        colour = f"C{kinds.index(_kind(name))}"  # of one thing, the same in all panels
        panels[_unit(name)].plot(sizes, values, marker="o", markersize=4, label=label, color=colour)
    for unit, panel in panels.items():
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel(axis.title)
        panel.set_ylabel(_UNITS[unit])
        panel.grid(alpha=0.3, linewidth=0.6)
        panel.legend(fontsize=9)
    title, caption = f"How cost grows with {axis.title}", _NOTE.replace("Exponents", "Exponents (in brackets)")
    figure.suptitle(title, fontsize=12)
    figure.tight_layout(rect=(0.005, foot / figure.get_figheight(), 0.995, 0.97))
    save_picture(figure, path, title=title, caption=caption, lines=[caption])


def _kind(name: str) -> str:
    """What a line is of."""
    return name.partition(" [")[0]


def _unit(name: str) -> str:
    """What stands in a line's brackets."""
    return name.rpartition("[")[2].rstrip("]")
