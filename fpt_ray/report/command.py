"""What came of a study: its front as a table and pictures, or one of the paper's tables or figures.

``python -m fpt_ray.report --study NAME [--workdir DIR | --tracking_uri URI]``
``python -m fpt_ray.report --study NAME [NAME ...] --as table1 [--paper] [--format latex]``
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from mlflow import MlflowClient

from fpt_ray.display.terminal import say
from fpt_ray.display.typesetting import Form, Table, typeset
from fpt_ray.errors import ConfigError
from fpt_ray.paper.figures import draw_figure_html, draw_figure_png
from fpt_ray.paper.layouts import As
from fpt_ray.paper.tables import paper_table
from fpt_ray.report.ledger import ledger_table
from fpt_ray.report.pictures import draw_html, draw_png
from fpt_ray.report.summary import Summary, rendered, summarise
from fpt_ray.storage.files import own_folder
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.runs import StudyRun
from fpt_ray.tracking.server import open_tracking, page_address, tracking_uri, ui_command


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Print the front of a study and draw it, or print one of the paper's tables or figures from studies."""

    study: tuple[str, ...]
    """One study; with --as several, each of one data set."""
    as_: Annotated[As | None, tyro.conf.arg(name="as")] = None
    """The paper's table or figure to print or draw. Default: the study's front."""
    paper: bool = False
    """With --as: the paper's numbers stand beside."""
    workdir: str = "."
    """Where mlflow.db and the study's pictures live; of one on S3, the pictures go to ~/.local/state/fpt_ray."""
    tracking_uri: str | None = None
    """MLflow's tracking server or database. Default: MLFLOW_TRACKING_URI, else mlflow.db in the working directory."""
    format: Form = "text"
    """How the table is printed. Of the front, csv and json hold full precision, ratios and scores in 0..1; with --as
    they hold plain numbers in the units of the paper's columns."""


# --- the front ------------------------------------------------------------------------------------------------


def report(name: str, *, tracking_uri: str, workdir: str, form: Form = "text") -> None:
    """Prints the front's table, draws and attaches the pictures, and says how to see more.

    Raises:
        ConfigError: there is no such study.
    """
    client = open_tracking(tracking_uri)
    study = tracking.find_study(client, name)
    found = summarise(study, tracking.read_trials(client, study))
    print(rendered(found, form))
    paid = {name: value for name, value in study.metrics.items() if name.startswith("ledger.")}
    spent = ledger_table({name.removeprefix("ledger."): value for name, value in paid.items()})
    if form == "text" and spent.labels:
        print(f"\n{typeset(spent, form)}")
    files = save(found, own_folder(f"{workdir}/studies/{name}"))
    for file in files:
        tracking.attach(client, study.run_id, file)
    if form != "text":
        return
    if len(files) > 1:
        print(f"\npicture: {files[1]}  (interactive: {files[2]})")
    print(f"MLflow:  {ui_command(tracking_uri)}")
    print(f"         then open {page_address(tracking_uri, study.experiment_id, study.run_id)}")


def save(found: Summary, folder: Path) -> list[Path]:
    """Writes the table and, if a trial finished, the pictures; what a report left there before is replaced."""
    tracking.check_study_name(folder.name)
    folder.mkdir(parents=True, exist_ok=True)
    table, png, page = (folder / f"front.{kind}" for kind in ("md", "png", "html"))
    table.write_text(rendered(found, "markdown") + "\n", encoding="utf-8")
    if not found.picture.trials:
        return [table]
    draw_png(found.picture, png)
    draw_html(found.picture, page)
    return [table, png, page]


# --- the paper's tables and figures ---------------------------------------------------------------------------


def report_as(name: As, studies: Sequence[str], *, tracking_uri: str, workdir: str, paper: bool, form: Form) -> None:
    """Prints the paper's table, or draws its figure and prints the numbers behind it, from these studies.

    The table as Markdown and the pictures lie in the first study's folder and are attached to all of them.

    Raises:
        ConfigError: there is no such study, or it has no trial that belongs there.
    """
    client = open_tracking(tracking_uri)
    found = [tracking.find_study(client, study) for study in studies]
    table = _table(client, name, found, paper)
    print(typeset(table, form))
    files = save_as(name, table, own_folder(f"{workdir}/studies/{studies[0]}"))
    for study in found:
        for file in files:
            tracking.attach(client, study.run_id, file)
    if len(files) > 1:
        where = f"picture: {files[1]}  (interactive: {files[2]})"
        if form == "text":
            print(f"\n{where}")
        else:
            say(where)


def _table(client: MlflowClient, name: As, studies: Sequence[StudyRun], paper: bool) -> Table:
    told = [(study.name, study.tags.get(tracking.DATA_NOTE, "").strip().rstrip(".")) for study in studies]
    notes = [f"Images of {study}: {note}." for study, note in told if note]
    trials = {study.name: tracking.read_trials(client, study) for study in studies}
    return paper_table(name, trials, notes, paper=paper)


def save_as(name: As, table: Table, folder: Path) -> list[Path]:
    """Writes the table and, of a figure with a finished trial, the pictures; what was there before is replaced."""
    tracking.check_study_name(folder.name)
    folder.mkdir(parents=True, exist_ok=True)
    written, png, page = (folder / f"{name}.{kind}" for kind in ("md", "png", "html"))
    written.write_text(typeset(table, "markdown") + "\n", encoding="utf-8")
    ours = [cell for column in table.columns if not column.of_paper for cell in column.cells]
    if not name.startswith("figure") or all(cell.value is None for cell in ours):
        return [written]
    kind = "bars" if name == "figure7" else "lines"
    draw_figure_png(table, kind, png)
    draw_figure_html(table, kind, page)
    return [written, png, page]


# --- the command ----------------------------------------------------------------------------------------------


def run_report(command: Command) -> None:
    """Reports from a command line.

    Raises:
        ConfigError: as ``report`` and ``report_as``, or an option needs another.
    """
    if not command.study:
        raise ConfigError("--study: none is given; give the name of a study")
    uri = tracking_uri(command.tracking_uri, command.workdir)
    name, form = command.study[0], command.format
    if command.as_ is not None:
        places = {"tracking_uri": uri, "workdir": command.workdir}
        report_as(command.as_, command.study, **places, paper=command.paper, form=form)
    elif len(command.study) > 1 or command.paper or form == "latex":
        given = "--paper" if command.paper else "--format latex" if form == "latex" else "several studies"
        raise ConfigError(f"{given}: only with --as, such as --as table1; the front is of one study")
    else:
        report(name, tracking_uri=uri, workdir=command.workdir, form=form)


def main() -> None:
    """Parse, run."""
    run_report(tyro.cli(Command, description=__doc__, use_underscores=True))
