"""How cost grows: seconds and memory of what users wait for, against one size at a time, and the exponent of each.

An axis is a size and how it is measured; a further one is an entry of ``AXES``.
"""

import contextlib
import io
import math
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fpt_ray.bench.made_study import NAME, SPACE, MadeStudy, add_trials, begin_study
from fpt_ray.display.charts import caption_inches, save_picture
from fpt_ray.display.terminal import say
from fpt_ray.display.typesetting import Table, text_column, typeset
from fpt_ray.display.units import MIB
from fpt_ray.report.command import report
from fpt_ray.search.optuna_study import open_study
from fpt_ray.search.pictures import draw_study_pictures
from fpt_ray.search.searcher import StudySearcher
from fpt_ray.tracking.server import open_tracking
from fpt_ray.tune.study_run import start_or_find

_PROPOSALS = 3
_FITTED = 10
"""An exponent is fitted over the sizes from the largest divided by this on: below, what does not grow decides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was waited for at one size."""

    size: int
    seconds: Mapping[str, float]
    """{what: how long}"""
    resident_mib: float
    """Of the process, once it has done it all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """A size that may grow."""

    title: str
    sizes: tuple[int, ...]
    """Those that are measured by default, ascending."""
    measure: Callable[[Path, Sequence[int]], Iterator[Measured]]
    """Measures each size in turn, in an empty folder."""


# --- trials ---------------------------------------------------------------------------------------------------


def measure_trials(folder: Path, sizes: Sequence[int]) -> Iterator[Measured]:
    """Grows one study in a journal and in MLflow's database, and comes back to it at each size."""
    made = begin_study(folder)
    study = open_study(SPACE, NAME, made.location, resume=True)
    there = 0
    for size in sizes:
        say(f"grow: {size} trials")
        add_trials(made, study, size - there)
        if not there:
            _come_back(made)  # imports, and files that are read for the first time
        there = size
        seconds = _come_back(made)
        yield Measured(size=size, seconds=seconds, resident_mib=_resident_bytes() / MIB)


def _come_back(made: MadeStudy) -> dict[str, float]:
    """The seconds of what a driver and a reader do with a study; on a copy of its journal, which it does not change."""
    seconds: dict[str, float] = {}
    copy = made.workdir / "copy.log"
    shutil.copy(made.location, copy)
    with _timed(seconds, "resume: the journal"):
        study = open_study(SPACE, NAME, str(copy), resume=True)
    client = open_tracking(made.tracking_uri)
    with _timed(seconds, "resume: MLflow"):
        start_or_find(client, NAME, SPACE, [], study, resume=True)
    search, proposals = StudySearcher(SPACE, study), []
    for index in range(_PROPOSALS):
        with _timed(seconds, "a proposal"):
            search.suggest(str(index))
        proposals.append(seconds["a proposal"])
    seconds["a proposal"] = statistics.median(proposals)
    with _timed(seconds, "Optuna's pictures"):
        list(draw_study_pictures(study, SPACE, made.workdir / "pictures"))
    with _timed(seconds, "fpt-ray report"), contextlib.redirect_stdout(io.StringIO()):
        report(NAME, tracking_uri=made.tracking_uri, workdir=str(made.workdir))
    return seconds


@contextlib.contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - started


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


AXES: Mapping[str, Axis] = {
    "trials": Axis(title="trials in a study", sizes=(10, 30, 100, 300, 1000, 3000), measure=measure_trials),
}


# --- what came out --------------------------------------------------------------------------------------------


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope of the values over the sizes, both as logarithms, over the last decade of sizes; NaN for one size."""
    fitted = [(size, value) for size, value in zip(sizes, values, strict=True) if size * _FITTED >= sizes[-1]]
    if len(fitted) < 2:
        return math.nan
    xs, ys = np.log(np.array(fitted)).T
    return float(np.polyfit(xs, ys, 1)[0])


def _lines(measured: Sequence[Measured]) -> dict[str, list[float]]:
    """{what: its values at each size}; memory comes last."""
    names = list(measured[0].seconds)
    found = {f"{name} [s]": [one.seconds[name] for one in measured] for name in names}
    return found | {"resident [MiB]": [one.resident_mib for one in measured]}


def grow_text(axis: Axis, measured: Sequence[Measured]) -> str:
    """A row for each size, and last the exponents."""
    sizes, lines = [one.size for one in measured], _lines(measured)
    columns = [
        text_column(name, [*(f"{value:,.3g}" for value in values), f"{exponent(sizes, values):z.2f}"])
        for name, values in lines.items()
    ]
    labels = [*(f"{size:,}" for size in sizes), "exponent"]
    note = f"Exponents are fitted over the sizes from {sizes[-1] / _FITTED:,.0f} on."
    return typeset(Table(heading=axis.title, labels=labels, columns=columns, footnotes=(note,)), "text")


def draw_grow(axis: Axis, measured: Sequence[Measured], path: Path) -> None:
    """Seconds and memory over the sizes, both axes logarithmic."""
    sizes = [one.size for one in measured]
    caption = f"Exponents (in brackets) are fitted over the sizes from {sizes[-1] / _FITTED:,.0f} on."
    foot = caption_inches([caption])
    figure = Figure(figsize=(10, 4.6 + foot), dpi=90)
    panels = figure.subplots(1, 2, width_ratios=(2, 1))
    for name, values in _lines(measured).items():
        what, unit = name.rstrip("]").split(" [")
        panel = panels[0 if unit == "s" else 1]
        panel.plot(sizes, values, marker="o", markersize=4, label=f"{what} ({exponent(sizes, values):z.2f})")
        panel.set_ylabel({"s": "seconds", "MiB": "MiB"}[unit])
    for panel in panels:
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel(axis.title)
        panel.grid(alpha=0.3, linewidth=0.6)
        panel.legend(fontsize=9)
    title = f"How cost grows with {axis.title}"
    figure.suptitle(title, fontsize=12)
    figure.tight_layout(rect=(0.005, foot / figure.get_figheight(), 0.995, 0.97))
    save_picture(figure, path, title=title, caption=caption, lines=[caption])
