"""The paper's tables, and the numbers behind its figures, from the trials of studies: one study is of one data set."""

import math
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fpt_ray.display.typesetting import Cell, Column, Table
from fpt_ray.display.units import MIB
from fpt_ray.errors import ConfigError
from fpt_ray.metrics.scores import pme, ppe
from fpt_ray.paper.layouts import LAYOUTS, As, Layout, Record
from fpt_ray.paper.numbers import letters, rows_of, table2

_STYLES = {  # field, named as in numbers.json: title, digits, whether higher is better
    "params_percent": ("Params (%)", 2, False),
    "memory_mb": ("Mem. (MB)", 0, False),
    "average_auc": ("Avg. AUC", 2, True),
    "ppe": ("PPE", 2, True),
    "pme": ("PME", 2, True),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One trial, or the mean of the trials of several studies; None: not known."""

    auc: float | None = None
    """0..1, of the test split."""
    auc_std: float | None = None
    """Over seeds; of one trial only."""
    of_validation: bool = False
    """The AUC is that of the validation split, because there is no other."""
    param_ratio: float | None = None
    memory_ratio: float | None = None
    memory_bytes: float | None = None
    failed: bool = False


_Found = Mapping[Any, Mapping[str, Outcome | None]]
"""{what a row is of: {study: its trial}}."""
_Theirs = Mapping[Any, Mapping[str, Any]]
"""{what a row is of: the paper's numbers by numbers.json's names}."""


def paper_table(name: As, studies: Mapping[str, Sequence[Record]], notes: Sequence[str], *, paper: bool) -> Table:
    """The paper's table, or the numbers behind its figure, from {study: its trials}.

    ``notes``: what must be said about the studies' images. ``paper``: the paper's numbers stand beside.

    Raises:
        ConfigError: a study has no trial that belongs there.
    """
    layout = LAYOUTS[name]
    groups = {study: grouped(layout, records) for study, records in studies.items()}
    for study, group in groups.items():
        if not group:
            raise ConfigError(
                f"study {study!r} has no final trial for {layout.title}: it lacks {layout.needs}; make them with "
                f"fpt-ray tune --space {layout.space or name} --images DIR --study NAME"
            )
    keys = {key for group in groups.values() for key in group}
    found = {key: {study: outcome(group.get(key, ())) for study, group in groups.items()} for key in keys}
    theirs: _Theirs = (table2() if name == "table2" else rows_of(name)) if paper else {}
    rows = _ordered(layout, found, theirs)
    if name == "table2":
        columns = _by_resolution(rows, found, theirs)
    elif name in ("table1", "table1_dino"):
        columns = _by_study(rows, found, theirs)
    else:
        columns = _fields(layout.fields, rows, found, theirs)
    labels = [f"{row:g}" if isinstance(row, int | float) else str(row) for row in rows]
    title = f"{layout.title}: {'studies' if len(studies) > 1 else 'study'} {', '.join(studies)}"
    used = [record for group in groups.values() for records in group.values() for record in records]
    about = (*notes, _settings(used), *_legend(columns, len(studies)))
    return Table(title=title, notes=about, heading=layout.heading, labels=labels, columns=columns)


# --- from trials to numbers -----------------------------------------------------------------------------------


def grouped(layout: Layout, records: Iterable[Record]) -> dict[Hashable, list[Record]]:
    """{what a row is of: its final trials}."""
    groups: dict[Hashable, list[Record]] = {}
    for record in records:
        key = layout.key(record)
        if key is not None and not record.auxiliary:
            groups.setdefault(key, []).append(record)
    return groups


def outcome(records: Sequence[Record]) -> Outcome | None:
    """Of several trials the finished one with the highest validation AUC: test scores choose nothing."""
    finished = [record.metrics for record in records if record.complete]
    finished = [metrics for metrics in finished if math.isfinite(metrics.get("val_auc", math.nan))]
    if not finished:
        return Outcome(failed=True) if any(record.status == "FAILED" or record.pruned for record in records) else None
    best = max(finished, key=lambda metrics: metrics["val_auc"])
    split = "test" if "test_auc" in best else "val"
    return Outcome(
        auc=best[f"{split}_auc"],
        auc_std=best.get(f"{split}_auc_std"),
        of_validation=split == "val",
        param_ratio=best.get("param_ratio"),
        memory_ratio=best.get("memory_ratio"),
        memory_bytes=best.get("peak_memory_bytes"),
    )


def averaged(parts: Sequence[Outcome | None]) -> Outcome | None:
    """The mean over studies. It has an AUC only if every study has one; costs are of those that have them."""
    known = [part for part in parts if part is not None]
    if not known or len(parts) == 1:
        return parts[0] if parts else None
    scores = [part.auc for part in known if part.auc is not None]
    return Outcome(
        auc=statistics.fmean(scores) if len(scores) == len(parts) else None,
        of_validation=any(part.of_validation for part in known),
        param_ratio=_mean(part.param_ratio for part in known),
        memory_ratio=_mean(part.memory_ratio for part in known),
        memory_bytes=_mean(part.memory_bytes for part in known),
        failed=any(part.failed for part in known),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def cells(found: Outcome | None) -> dict[str, Cell]:
    """{field: its cell}, in the paper's units: AUC, PPE and PME x 100, percent, MB (as nvidia-smi counts them)."""
    if found is None:
        return {field: Cell() for field in _STYLES}
    auc, val, failed = found.auc, found.of_validation, found.failed

    def cell(value: float | None, scale: float, *, score: bool = True, std: float | None = None) -> Cell:
        if value is None:
            return Cell(failed=failed)
        spread = None if std is None else scale * std
        return Cell(value=scale * value, std=spread, of_validation=val and score)

    r, m = found.param_ratio, found.memory_ratio
    return {
        "params_percent": cell(r, 100, score=False),
        "memory_mb": cell(found.memory_bytes, 1 / MIB, score=False),
        "average_auc": cell(auc, 100, std=found.auc_std),
        "ppe": cell(None if auc is None or r is None else ppe(auc, r), 100),
        "pme": cell(None if auc is None or m is None else pme(auc, m), 100),
    }


# --- from numbers to columns ----------------------------------------------------------------------------------


def _ordered(layout: Layout, found: _Found, theirs: _Theirs) -> list[Any]:
    """Rows that we or the paper have; of Table 2's keys (method, resolution) the methods."""
    rows: set[Any] = {key[0] if isinstance(key, tuple) else key for key in (*found, *theirs)}
    return sorted(rows, key=layout.order.index if layout.order else None)


def _mean_cell(found: _Found, row: Hashable, field: str) -> Cell:
    return cells(averaged(list(found.get(row, {}).values())))[field]


def _paper_cell(theirs: _Theirs, row: Hashable, field: str) -> Cell:
    numbers = theirs.get(row, {})
    return Cell(value=numbers.get(field), failed=field in numbers)


def _pair(field: str, title: str | None, ours: Sequence[Cell], theirs: Sequence[Cell]) -> list[Column]:
    """A column in a field's style and, where the paper has one of its numbers, the paper's column."""
    usual, digits, ranked = _STYLES[field]
    columns = [Column(title=title or usual, cells=ours, digits=digits, ranked=ranked)]
    if any(cell.value is not None for cell in theirs):
        columns.append(Column(title=title or usual, cells=theirs, digits=digits, ranked=ranked, of_paper=True))
    return columns


def _fields(fields: Sequence[str], rows: Sequence[Any], found: _Found, theirs: _Theirs) -> list[Column]:
    """A column for each field, of the means over the studies."""
    columns: list[Column] = []
    for field in fields:
        ours = [_mean_cell(found, row, field) for row in rows]
        columns += _pair(field, None, ours, [_paper_cell(theirs, row, field) for row in rows])
    return columns


def _by_study(rows: Sequence[Any], found: _Found, theirs: _Theirs) -> list[Column]:
    """Table 1: costs, a column for each study, the mean and what is computed from it."""
    columns = _fields(("params_percent", "memory_mb"), rows, found, theirs)
    studies = list(dict.fromkeys(study for by_study in found.values() for study in by_study))
    for study in studies:
        ours = [cells(found.get(row, {}).get(study))["average_auc"] for row in rows]
        columns += _pair("average_auc", study, ours, [_of_data_set(theirs.get(row, {}), study) for row in rows])
    average = [replace(_mean_cell(found, row, "average_auc"), std=None) for row in rows]
    columns += _pair("average_auc", "Avg.", average, [_paper_cell(theirs, row, "average_auc") for row in rows])
    return columns + _fields(("ppe", "pme"), rows, found, theirs)


def _of_data_set(row: Mapping[str, Any], study: str) -> Cell:
    """The paper's cell of the data set that the study is named after."""
    for name, numbers in row.get("auc", {}).items():
        if letters(name) == letters(study):
            return Cell(value=numbers["mean"], std=numbers["std"])
    return Cell()


def _by_resolution(rows: Sequence[str], found: _Found, theirs: _Theirs) -> list[Column]:
    """Table 2: memory at each resolution, then the AUC at each; rows and columns that somebody has."""
    sizes = sorted({size for _, size in (*found, *theirs)})  # type: ignore[misc]
    columns: list[Column] = []
    for field, title in (("memory_mb", "Mem."), ("average_auc", "AUC")):
        for size in sizes:
            ours = [_mean_cell(found, (row, size), field) for row in rows]
            columns += _pair(field, f"{title} {size}", ours, [_paper_cell(theirs, (row, size), field) for row in rows])
    return columns


# --- what is said of a table ----------------------------------------------------------------------------------


def _settings(records: Sequence[Record]) -> str:
    """The backbone, the resolution and the epochs of these trials; of several, all."""
    parts = []
    for name, unit in (("backbone.name", ""), ("features.resolution", " px"), ("training.epochs", " epochs")):
        values = sorted({record.params.get(name, "?") for record in records}, key=lambda text: (len(text), text))
        parts.append(f"{', '.join(values)}{unit}")
    return f"Settings: {'; '.join(parts)}."


def _legend(columns: Sequence[Column], studies: int) -> list[str]:
    ours = [cell for column in columns if not column.of_paper for cell in column.cells]
    said = ["AUC, PPE and PME are x 100, of the test split."]
    if any(cell.std is not None for cell in ours):
        said.append("±: standard deviation over seeds.")
    if studies > 1:
        said.append("Means are over the studies.")
    said.append("Mem.: the training process's peak, predicted.")
    if any(cell.of_validation for cell in ours):
        said.append("(val): of the validation split, no test score is there.")
    if any(cell.failed for cell in ours):
        said.append('"/": failed; fpt-ray report --study STUDY has the reason.')
    if theirs := [cell for column in columns if column.of_paper for cell in column.cells]:
        out = ' ("/": out of memory on 48 GB)' if any(cell.failed and cell.value is None for cell in theirs) else ""
        said.append(f'"paper": as printed there, of its own images; means are over its eight data sets{out}.')
    return [" ".join(said)]
