"""What a report says of a study, from what MLflow holds of its trials: its tables, and what its pictures show."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fpt_ray.config.objectives import Limit
from fpt_ray.config.tasks import SHARES, TITLES
from fpt_ray.display.typesetting import Cell, Column, Form, Table, text_column, typeset
from fpt_ray.display.units import MIB
from fpt_ray.report.compared import compared_rows
from fpt_ray.report.confirmation import confirmed_table, most_seeds
from fpt_ray.report.front import front_table
from fpt_ray.report.pictures import Picture, Point, paper_points
from fpt_ray.report.result import StudyResult
from fpt_ray.report.what_if import what_if
from fpt_ray.tracking.records import TrialRecord, broken_by

_DRAWN = ("param_ratio", "memory_ratio", "peak_memory_bytes", "learnable_parameters")
_LISTED = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A study's front and what must be known to read it."""

    heading: tuple[str, ...]
    rows: tuple[Mapping[str, object], ...]
    """One a member of the front, by predicted memory."""
    confirmed: tuple[Mapping[str, object], ...]
    """One a trial that was confirmed with new seeds, best validation score first."""
    num_seeds: int
    """New seeds of a confirmed trial, the most."""
    compared: tuple[Mapping[str, object], ...]
    """One a row of a grid with several seeds, in its order; the first is what the others are compared with."""
    what_if: tuple[Mapping[str, object], ...]
    """One a budget; empty while no trial has finished."""
    infeasible: tuple[Mapping[str, object], ...]
    """One a trial that was trained to its end and breaks a constraint; it is on no front and within no budget."""
    failed: tuple[str, ...]
    """One line for each trial that was not trained to its end, with its reason."""
    picture: Picture
    data_note: str
    """What must be said about the images wherever their numbers stand."""


def summarise(result: StudyResult) -> Summary:
    """All that a report of a study says."""
    records, searched, note, front = result.trials, result.searched, result.data_note, result.front
    score = result.score
    rows = front_table(front, searched, score, result.objectives)
    apart = {record.run_id for record in result.infeasible}
    drawn = [
        record for record in records if record.complete and _drawable(record, score) and record.run_id not in apart
    ]
    paper, why = paper_points([record.params for record in drawn]) if drawn and score == "auc" else ((), "")
    aims = ", ".join(f"{name} ({mode})" for name, mode in result.objectives.items())
    trials = len({record.number for record in records if record.stage != "confirm"})
    title = f"Study {result.name}: {len(front)} of {trials} trials on the front of {aims}"
    on_front = {record.run_id for record in front}
    predicted = "Memory is the peak of the training process, predicted, and relative to full fine-tuning of the same"
    predicted += " backbone, predicted likewise"
    return Summary(
        heading=(title, *([f"Images: {note}"] if note else []), _legend(rows, predicted, score)),
        rows=tuple(rows),
        confirmed=tuple(confirmed_table(records, searched, score)),
        num_seeds=most_seeds(records, score),
        compared=tuple(compared_rows(records, searched, result.constraints, score)),
        what_if=tuple(what_if(records, searched, result.constraints, score)) if rows else (),
        infeasible=tuple(_breach(record, searched, result.constraints) for record in result.infeasible),
        failed=tuple(_failure(record) for record in records if record.reason),
        picture=Picture(
            title=title,
            caption=". ".join(part for part in (note and f"Images: {note}", predicted, why) if part) + ".",
            trials=[
                _point(
                    record,
                    searched,
                    score,
                    on_front=record.run_id in on_front,
                    is_first=record.number == 0 and result.starts_at_paper,
                )
                for record in drawn
            ],
            paper=paper,
            score=TITLES[score],
        ),
        data_note=note,
    )


def _legend(rows: Sequence[Mapping[str, object]], memory: str, score: str) -> str:
    title = TITLES[score]
    untested = [str(row["trial"]) for row in rows if row[f"test_{score}"] is None]
    of = f"test {title}" if len(untested) < len(rows) else f"validation {title}"
    but = f" (of the validation {title} for trial {', '.join(untested)})" if 0 < len(untested) < len(rows) else ""
    if score not in SHARES:
        return f"{title} is x 100; there are no PPE and PME of scores that may be negative. {memory}."
    return f"{title}, PPE and PME are x 100; PPE and PME are of the {of}{but}. {memory}."


def _drawable(record: TrialRecord, score: str) -> bool:
    numbers = all(math.isfinite(record.metrics.get(name, math.nan)) for name in (f"val_{score}", *_DRAWN))
    return numbers and record.stage != "confirm"


def _breach(record: TrialRecord, searched: Sequence[str], constraints: Mapping[str, Limit]) -> Mapping[str, object]:
    broken = broken_by(record, constraints)
    return {
        "trial": record.number if record.confirms is None else f"{record.confirms}, with new seeds",
        **{name: record.params[name] for name in searched},
        "breaks": "; ".join(f"{name} is {value:.6g}, {constraints[name]}" for name, value in broken.items()),
    }


def _failure(record: TrialRecord) -> str:
    ending, reason = record.pruned or record.status.lower(), record.reason.partition("\n")[0][:200]
    return f"trial {record.number} " + (reason if reason.startswith(ending) else f"{ending}: {reason}")


def _point(record: TrialRecord, searched: Sequence[str], score: str, *, on_front: bool, is_first: bool) -> Point:
    metrics, name = record.metrics, f"test_{score}"
    test = [f"test {TITLES[score]} x 100: {100 * metrics[name]:.2f}"] if name in metrics else []
    return Point(
        name=f"trial {record.number}",
        score=metrics[f"val_{score}"],
        memory_mib=metrics["peak_memory_bytes"] / MIB,
        param_percent=100 * metrics["param_ratio"],
        details=(
            *(f"{name} = {value_text(name, record.params[name])}" for name in searched),
            *test,
            f"{metrics['learnable_parameters']:,.0f} learnable parameters",
            f"{100 * metrics['memory_ratio']:.2f} % of full fine-tuning's memory",
        ),
        on_front=on_front,
        is_first=is_first,
    )


# --- its tables -----------------------------------------------------------------------------------------------

_TITLES = {
    **{f"val_{name}": f"val {title}" for name, title in TITLES.items()},
    **{f"val_{name}_std": "val std" for name in TITLES},
    **{f"test_{name}": f"test {title}" for name, title in TITLES.items()},
    **{f"test_{name}_std": "std" for name in TITLES},
    **{f"test_{name}_low": "95 % from" for name in TITLES},
    **{f"test_{name}_high": "to" for name in TITLES},
    "difference_low": "difference from",
    "difference_high": "difference to",
    "param_ratio": "params %",
    "memory_ratio": "memory %",
    "ppe": "PPE",
    "pme": "PME",
    "peak_memory_bytes": "MiB predicted",
    "measured_peak_memory_bytes": "MiB CUDA allocated",
}


def value_text(name: str, value: object) -> str:
    """A value as people read it: scores, PPE and PME times 100 like the paper's, ratios in percent, memory in MiB."""
    if value is None:
        return "-"
    if name in ("peak_memory_bytes", "measured_peak_memory_bytes"):
        return f"{float(str(value)) / MIB:.0f}"
    if name == "seconds_per_seed":
        return f"{float(str(value)):.2f}"
    if name in _TITLES and not name.endswith("_mae"):
        return f"{100 * float(str(value)):.2f}"
    try:
        return f"{float(str(value)):g}"
    except ValueError:
        return str(value)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """{dotted name: its last part}, where no other of the names ends in the same."""
    last = [name.rpartition(".")[2] for name in names]
    return {name: end if last.count(end) == 1 else name for name, end in zip(names, last, strict=True)}


def rendered(summary: Summary, form: Form) -> str:
    """All tables for people to read, or the front's alone as CSV or JSON.

    CSV and JSON hold full precision, and in each row what must be said about the images.
    """
    front = columns_of(summary.rows)
    if form in ("csv", "json"):
        noted = [text_column("data_note", [note] * len(summary.rows))] if (note := summary.data_note) else []
        return typeset(Table(columns=[*front, *noted]), form)
    title, *notes = summary.heading
    none = () if front else ("no trial has finished",)
    failed = summary.failed[:_LISTED]
    if len(summary.failed) > _LISTED:
        failed += (f"and {len(summary.failed) - _LISTED} more, see MLflow",)
    tables = [
        Table(title=title, notes=notes, columns=front),
        *further_tables(summary).values(),
        Table(footnotes=(*none, *failed)),
    ]
    return "\n\n".join(text for table in tables if (text := typeset(table, form)))


def further_tables(summary: Summary) -> dict[str, Table]:
    """{name: a table below the front's}, of those that have rows."""
    confirmed = (
        f"Confirmed with {summary.num_seeds} new seeds. The score x 100 is the mean over them, std their spread; the "
        "interval is of that mean over resampled test images, and does not tell how other seeds would have come "
        "out. Differences are paired: of both trials on the same resamples."
    )
    compared = (
        "Rows with several seeds, the learning rate and the like chosen on the validation split where the space says "
        "so. The score x 100 is the mean over the seeds; intervals (95 %) are over resampled test images and seeds, of "
        "the mean and of its difference from the first row on the same images."
    )
    within = "With a smaller budget: the best validation score of a finished trial within it."
    apart = "Infeasible: trained to the end, but a constraint of the space is broken; on no front, within no budget."
    titled = {
        "compared": (compared, summary.compared),
        "confirmed": (confirmed, summary.confirmed),
        "what_if": (within, summary.what_if),
        "infeasible": (apart, summary.infeasible),
    }
    return {name: Table(title=title, columns=columns_of(rows)) for name, (title, rows) in titled.items() if rows}


def columns_of(rows: Sequence[Mapping[str, object]]) -> list[Column]:
    """The columns of rows by dotted names; none where there is no row."""
    names = list(rows[0]) if rows else []
    titles = _TITLES | short_names([name for name in names if name not in _TITLES])
    return [
        Column(
            title=titles[name],
            name=name,
            cells=[Cell(text=value_text(name, row[name]), plain=row[name]) for row in rows],
        )
        for name in names
    ]
