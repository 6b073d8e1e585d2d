"""The studies of a data set's folds in one table: scores of each configuration, mean and deviation over the folds."""

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fpt_ray.config.space import POINT
from fpt_ray.config.tasks import TITLES
from fpt_ray.display.typesetting import Table, text_column
from fpt_ray.errors import ConfigError
from fpt_ray.report.result import StudyResult
from fpt_ray.tracking.records import TrialRecord, counted

_FOLD = re.compile(r"validated by fold (\d+) of (\d+)")
"""As the data note of a study says it (``images.folds.fold_note``)."""
_MAY_DIFFER = {"training.seed", "backbone.weights"}
"""Between trials of one configuration: draws, and where the same weights lie. A version may lack others' fields."""


def over_folds(results: Sequence[StudyResult]) -> Table:
    """A row for each configuration that every study has, in the first one's order.

    Studies of folds share their test images: the spread of the test score is of what was trained on, not of whom it was
    tested on.

    Raises:
        ConfigError: a study has no fold, two have the same, they are not of one space and the same images, or nothing
            stands in all.
    """
    folds, number = _folds(results)
    _the_same("images", {one.name: _FOLD.sub("validated by a fold", one.data_note) for one in results})
    score = _the_same("score", {one.name: one.score for one in results})
    searched = _the_same("searched rows", {one.name: one.searched for one in results})
    rows = [_rows(one, searched) for one in results]
    names = [name for name in rows[0] if all(name in others for others in rows)]
    if not names:
        raise ConfigError("folds: no configuration has been trained to its end in all of these studies")
    for name in names:
        _one_configuration(name, {study.name: one[name].params for study, one in zip(results, rows, strict=True)})
    columns = []
    for split in ("val", "test"):
        cells = [_spread([one[name].metrics for one in rows], f"{split}_{score}") for name in names]
        columns.append(text_column(f"{split} {TITLES[score]}", cells))
    lacking = max(map(len, rows)) - len(names)
    missing = sorted(set(range(1, number + 1)) - set(folds))
    notes = [f"Folds {', '.join(map(str, missing))} of {number} are not among them."] if missing else []
    notes += [f"{lacking} configurations are left out, which not every fold has."] if lacking else []
    return Table(
        title=f"{len(results)} of {number} folds, mean ± standard deviation; the test images are the same in all",
        heading="configuration",
        labels=names,
        columns=columns,
        footnotes=notes,
    )


def _folds(results: Sequence[StudyResult]) -> tuple[list[int], int]:
    """(the fold of each study, of how many)."""
    folds, numbers = [], {}
    for one in results:
        said = _FOLD.search(one.data_note)
        if said is None:
            raise ConfigError(f"folds: study {one.name} has no fold; give studies of tune --folds")
        folds.append(int(said[1]))
        numbers[one.name] = int(said[2])
    number = _the_same("number of folds", numbers)
    if len(set(folds)) < len(folds):
        raise ConfigError(f"folds: the studies have the folds {', '.join(map(str, folds))}; give one of each")
    return folds, number


def _the_same(what: str, values: Mapping[str, Any]) -> Any:
    first, *others = values.items()
    for name, value in others:
        if value != first[1]:
            raise ConfigError(
                f"folds: {what}: {first[1]} in {first[0]}, {value} in {name}; give studies of one space and data set"
            )
    return first[1]


def _one_configuration(name: str, settings: Mapping[str, Mapping[str, str]]) -> None:
    """Refuses trials that were written alike and differ in what their spaces fix; ``settings`` are by study."""
    for field in sorted(set.intersection(*(set(one) for one in settings.values())) - _MAY_DIFFER):
        _the_same(f"{field} of {name}", {study: one[field] for study, one in settings.items()})


def _rows(result: StudyResult, searched: Sequence[str]) -> dict[str, TrialRecord]:
    """{configuration, as it is written: the trial that counts}."""
    found = {}
    trials = counted(result.trials, result.constraints, [f"val_{result.score}"])
    for record in sorted(trials, key=lambda one: one.number):
        values = [f"{name}={record.params[name]}" for name in searched if name != POINT]
        found[" ".join([record.label, *values] if record.label else values)] = record
    return found


def _spread(folds: Sequence[Mapping[str, float]], metric: str) -> str:
    values = [metrics[metric] for metrics in folds if metric in metrics]
    if len(values) < len(folds):
        return "-"
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{spread}"
