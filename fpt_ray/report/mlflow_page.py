"""What a study's run shows in MLflow: its front as table and picture, how its best is used, a link to compare them."""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from PIL import Image

from fpt_ray.display.typesetting import Table, typeset
from fpt_ray.report.mlflow_view import saved_view
from fpt_ray.report.result import StudyResult
from fpt_ray.report.summary import Summary, columns_of
from fpt_ray.tracking.records import ON_FRONT
from fpt_ray.tracking.runs import LONGEST_TAG, NOTE, attach
from fpt_ray.tracking.server import comparison_path

_PICTURE, _PICTURE_FOLDER = "front-small.png", "note"
_MOST_ROWS = 100
_WIDTH = 760
"""Of the picture, in pixels: MLflow's notes show pictures as large as they are."""


def show_in_mlflow(client: MlflowClient, result: StudyResult, found: Summary, picture: Path) -> None:
    """Writes the note of the study's run, marks the trials of its front, and saves the view that compares them.

    ``picture`` is the front's, if it is there.
    """
    places = result.places
    mark_front(client, result)
    view = saved_view(result.name, places.run_id, result.searched, result.score, int(time.time() * 1000))
    client.set_experiment_tag(places.experiment_id, *view)
    if picture.exists():
        with TemporaryDirectory() as folder:
            small = Path(folder, _PICTURE)
            with Image.open(picture) as image:
                image.thumbnail((_WIDTH, image.height))
                image.save(small)
            attach(client, places.run_id, small, _PICTURE_FOLDER)
    client.set_tag(places.run_id, NOTE, note_text(result, found, with_picture=picture.exists()))


def mark_front(client: MlflowClient, result: StudyResult) -> None:
    """Tags the trials that are on the front, and those that were and are no more."""
    front = {record.run_id for record in result.front}
    for record in result.trials:
        said, is_on = record.tags.get(ON_FRONT), record.run_id in front
        if said != json.dumps(is_on) and (is_on or said):
            client.set_tag(record.run_id, ON_FRONT, json.dumps(is_on))


def note_text(result: StudyResult, found: Summary, *, with_picture: bool) -> str:
    """The note, in Markdown; of a front that has no room in it, the first rows."""
    note, places = found.data_note, result.places
    said = [f"Images: {note}."] if note else []
    if not found.rows:
        return "\n\n".join([*said, "No trial has finished."])
    workdir = shlex.quote(places.workdir)
    command = f"fpt-ray predict --model {result.name} --workdir {workdir} --images DIR --out out.csv"
    address = f"get-artifact?path={_PICTURE_FOLDER}/{_PICTURE}&run_uuid={places.run_id}"
    parts = [
        f"**[Compare the front](#{comparison_path(places.experiment_id, places.run_id)})**: {found.heading[0]}.",
        *said,
        f"Use the best, or any other (`--model {result.name}:NUMBER`), on new images:\n\n```\n{command}\n```",
        *([f"![the front]({address})"] if with_picture else []),
    ]
    left = LONGEST_TAG - len("\n\n".join([*parts, "", found.heading[-1]]))
    return "\n\n".join([*parts, _table(found.rows, left), found.heading[-1]])[:LONGEST_TAG]


def _table(rows: Sequence[Mapping[str, object]], room: int) -> str:
    for number in range(min(len(rows), _MOST_ROWS), 0, -1):
        more = f"\n\nand {len(rows) - number} more, in front.md" if number < len(rows) else ""
        if len(text := typeset(Table(columns=columns_of(rows[:number])), "markdown") + more) <= room:
            return text
    return "The table is in front.md."
