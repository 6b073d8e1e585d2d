"""The trials of a study grow."""

import contextlib
import io
import shutil
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from fpt_ray.bench.grow.growth import AtSize, resident_mib, timed
from fpt_ray.bench.grow.made_study import NAME, SPACE, MadeStudy, add_trials, begin_study
from fpt_ray.display.terminal import say
from fpt_ray.report.command import report
from fpt_ray.search.optuna_study import open_study
from fpt_ray.search.pictures import draw_study_pictures
from fpt_ray.search.searcher import StudySearcher
from fpt_ray.tracking.server import open_tracking
from fpt_ray.tune.study_run import start_or_find

_PROPOSALS = 3


def measure_trials(folder: Path, sizes: Sequence[int]) -> Iterator[AtSize]:
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
        values = _come_back(made)
        yield AtSize(size=size, values={**values, "resident [MiB]": resident_mib()})


def _come_back(made: MadeStudy) -> dict[str, float]:
    """The seconds of what a driver and a reader do with a study; on a copy of its journal, which it does not change."""
    values: dict[str, float] = {}
    copy = made.workdir / "copy.log"
    shutil.copy(made.location, copy)
    with timed(values, "resume: the journal"):
        study = open_study(SPACE, NAME, str(copy), resume=True)
    client = open_tracking(made.tracking_uri)
    with timed(values, "resume: MLflow"):
        start_or_find(client, NAME, SPACE, [], study, resume=True)
    search, proposals = StudySearcher(SPACE, study), []
    for index in range(_PROPOSALS):
        with timed(values, "a proposal"):
            search.suggest(str(index))
        proposals.append(values["a proposal [s]"])
    values["a proposal [s]"] = statistics.median(proposals)
    with timed(values, "Optuna's pictures"):
        list(draw_study_pictures(study, SPACE, made.workdir / "pictures"))
    with timed(values, "fpt-ray report"), contextlib.redirect_stdout(io.StringIO()):
        report(NAME, tracking_uri=made.tracking_uri, workdir=str(made.workdir))
    return values
