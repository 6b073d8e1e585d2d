"""Several studies compared: printed, drawn, and attached to their runs in MLflow."""

from collections.abc import Sequence

from fpt_ray.config.tasks import TITLES
from fpt_ray.display.terminal import say
from fpt_ray.display.typesetting import Form, typeset
from fpt_ray.report.comparison.pictures import Front, Fronts, draw_fronts_html, draw_fronts_png
from fpt_ray.report.comparison.studies import best_table, check_comparable, fronts_table, image_notes, studied
from fpt_ray.report.result import StudyResult, read_result
from fpt_ray.report.summary import summarise
from fpt_ray.storage.files import absolute, own_folder
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.server import open_tracking


def compare_studies(names: Sequence[str], *, tracking_uri: str, workdir: str, form: Form) -> None:
    """Prints the studies' best trials and fronts and draws the fronts; CSV, JSON and LaTeX are of the best trials.

    Tables and pictures lie in the first study's folder and are attached to all of them.

    Raises:
        ConfigError: there is no such study, or they are judged by different scores.
    """
    client, workdir = open_tracking(tracking_uri), absolute(workdir)
    results = [read_result(client, name, tracking_uri, workdir) for name in names]
    check_comparable(results)
    found = [studied(client, result) for result in results]
    best, members = best_table(found), fronts_table(found)
    shown = [best, members] if form in ("text", "markdown") else [best]
    print("\n\n".join(typeset(table, form) for table in shown))
    folder = own_folder(f"{workdir}/studies/{names[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    written, png, page = (folder / f"compared.{kind}" for kind in ("md", "png", "html"))
    written.write_text("\n\n".join(typeset(table, "markdown") for table in (best, members)) + "\n", encoding="utf-8")
    files = [written]
    fronts = fronts_of(results)
    if any(front.points for front in fronts.fronts):
        draw_fronts_png(fronts, png)
        draw_fronts_html(fronts, page)
        files += [png, page]
        say(f"picture: {png}  (interactive: {page})")
    for result in results:
        for file in files:
            tracking.attach(client, result.places.run_id, file)


def fronts_of(results: Sequence[StudyResult]) -> Fronts:
    """What is drawn of the studies' fronts."""
    pictures = {one.name: summarise(one).picture for one in results}
    fronts = [
        Front(name=name, points=[point for point in picture.trials if point.on_front])
        for name, picture in pictures.items()
    ]
    memory = "Memory is the peak of the training process, predicted."
    return Fronts(
        title=f"The fronts of {', '.join(pictures)}",
        caption=" ".join([*image_notes(results), "Scores of different images say nothing of each other.", memory]),
        score=TITLES[results[0].score],
        fronts=fronts,
    )
