"""The front of a study, from what MLflow holds of its trials: the members' table, and what its pictures show."""

import csv
import io
import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fpt_ray.config.space import Mode
from fpt_ray.display.units import MIB
from fpt_ray.metrics.pareto import pareto_front
from fpt_ray.metrics.scores import pme, ppe
from fpt_ray.report.confirmation import confirmed_table, most_seeds
from fpt_ray.report.pictures import Picture, Point, paper_points
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.runs import StudyRun, TrialRecord

Format = Literal["text", "markdown", "csv", "json"]
_DRAWN = ("val_auc", "param_ratio", "memory_ratio", "peak_memory_bytes", "learnable_parameters")
_LISTED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A study's front and what must be known to read it."""

    heading: tuple[str, ...]
    rows: tuple[Mapping[str, object], ...]
    """One a member of the front, by predicted memory."""
    confirmed: tuple[Mapping[str, object], ...]
    """One a trial that was confirmed with new seeds, best validation AUC first."""
    num_seeds: int
    """New seeds of a confirmed trial, the most."""
    what_if: tuple[Mapping[str, object], ...]
    """One a budget; empty while no trial has finished."""
    failed: tuple[str, ...]
    """One line for each trial that did not finish, with its reason."""
    picture: Picture
    data_note: str
    """What must be said about the images wherever their numbers stand."""


# --- pure -----------------------------------------------------------------------------------------------------


def front_of(records: Sequence[TrialRecord], objectives: Mapping[str, Mode]) -> list[TrialRecord]:
    """The finished trials that no other dominates in the study's objectives.

    Those that only served to choose values for a table's row, or confirm others, are left out.
    """
    finished = [
        record
        for record in records
        if record.status == "FINISHED" and set(objectives) <= set(record.metrics) and not record.auxiliary
    ]
    if not finished:
        return []
    points = np.array([[record.metrics[name] for name in objectives] for record in finished], np.float64)
    on_front = pareto_front(points, tuple(objectives.values()))
    return [record for record, is_on in zip(finished, on_front, strict=True) if is_on]


def front_table(front: Sequence[TrialRecord], searched: Sequence[str]) -> list[dict[str, object]]:
    """One row a member of the front, by predicted memory; PPE and PME are of the test AUC where there is one."""
    rows = []
    measured = any("measured_peak_memory_bytes" in record.metrics for record in front)
    for record in sorted(front, key=lambda record: (record.metrics["peak_memory_bytes"], record.number)):
        metrics = record.metrics
        score = metrics.get("test_auc", metrics["val_auc"])
        row: dict[str, object] = {
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
        if measured:
            row["measured_peak_memory_bytes"] = metrics.get("measured_peak_memory_bytes")
        rows.append(row)
    return rows


def summarise(study: StudyRun, records: Sequence[TrialRecord]) -> Report:
    """All that a report of these trials says."""
    objectives: Mapping[str, Mode] = json.loads(study.tags["objectives"])
    searched: list[str] = json.loads(study.tags["searched"])
    front = front_of(records, objectives)
    rows = front_table(front, searched)
    drawn = [record for record in records if record.status == "FINISHED" and _drawable(record)]
    paper, why = paper_points([record.params for record in drawn]) if drawn else ((), "")
    note = study.tags.get(tracking.DATA_NOTE, "").strip().rstrip(".")
    aims = ", ".join(f"{name} ({mode})" for name, mode in objectives.items())
    trials = len({record.number for record in records if record.tags.get("stage") != "confirm"})
    title = f"Study {study.name}: {len(front)} of {trials} trials on the front of {aims}"
    on_front = {record.run_id for record in front}
    predicted = "Memory is the peak of the training process, predicted, and relative to full fine-tuning of the same"
    predicted += " backbone, predicted likewise"
    return Report(
        heading=(title, *([f"Images: {note}"] if note else []), _legend(rows, predicted)),
        rows=tuple(rows),
        confirmed=tuple(confirmed_table(records, searched)),
        num_seeds=most_seeds(records),
        what_if=tuple(what_if(records, searched)) if rows else (),
        failed=tuple(_failure(record) for record in records if record.reason),
        picture=Picture(
            title=title,
            caption=". ".join(part for part in (note and f"Images: {note}", predicted, why) if part) + ".",
            trials=[_point(record, searched, record.run_id in on_front) for record in drawn],
            paper=paper,
        ),
        data_note=note,
    )


def _legend(rows: Sequence[Mapping[str, object]], memory: str) -> str:
    untested = [str(row["trial"]) for row in rows if row["test_auc"] is None]
    of = "test AUC" if len(untested) < len(rows) else "validation AUC"
    but = f" (of the validation AUC for trial {', '.join(untested)})" if 0 < len(untested) < len(rows) else ""
    return f"AUC, PPE and PME are x 100; PPE and PME are of the {of}{but}. {memory}."


def _drawable(record: TrialRecord) -> bool:
    numbers = all(math.isfinite(record.metrics.get(name, math.nan)) for name in _DRAWN)
    return numbers and record.tags.get("stage") != "confirm"


def _failure(record: TrialRecord) -> str:
    return f"trial {record.number} {record.status.lower()}: {record.reason.partition(chr(10))[0][:200]}"


def _point(record: TrialRecord, searched: Sequence[str], on_front: bool) -> Point:
    metrics = record.metrics
    test = [f"test AUC x 100: {100 * metrics['test_auc']:.2f}"] if "test_auc" in metrics else []
    return Point(
        name=f"trial {record.number}",
        auc=metrics["val_auc"],
        memory_mib=metrics["peak_memory_bytes"] / MIB,
        param_percent=100 * metrics["param_ratio"],
        details=(
            *(f"{name} = {printed(name, record.params[name])}" for name in searched),
            *test,
            f"{metrics['learnable_parameters']:,.0f} learnable parameters",
            f"{100 * metrics['memory_ratio']:.2f} % of full fine-tuning's memory",
        ),
        on_front=on_front,
        is_first=record.number == 0,
    )


# --- the table ------------------------------------------------------------------------------------------------

_HEADINGS = {
    "val_auc": "val AUC",
    "test_auc": "test AUC",
    "test_auc_std": "std",
    "test_auc_low": "95 % from",
    "test_auc_high": "to",
    "param_ratio": "params %",
    "memory_ratio": "memory %",
    "ppe": "PPE",
    "pme": "PME",
    "peak_memory_bytes": "MiB predicted",
    "measured_peak_memory_bytes": "MiB CUDA allocated",
}


def printed(name: str, value: object) -> str:
    """A value as tables show it: AUC, PPE and PME times 100 like the paper's, ratios in percent, memory in MiB."""
    if value is None:
        return "-"
    if name in ("peak_memory_bytes", "measured_peak_memory_bytes"):
        return f"{float(str(value)) / MIB:.0f}"
    if name in _HEADINGS:
        return f"{100 * float(str(value)):.2f}"
    try:
        return f"{float(str(value)):g}"
    except ValueError:
        return str(value)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """{dotted name: its last part}, where no other of the names ends in the same."""
    last = [name.rpartition(".")[2] for name in names]
    return {name: end if last.count(end) == 1 else name for name, end in zip(names, last, strict=True)}


def rendered(report: Report, form: Format) -> str:
    """The report as text or Markdown, or its table as CSV or JSON (full precision, each row with the data's note)."""
    if form in ("csv", "json"):
        note = {"data_note": report.data_note} if report.data_note else {}
        rows = [{**row, **note} for row in report.rows]
        return json.dumps(rows, indent=1) if form == "json" else _csv(rows)
    failed = report.failed[:_LISTED]
    if len(report.failed) > _LISTED:
        failed += (f"and {len(report.failed) - _LISTED} more, see MLflow",)
    between, before, after = (" | ", "| ", " |") if form == "markdown" else ("  ", "", "")
    tables = [_table(report.rows, between, before, after)]
    for title, rows in _further(report):
        tables += [title, _table(rows, between, before, after)]
    if form == "markdown":
        return "\n\n".join((*report.heading, *tables, *failed))
    heading = [line for part in report.heading for line in textwrap.wrap(part, 118)]
    tables[1::2] = [textwrap.fill(title, 118) for title in tables[1::2]]
    return "\n".join((*heading, "", "\n\n".join(tables), *([""] if failed else []), *failed))


def _further(report: Report) -> Iterator[tuple[str, Sequence[Mapping[str, object]]]]:
    """(title, rows) of the tables below the front's."""
    if report.confirmed:
        yield (
            f"Confirmed with {report.num_seeds} new seeds. AUC x 100 is the mean over them, std their spread; the "
            "interval is of that mean over resampled test images, and does not tell how other seeds would have come "
            "out. Differences are paired: of both trials on the same resamples.",
            report.confirmed,
        )
    if report.what_if:
        yield "With a smaller budget: the best validation AUC of a finished trial within it.", report.what_if


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    out = io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue().rstrip()


def _table(rows: Sequence[Mapping[str, object]], between: str, before: str = "", after: str = "") -> str:
    if not rows:
        return "no trial has finished"
    short = short_names([name for name in rows[0] if name not in _HEADINGS])
    lines = [[_HEADINGS.get(name) or short[name] for name in rows[0]]]
    lines += [[printed(name, value) for name, value in row.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    if before:
        padded.insert(1, ["-" * (width - 1) + ":" for width in widths])
    return "\n".join(before + between.join(line) + after for line in padded)


_MEGABYTES = (100, 300, 1000, 3000)
_PERCENT = (0.5, 1.0, 2.0)


def what_if(records: Sequence[TrialRecord], searched: Sequence[str]) -> list[dict[str, object]]:
    """One row a budget, of predicted memory (MB of 10^6 bytes) or of learnable parameters (% of all).

    It is the trial of the highest validation AUC within the budget and its searched values; all are None where no
    finished trial fits.
    """
    limits = [(f"{limit} MB", "peak_memory_bytes", limit * 1e6) for limit in _MEGABYTES]
    limits += [(f"{limit:g} % parameters", "param_ratio", limit / 100) for limit in _PERCENT]
    return [{"at most": label, **_row(_best(records, name, limit), searched)} for label, name, limit in limits]


def _best(records: Sequence[TrialRecord], name: str, limit: float) -> TrialRecord | None:
    """Of equally good ones the cheaper."""
    fitting = [
        record
        for record in records
        if record.status == "FINISHED"
        and not record.auxiliary
        and record.metrics.get("val_auc", -1.0) >= 0  # False for NaN
        and name in record.metrics
        and record.metrics[name] <= limit
    ]
    return max(fitting, key=lambda record: (record.metrics["val_auc"], -record.metrics[name]), default=None)


def _row(record: TrialRecord | None, searched: Sequence[str]) -> dict[str, object]:
    shown = ("val_auc", "param_ratio", "peak_memory_bytes")
    return {
        "trial": record.number if record else "none fits",
        **{name: record.params[name] if record else None for name in searched},
        **{name: record.metrics.get(name) if record else None for name in shown},
    }
