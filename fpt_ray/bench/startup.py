"""How long the package takes to be imported, the front door to open, and every command to print its help."""

import statistics
import subprocess
import sys
import time

from fpt_ray.__main__ import COMMANDS
from fpt_ray.display.typesetting import Cell, Column, Table, typeset

MEASURED = {
    "import fpt_ray": ("-c", "import fpt_ray"),
    "fpt-ray": ("-m", "fpt_ray"),
    **{f"fpt-ray {name} --help": ("-m", "fpt_ray", name, "--help") for name in COMMANDS},
}
"""{what is timed: the arguments of Python}"""


def startup_text(runs: int) -> str:
    """A table of medians over ``runs`` processes each, start and end of Python included."""
    medians = [Cell(value=startup_seconds(arguments, runs)) for arguments in MEASURED.values()]
    return typeset(
        Table(
            title=f"Start-up in seconds: medians of {runs} processes, start and end of Python included.",
            notes=(),
            heading="what",
            labels=tuple(MEASURED),
            columns=(Column(title="seconds", cells=medians),),
        ),
        "text",
    )


def startup_seconds(arguments: tuple[str, ...], runs: int) -> float:
    """The median seconds of a Python process with these arguments, after one that warms the caches of the disk."""
    seconds = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])
