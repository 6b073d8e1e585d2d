"""The report of a study for people: its text, and the files that go to the study's folder and to its run in MLflow."""

from collections.abc import Sequence
from pathlib import Path

from fpt_ray.display.typesetting import Form, typeset
from fpt_ray.report.ledger import ledger_table
from fpt_ray.report.pictures import draw_html, draw_png
from fpt_ray.report.result import StudyResult
from fpt_ray.report.summary import rendered, summarise
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.server import open_tracking, page_address, ui_command


def publish(result: StudyResult) -> list[Path]:
    """Writes the front's table and, if a trial finished, its pictures, and attaches them to the study's run.

    What a report left there before is replaced.
    """
    found = summarise(result)
    tracking.check_study_name(result.name)
    folder = result.places.folder
    folder.mkdir(parents=True, exist_ok=True)
    table, png, page = (folder / f"front.{kind}" for kind in ("md", "png", "html"))
    table.write_text(rendered(found, "markdown") + "\n", encoding="utf-8")
    files = [table]
    if found.picture.trials:
        draw_png(found.picture, png)
        draw_html(found.picture, page)
        files += [png, page]
    client = open_tracking(result.places.tracking_uri)
    for file in files:
        tracking.attach(client, result.places.run_id, file)
    return files


def report_text(result: StudyResult, files: Sequence[Path], form: Form = "text") -> str:
    """The front's table; as text also what the study cost, where its pictures are, and how to see more."""
    table = rendered(summarise(result), form)
    if form != "text":
        return table
    parts = [table]
    if result.ledger:
        parts += ["", typeset(ledger_table(result.ledger), form)]
    if len(files) > 1:
        parts += ["", f"picture: {files[1]}  (interactive: {files[2]})"]
    places = result.places
    parts += [
        f"MLflow:  {ui_command(places.tracking_uri)}",
        f"         then open {page_address(places.tracking_uri, places.experiment_id, places.run_id)}",
    ]
    return "\n".join(parts)
