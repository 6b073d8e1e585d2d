"""Shows what came of a study: its front as a table and pictures, or one of the paper's tables or figures.

With --as, several studies stand in one table, each of one data set; with --folds, each of one fold. `report compare`
sets any studies beside each other that are judged by the same score; its --help says how.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fpt_ray.display.typesetting import Form
from fpt_ray.errors import ConfigError
from fpt_ray.paper.layouts import As


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """The options of ``report``."""

    study: tuple[str, ...]
    """The name of the study; of several studies with --as or --folds, each of one data set or fold."""
    as_: Annotated[As | None, tyro.conf.arg(name="as")] = None
    """The paper's table or figure to print or draw. Default: the front of the study."""
    folds: bool = False
    """Of the studies of a data set's folds (tune --folds): each configuration's mean and deviation over them."""
    paper: bool = False
    """With --as, the paper's numbers stand beside ours."""
    html: str | None = None
    """Where to put the report as one page that needs no network; it also lies in the study's folder, as report.html."""
    workdir: str = "."
    """Where mlflow.db and the study's pictures live. If it is on S3, the pictures go to ~/.local/state/fpt_ray."""
    tracking_uri: str | None = None
    """MLflow's tracking server or database. Default: MLFLOW_TRACKING_URI, else mlflow.db in the working directory."""
    format: Form = "text"
    """How the table is printed. Of the front, csv and json hold full precision, ratios and scores in 0..1; with --as
    they hold plain numbers in the units of the paper's columns."""


def run(command: Command) -> None:
    """Reports from a command line.

    Raises:
        ConfigError: as ``report`` and ``report_as``, or an option needs another.
    """
    from fpt_ray.report.paper_tables import report_as
    from fpt_ray.tracking.server import tracking_uri

    _check(command)
    uri = tracking_uri(command.tracking_uri, command.workdir)
    name, form = command.study[0], command.format
    if command.as_ is not None:
        places = {"tracking_uri": uri, "workdir": command.workdir}
        report_as(command.as_, command.study, **places, paper=command.paper, form=form)
    elif command.folds:
        report_folds(command.study, tracking_uri=uri, workdir=command.workdir, form=form)
    else:
        report(name, tracking_uri=uri, workdir=command.workdir, form=form, html=command.html)


def _check(command: Command) -> None:
    """ConfigError where options do not fit each other."""
    if not command.study:
        raise ConfigError("--study: none is given; give the name of a study")
    several = {"--as": command.as_ is not None, "--folds": command.folds}
    asked = [flag for flag, given in several.items() if given]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} are different reports; give one of them")
    if len(command.study) > 1 and not asked:
        raise ConfigError(
            "several studies: only with --as, such as --as table1, or --folds; `report compare` compares any"
        )
    if command.paper and command.as_ is None:
        raise ConfigError("--paper: only with --as, such as --as table1")
    if command.format == "latex" and not asked:
        raise ConfigError("--format latex: only with --as, such as --as table1, or --folds")
    if command.html is not None and asked:
        raise ConfigError(f"--html: the page is of one study's front; leave {asked[0]} out")
    if command.html is not None and Path(command.html).is_dir():
        raise ConfigError(f"--html: {command.html} is a folder; give a file, such as {command.html}/report.html")


def report(name: str, *, tracking_uri: str, workdir: str, form: Form = "text", html: str | None = None) -> None:
    """Prints the front's table, draws and attaches the pictures and the page, and says how to see more.

    Raises:
        ConfigError: there is no such study, or its folder is in another working directory.
    """
    from fpt_ray.report.publication import copy_page, places_text, publish, report_text
    from fpt_ray.report.result import read_result
    from fpt_ray.tracking.server import open_tracking

    result = read_result(open_tracking(tracking_uri), name, tracking_uri, workdir)
    print(report_text(result, form))
    if not result.places.is_own:
        raise ConfigError(
            f"--workdir: {result.places.uri} is not the folder of study {name!r}, so that no picture and no page was "
            "written, here or in MLflow; give the working directory in which it was run"
        )
    publish(result)
    if html is not None:
        copy_page(result, html)
    if form == "text":
        print(places_text(result))


def report_folds(names: tuple[str, ...], *, tracking_uri: str, workdir: str, form: Form = "text") -> None:
    """Prints the table of the studies of a data set's folds.

    Raises:
        ConfigError: there is no such study, or they are not of the folds of one space.
    """
    from fpt_ray.display.typesetting import typeset
    from fpt_ray.report.folds import over_folds
    from fpt_ray.report.result import read_result
    from fpt_ray.tracking.server import open_tracking

    client = open_tracking(tracking_uri)
    print(typeset(over_folds([read_result(client, name, tracking_uri, workdir) for name in names]), form))


def compare(
    study: tyro.conf.Positional[tuple[str, ...]],
    workdir: str = ".",
    tracking_uri: str | None = None,
    format: Form = "text",
) -> None:
    """Set several studies (other LPMs, spaces or data) beside each other: their fronts in one table and one picture.

    It says too whether the best trial of each differs from that of the first, where the test images are the same.

    Args:
        study: The names of the studies; the others are compared with the first.
        workdir: Where mlflow.db and the studies' pictures live.
        tracking_uri: MLflow's tracking server or database. Default: MLFLOW_TRACKING_URI, else mlflow.db in workdir.
        format: How the tables are printed; csv, json and latex are of the best trials alone.
    """
    from fpt_ray.report.comparison.publication import compare_studies
    from fpt_ray.tracking import server

    compare_studies(study, tracking_uri=server.tracking_uri(tracking_uri, workdir), workdir=workdir, form=format)


VERBS = {"compare": compare}
