"""What is learnt of a table's labels: the task that they say, the names of the classes, and a value for each row."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, Float64, Int64

from fpt_ray.config.tasks import Task
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import BLANK_OR_NAN, is_empty, numbers, refuse_first, says_nothing

Values = Int64[np.ndarray, " rows"] | Float32[np.ndarray, "rows labels"] | Float64[np.ndarray, " rows"]
"""The number of a class; of several labels 0, 1 or NaN where nothing is known of one; a number."""
CLASS_TASKS = ("binary", "multiclass", "ordinal")
BETWEEN = "|"
"""Stands between labels that an image has at once."""

_NAN_AMONG = r"(?i)(^|\|)\s*nan\s*(\||$)"


class Labels(NamedTuple):
    """What is learnt, row by row."""

    task: Task
    classes: tuple[str, ...]
    """Of several labels, those; of a number, what it is called."""
    values: Values


def read_labels(uri: str, columns: Mapping[str, pa.Array], task: Task | None) -> Labels:
    """The labels of all rows, for the task that is given or that they say.

    Raises:
        ConfigError: one is missing or cannot be used, or they do not fit the task.
    """
    name, column = next(iter(columns.items()))
    if task is None and (task := task_said(columns)) == "multilabel" and len(columns) == 1:
        _tell_of_texts(uri, name, column)
    if len(columns) > 1 and task != "multilabel":
        raise _unfit(task, f"the labels are in {len(columns)} columns, {', '.join(columns)}", "give one, or multilabel")
    if task == "multilabel" and (len(columns) > 1 or not pa.types.is_string(column.type)):
        _refuse_ends(uri, tuple(columns))
        return Labels(task, tuple(columns), np.stack([_yes_or_no(uri, *pair) for pair in columns.items()], axis=1))
    if task == "multilabel":
        return _listed(uri, name, column)
    missing = is_empty(column) | says_nothing(column, BLANK_OR_NAN)
    refuse_first(uri, name, column, missing, "fill it, or take the row out")
    if task == "regression":
        found = numbers(uri, name, column)
        refuse_first(uri, name, column, ~np.isfinite(found), "give a finite number")
        return Labels(task, (name,), found)
    return _classes(uri, name, column, task)


def _tell_of_texts(uri: str, name: str, column: pa.StringArray) -> None:
    """Says why a column is of several labels: one class whose name has a ``|`` is enough."""
    number = pc.sum(pc.match_substring(column, BETWEEN)).as_py()
    some = f"{number:,} of {len(column):,} texts of {name!r} {'has' if number == 1 else 'have'} {BETWEEN!r} in "
    say(
        f"images: {uri}: {some}{'it' if number == 1 else 'them'}, so images have any of several labels (multilabel), "
        "and an empty cell none of them; --task multilabel says so without this line, --task binary or multiclass "
        "takes each text as a class"
    )


def task_said(columns: Mapping[str, pa.Array]) -> Task:
    """The task that labels say where none is given."""
    if len(columns) > 1:
        return "multilabel"
    (column,) = columns.values()
    if pa.types.is_string(column.type):
        if pc.any(pc.match_substring(column, BETWEEN)).as_py():
            return "multilabel"
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid:
            return task_of_classes(column)
    if pa.types.is_floating(column.type):
        finite = column.filter(pc.is_finite(column))
        if not pc.all(pc.equal(finite, pc.floor(finite)), min_count=0).as_py():
            return "regression"
    return task_of_classes(column)


def task_of_classes(column: pa.Array) -> Task:
    """The task of names of classes."""
    return "binary" if pc.count_distinct(column).as_py() == 2 else "multiclass"


def _unfit(task: Task, why: str, remedy: str) -> ConfigError:
    return ConfigError(f"images: the task {task} does not fit: {why}; {remedy}", fields=("task", "columns"))


# --- one of several classes ---------------------------------------------------------------------------------------


def _classes(uri: str, name: str, column: pa.Array, task: Task) -> Labels:
    if pa.types.is_floating(column.type):
        real = ~pc.equal(column, pc.floor(column)).to_numpy(zero_copy_only=False)
        huge = ~(np.abs(column.to_numpy(zero_copy_only=False)) < 2.0**53)  # a float knows its neighbours no more
        remedy = f"give whole numbers or text, or the task regression, not {task}"
        refuse_first(uri, name, column, real | huge, remedy)
        column = column.cast(pa.int64())
    coded = column.cast(pa.string()).dictionary_encode()
    names = coded.dictionary.to_pylist()
    classes = class_order(names)
    if task == "binary" and len(classes) != 2:
        some = ", ".join(map(repr, classes[:5]))
        raise _unfit(
            task, f"{uri} has {len(classes)} classes in the column {name!r}, such as {some}", "give multiclass"
        )
    if task == "ordinal" and not _all_whole(classes):
        odd = next(one for one in classes if not _all_whole([one]))
        raise _unfit(task, f"{uri} has {odd!r} in the column {name!r}", "number the grades, such as 0, 1, 2")
    number = {one: at for at, one in enumerate(classes)}
    order = np.array([number[one] for one in names], np.int64)
    return Labels(task, classes, order[coded.indices.to_numpy()])


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sorted; by value where all are whole numbers, so that grades stand in their order."""
    names = sorted(names)
    return tuple(sorted(names, key=int) if _all_whole(names) else names)


def _all_whole(names: Iterable[str]) -> bool:
    return all(name.isascii() and name.removeprefix("-").isdigit() for name in names)


# --- any of several labels ----------------------------------------------------------------------------------------


def _listed(uri: str, name: str, column: pa.StringArray) -> Labels:
    """Of labels such as ``edema|effusion``: those that a row does not have are 0, and an empty cell has none."""
    remedy = "take it out: an image without any label has an empty cell, and one whose labels are not known no row"
    refuse_first(uri, name, column, says_nothing(column, _NAN_AMONG), remedy)
    lists = pc.split_pattern(pc.fill_null(column, ""), BETWEEN)
    names, rows = pc.utf8_trim_whitespace(lists.flatten()), pc.list_parent_indices(lists)
    there = pc.not_equal(names, "")
    coded, rows = names.filter(there).dictionary_encode(), rows.filter(there).to_numpy()
    classes = class_order(coded.dictionary.to_pylist())
    number = {one: at for at, one in enumerate(classes)}
    order = np.array([number[one] for one in coded.dictionary.to_pylist()], np.int64)
    values = np.zeros((len(column), len(classes)), np.float32)
    values[rows, order[coded.indices.to_numpy()]] = 1
    _refuse_ends(uri, classes)
    return Labels("multilabel", classes, values)


def _refuse_ends(uri: str, names: Sequence[str]) -> None:
    """ConfigError where a label's metrics would have the names of the ends of another's intervals."""
    taken = ((name, f"{name}{end}") for name in names for end in ("_low", "_high"))
    for name, other in taken:
        if other in names:
            raise ConfigError(
                f"images: {uri} has the labels {name!r} and {other!r}, and an end of an interval of {name!r} is called "
                f"{other!r} too; rename one of them"
            )


def _yes_or_no(uri: str, name: str, column: pa.Array) -> Float32[np.ndarray, " rows"]:
    found = numbers(uri, name, column)
    wrong = ~(np.isnan(found) | (found == 0) | (found == 1))
    refuse_first(uri, name, column, wrong, "give 0, 1, or leave it empty where it is not known")
    return found.astype(np.float32)
