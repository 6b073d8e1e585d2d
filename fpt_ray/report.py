"""The front of a study as a table and as pictures, from what MLflow holds.

``python -m fpt_ray.report --study NAME [--workdir DIR | --tracking_uri URI]``
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from fpt_ray import tracking
from fpt_ray.metrics import pareto_front, pme, ppe
from fpt_ray.pictures import Point, draw_html, draw_png
from fpt_ray.terminal import run_command
from fpt_ray.tracking import StudyRun, TrialRecord

Format = Literal["text", "markdown", "csv", "json"]
_NEEDED = ("val_auc", "param_ratio", "memory_ratio", "peak_memory_bytes", "learnable_parameters")


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Print the front of a study and draw it."""

    study: str
    workdir: str = "."
    """Where mlflow.db and the study's pictures live."""
    tracking_uri: str | None = None
    """MLflow's tracking server or database; nothing: mlflow.db in the working directory."""
    format: Format = "text"


# --- pure -----------------------------------------------------------------------------------------------------


def front_of(records: Sequence[TrialRecord], objectives: Mapping[str, Literal["max", "min"]]) -> list[TrialRecord]:
    """The finished trials that no other dominates in the study's objectives."""
    finished = [record for record in records if record.status == "FINISHED" and set(objectives) <= set(record.metrics)]
    if not finished:
        return []
    points = [[record.metrics[name] for name in objectives] for record in finished]
    on_front = pareto_front(points, tuple(objectives.values()))
    return [record for record, is_on in zip(finished, on_front, strict=True) if is_on]


def front_table(front: Sequence[TrialRecord], searched: Sequence[str]) -> list[dict[str, object]]:
    """One row a member of the front, by predicted memory; PPE and PME are of the test AUC where there is one."""
    rows = []
    for record in sorted(front, key=lambda record: (record.metrics["peak_memory_bytes"], record.number)):
        metrics = record.metrics
        score = metrics.get("test_auc", metrics["val_auc"])
        rows.append(
            {
                "trial": record.number,
                **{name: record.params[name] for name in searched},
                "val_auc": metrics["val_auc"],
                "test_auc": metrics.get("test_auc"),
                "param_ratio": metrics["param_ratio"],
                "memory_ratio": metrics["memory_ratio"],
                "ppe": ppe(score, metrics["param_ratio"]),
                "pme": pme(score, metrics["memory_ratio"]),
                "peak_memory_bytes": metrics["peak_memory_bytes"],
            }
        )
    return rows


def printed(name: str, value: object) -> str:
    """A value as tables show it: AUC, PPE and PME times 100 like the paper's, ratios in percent, memory in MB."""
    if value is None:
        return "-"
    if name in ("val_auc", "test_auc", "ppe", "pme"):
        return f"{100 * float(str(value)):.2f}"
    if name in ("param_ratio", "memory_ratio"):
        return f"{100 * float(str(value)):.2f}%"
    if name == "peak_memory_bytes":
        return f"{float(str(value)) / 2**20:.0f}"
    if isinstance(value, str) and "." in value:
        return f"{float(value):g}" if _is_number(value) else value
    return str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_HEADINGS = {
    "val_auc": "val AUC",
    "test_auc": "test AUC",
    "param_ratio": "params",
    "memory_ratio": "memory",
    "ppe": "PPE",
    "pme": "PME",
    "peak_memory_bytes": "MB",
}


def rendered(rows: Sequence[Mapping[str, object]], form: Format) -> str:
    """The table as text, Markdown, CSV (full precision) or JSON."""
    if form == "json":
        return json.dumps(list(rows), indent=1)
    if not rows:
        return "no trial has finished"
    if form == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().rstrip()
    lines = [[_HEADINGS.get(name, name) for name in rows[0]]]
    lines += [[printed(name, value) for name, value in row.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    if form == "markdown":
        rule = ["-" * (width - 1) + ":" for width in widths]
        return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])
    return "\n".join("  ".join(line) for line in padded)


def points_of(records: Sequence[TrialRecord], front: Sequence[TrialRecord], searched: Sequence[str]) -> list[Point]:
    """Every finished trial as the pictures show it."""
    on_front = {record.run_id for record in front}
    return [
        Point(
            number=record.number,
            auc=record.metrics["val_auc"],
            memory_mb=record.metrics["peak_memory_bytes"] / 2**20,
            parameters=record.metrics["learnable_parameters"],
            on_front=record.run_id in on_front,
            label=", ".join(f"{name}={printed(name, record.params[name])}" for name in searched),
        )
        for record in records
        if record.status == "FINISHED" and set(_NEEDED) <= set(record.metrics)
    ]


def caption(study: StudyRun, records: Sequence[TrialRecord]) -> str:
    """What must be known to read the table or the picture."""
    measured = any("measured_peak_memory_bytes" in record.metrics for record in records)
    memory = "memory is predicted peak memory of training (process)" + (", measured too" if measured else "")
    note = study.tags.get("data_note", "")
    paper = "the paper's own points are on other images and are not drawn"
    return ". ".join(part for part in (note.rstrip("."), memory, paper) if part)


# --- reading and writing --------------------------------------------------------------------------------------


def report(name: str, *, tracking_uri: str, workdir: str, form: Format = "text") -> None:
    """Prints the front's table, draws and attaches the pictures, and says how to see more.

    Raises:
        ConfigError: there is no such study.
    """
    client = tracking.open_tracking(tracking_uri)
    study = tracking.find_study(client, name)
    records = tracking.read_trials(client, study)
    searched = json.loads(study.tags["searched"])
    front = front_of(records, json.loads(study.tags["objectives"]))
    rows = front_table(front, searched)
    about = caption(study, records)
    table = rendered(rows, form)
    if form != "text":
        print(table)
        return
    print(f"\nStudy {name}: {len(front)} of {len(records)} trials on the front. {about}.")
    print(f"AUC, PPE, PME x 100; params and memory against full fine-tuning of the same backbone\n\n{table}\n")
    for record in records:
        if record.reason:
            print(f"trial {record.number} {record.status.lower()}: {record.reason}")
    folder = Path(workdir) / "studies" / name
    folder.mkdir(parents=True, exist_ok=True)
    points = points_of(records, front, searched)
    if points:
        draw_png(points, f"Study {name}", about, folder / "front.png")
        draw_html(points, f"Study {name}", about, folder / "front.html")
        (folder / "front.md").write_text(rendered(rows, "markdown") + "\n")
        for file in ("front.png", "front.html", "front.md"):
            tracking.attach(client, study.run_id, folder / file)
        print(f"picture: {folder / 'front.png'}  (interactive: {folder / 'front.html'})")
    print(f"MLflow:  {tracking.ui_command(tracking_uri)}")


def run_report(command: Command) -> None:
    """Reports from a command line."""
    uri = command.tracking_uri or tracking.default_uri(command.workdir)
    report(command.study, tracking_uri=uri, workdir=command.workdir, form=command.format)


def main() -> None:
    """Parse, run."""
    run_report(tyro.cli(Command, description=__doc__, use_underscores=True))


if __name__ == "__main__":
    run_command(main)
