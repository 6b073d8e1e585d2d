"""One of the paper's tables or figures from studies: printed, written, and attached to their runs in MLflow."""

from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient

from fpt_ray.display.terminal import say
from fpt_ray.display.typesetting import Form, Table, typeset
from fpt_ray.paper.dots import dots, draw_dots_html, draw_dots_png
from fpt_ray.paper.figures import draw_figure_html, draw_figure_png
from fpt_ray.paper.layouts import As
from fpt_ray.paper.tables import paper_table
from fpt_ray.storage.files import absolute, own_folder
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.folder import folder_id
from fpt_ray.tracking.records import StudyRun, infeasible
from fpt_ray.tracking.server import open_tracking


def report_as(name: As, studies: Sequence[str], *, tracking_uri: str, workdir: str, paper: bool, form: Form) -> None:
    """Prints the paper's table, or draws its figure and prints the numbers behind it, from these studies.

    The table as Markdown and the pictures lie in the first study's folder and are attached to all of them.

    Raises:
        ConfigError: there is no such study, or it has no trial that belongs there.
    """
    client, workdir = open_tracking(tracking_uri), absolute(workdir)
    found = [tracking.find_study(client, study, folder_id(f"{workdir}/studies/{study}")) for study in studies]
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
    notes = [f"Images of {study.name}: {study.data_note}." for study in studies if study.data_note]
    trials = {}
    for study in studies:
        found = tracking.read_trials(client, study)
        apart = {record.run_id for record in infeasible(found, study.constraints)}
        trials[study.name] = [record for record in found if record.run_id not in apart]
        if number := sum(record.run_id in apart and not record.auxiliary for record in found):
            notes.append(f"Left out of {study.name}: {number} trials that break a constraint of its space.")
    return paper_table(name, trials, notes, paper=paper)


def save_as(name: As, table: Table, folder: Path) -> list[Path]:
    """Writes the table and, of a figure with a finished trial, the pictures; what was there before is replaced."""
    tracking.check_study_name(folder.name)
    folder.mkdir(parents=True, exist_ok=True)
    written, png, page = (folder / f"{name}.{kind}" for kind in ("md", "png", "html"))
    written.write_text(typeset(table, "markdown") + "\n", encoding="utf-8")
    ours = [cell for column in table.columns if not column.of_paper for cell in column.cells]
    known = dots(table) if name == "figure1" else [cell for cell in ours if cell.value is not None]
    if not name.startswith("figure") or not known:
        return [written]
    if name == "figure1":
        draw_dots_png(table, png)
        draw_dots_html(table, page)
    else:
        kind = "bars" if name == "figure7" else "lines"
        draw_figure_png(table, kind, png)
        draw_figure_html(table, kind, page)
    return [written, png, page]
