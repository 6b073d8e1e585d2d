"""The report of a study for people: its text, and the files that go to the study's folder and to its run in MLflow."""

import tempfile
from pathlib import Path

from fpt_ray.display.terminal import say
from fpt_ray.display.typesetting import Form, typeset
from fpt_ray.report.front_ensemble import front_ensemble_table
from fpt_ray.report.ledger import ledger_table
from fpt_ray.report.mlflow_page import show_in_mlflow
from fpt_ray.report.page.content import page_of
from fpt_ray.report.page.rendering import write_page
from fpt_ray.report.pictures import draw_html, draw_png
from fpt_ray.report.result import StudyResult
from fpt_ray.report.summary import rendered, summarise
from fpt_ray.report.tested import best_tested, draw_confusion, score_tables
from fpt_ray.storage.files import write
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.server import comparison_address, open_tracking, page_address, ui_command

PAGE = "report.html"
"""All that is said of a study as one page, in its folder and beside its run."""
_FRONT = ("front.md", "front.png", "front.html")
"""The front's table, its picture, and the same to be hovered over."""


def publish(result: StudyResult) -> None:
    """Writes the front's table and, if a trial finished, its pictures and the best one's confusion matrix, for its run.

    Then all of it as one page. What a report left there before is replaced, file by file once all are there: of two
    reports at once, neither sees what the other has not finished.
    """
    found = summarise(result)
    tracking.check_study_name(result.name)
    result.places.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        table, png, page, confusion, whole = files = [Path(folder, name) for name in (*_FRONT, "confusion.png", PAGE)]
        table.write_text(rendered(found, "markdown") + "\n", encoding="utf-8")
        if found.picture.trials:
            draw_png(found.picture, png)
            draw_html(found.picture, page)
        client = open_tracking(result.places.tracking_uri)
        best = best_tested(client, result.trials, result.score, result.constraints)
        if best is not None and best[1].confusion:
            draw_confusion(*best, confusion)
        write_page(page_of(result, client, best), whole, {"front": png, "confusion": confusion})
        for file in files:
            place = result.places.folder / file.name
            if file.exists():
                write(str(place), file.read_bytes())
                tracking.attach(client, result.places.run_id, file)
            else:
                place.unlink(missing_ok=True)
        show_in_mlflow(client, result, found, png)


def copy_page(result: StudyResult, uri: str) -> None:
    """Puts the page that ``publish`` has written elsewhere, too, and says so."""
    content = (result.places.folder / PAGE).read_bytes()
    write(uri, content)
    say(f"page: {uri} ({len(content) / 1e6:.1f} MB)")


def report_text(result: StudyResult, form: Form = "text") -> str:
    """The front's table; as text also the test split's scores of best trial and front's ensemble, and the ledger."""
    table = rendered(summarise(result), form)
    if form != "text":
        return table
    client = open_tracking(result.places.tracking_uri)
    best = best_tested(client, result.trials, result.score, result.constraints)
    more = score_tables(*best) if best is not None else []
    together = front_ensemble_table(client, result)
    more += [together] if together is not None else []
    more += [ledger_table(result.ledger)] if result.ledger else []
    return "\n\n".join([table, *(typeset(one, form) for one in more)])


def places_text(result: StudyResult) -> str:
    """Where the pictures of a study are, once they are drawn, and how to see more."""
    places = result.places
    _, png, page = (places.folder / name for name in _FRONT)
    parts = [f"\npicture: {png}  (interactive: {page})"] if png.exists() else []
    whole = places.folder / PAGE
    parts += [f"page:    {whole}  ({whole.stat().st_size / 1e6:.1f} MB)"] if whole.exists() else []
    parts += [
        f"MLflow:  {ui_command(places.tracking_uri)}",
        f"         then open {page_address(places.tracking_uri, places.experiment_id, places.run_id)}",
        f"compare: {comparison_address(places.tracking_uri, places.experiment_id, places.run_id)}",
    ]
    return "\n".join(parts)
