"""The columns of an image table, a .csv or .parquet file: read, and checked without an object for any cell.

Rows are counted from 1 in what is said of them.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Float64, Int8, UInt8

from fpt_ray.config.tasks import ImagesOptions, Task
from fpt_ray.errors import ConfigError, nearest_name
from fpt_ray.images.csv_quotes import checked_names
from fpt_ray.images.notes import first_line, note_of_csv
from fpt_ray.storage.files import read_bytes

SPLITS = ("train", "val", "test")
COLUMNS = ("path", "label", "split", "group", "sha256", "weight")
LABEL_PREFIX = "label:"
"""How the column of one of several labels, or of a number, begins in a table that we write."""
NOTE_KEY, TASK_KEY, FOLD_KEY = "fpt_ray.data_note", "fpt_ray.task", "fpt_ray.fold"
"""Of the metadata of a table that we write."""
_KNOWN: Mapping[bytes, Task] = {task.encode(): task for task in get_args(Task)}
BLANK_OR_NAN = r"(?i)^\s*(nan)?\s*$"
"""What programs write for a cell that has nothing."""
_NUMBERS = ("label", "group", "weight")
_Read = tuple[dict[str, pa.Array], dict[bytes, bytes]]
"""({one of our columns: its cells}, the metadata)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Columns:
    """What a table or a folder says of its images, row by row."""

    paths: pa.StringArray
    labels: Mapping[str, pa.Array]
    """{what it is called: texts or numbers}; of several, each is a label of its own."""
    splits: Int8[np.ndarray, " rows"] | None = None
    groups: pa.DictionaryArray | None = None
    hashes: UInt8[np.ndarray, "rows 32"] | None = None
    weights: Float32[np.ndarray, " rows"] | None = None
    task: Task | None = None
    """What is learnt of the labels, where a table that we wrote says it."""
    note: str = ""
    fold: str = ""
    """See ``ImageTable``; both of a table that we wrote."""


def read_columns(uri: str, options: ImagesOptions, *, labelled: bool = True) -> Columns:
    """The columns of a table whose file is there; ``labelled``: it must have labels, or else it may.

    Raises:
        ConfigError: it cannot be read, a column is missing or of another type, or a cell cannot be used.
    """
    asked = _asked(options.columns)
    needed = ("path", "label") if labelled else ("path",)
    raw, notes = (_read_csv if uri.endswith(".csv") else _read_parquet)(uri, asked, needed)
    paths, own = raw["path"], _called(asked, "path")
    refuse_first(uri, own, paths, is_empty(paths), "fill it")
    labels = {name.removeprefix(LABEL_PREFIX): raw[name] for name in raw if name not in COLUMNS}
    splits = groups = hashes = weights = None
    if (cells := raw.get("split")) is not None:
        splits = pc.fill_null(pc.index_in(cells, pa.array(SPLITS)), -1).to_numpy().astype(np.int8)
        refuse_first(uri, _called(asked, "split"), cells, splits < 0, f"choose {', '.join(SPLITS)}")
    if (cells := raw.get("group")) is not None:
        missing = is_empty(cells) | says_nothing(cells, BLANK_OR_NAN)
        refuse_first(uri, _called(asked, "group"), cells, missing, "fill it, or leave out the column")
        groups = cells.cast(pa.string()).dictionary_encode()
    if (cells := raw.get("sha256")) is not None:
        right = pc.fill_null(pc.match_substring_regex(cells, "^[0-9a-f]{64}$"), False)
        refuse_first(uri, _called(asked, "sha256"), cells, ~_as_mask(right), "give 64 digits or no column")
        hashes = _from_hex(cells)
    if (cells := raw.get("weight")) is not None:
        with np.errstate(over="ignore"):
            weights = numbers(uri, _called(asked, "weight"), cells).astype(np.float32)
        wrong = ~(np.isfinite(weights) & (weights > 0))
        refuse_first(uri, _called(asked, "weight"), cells, wrong, "give a finite number above 0")
    return Columns(
        paths=paths,
        labels=labels,
        splits=splits,
        groups=groups,
        hashes=hashes,
        weights=weights,
        task=None if "label" in asked else _KNOWN.get(notes.get(TASK_KEY.encode(), b"")),
        note=notes.get(NOTE_KEY.encode(), b"").decode(),
        fold=notes.get(FOLD_KEY.encode(), b"").decode(),
    )


# --- which columns ------------------------------------------------------------------------------------------------


def _asked(columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """{one of ours: what the user calls it}; several names of labels alone."""
    asked: dict[str, tuple[str, ...]] = {}
    for text in columns:
        ours, equals, theirs = text.partition("=")
        names = tuple(theirs.split(",")) if ours == "label" else (theirs,)
        if not equals or not all(names) or len(set(names)) < len(names):
            raise ConfigError(f"columns: {text!r} is no NAME=COLUMN, such as label=diagnosis", fields=("columns",))
        if ours not in COLUMNS or ours in asked:
            why = "is given twice" if ours in asked else f"is none of an image table; {nearest_name(ours, COLUMNS)}"
            raise ConfigError(f"columns: {ours!r} {why}", fields=("columns",))
        asked[ours] = names
    return asked


def _called(asked: Mapping[str, tuple[str, ...]], ours: str) -> str:
    return asked.get(ours, (ours,))[0]


def _places(
    uri: str, asked: Mapping[str, tuple[str, ...]], names: Sequence[str], needed: Sequence[str]
) -> dict[str, str]:
    """{one of ours, or ``label:`` and the name of a label: the column of the file}."""
    found: dict[str, str] = {}
    for ours in COLUMNS:
        wanted = asked.get(ours, (ours,))
        if ours == "label" and ours not in asked and ours not in names:
            wanted = tuple(name for name in names if name.startswith(LABEL_PREFIX)) or wanted
        for name in wanted:
            if name in names:
                label = f"{LABEL_PREFIX}{name.removeprefix(LABEL_PREFIX)}"
                found[label if ours == "label" else ours] = name
            elif ours in needed or ours in asked:
                has = ", ".join(names[:20]) or "none"
                raise ConfigError(
                    f"images: {uri} lacks the column {name!r}; it has {has}; columns may be called otherwise, such as "
                    f"{ours}=COLUMN, and the first row of a CSV must name them",
                    fields=("columns",),
                )
    for name in found.values():
        if list(names).count(name) > 1:
            raise ConfigError(f"images: {uri} has the column {name!r} twice; keep one")
    return found


def _by_name(places: Mapping[str, str], columns: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    """The columns by our names; those of labels by theirs, behind the prefix."""
    return {ours: columns[name] for ours, name in places.items()}


# --- reading ------------------------------------------------------------------------------------------------------


def _read_csv(uri: str, asked: Mapping[str, tuple[str, ...]], needed: Sequence[str]) -> _Read:
    odd: list[Any] = []
    try:
        data = read_bytes(uri)
        names = checked_names(uri, data)
        places = _places(uri, asked, names, needed)
        found = pacsv.read_csv(
            pa.BufferReader(data),
            read_options=pacsv.ReadOptions(use_threads=False),  # which counts the rows
            parse_options=pacsv.ParseOptions(
                newlines_in_values=True, invalid_row_handler=lambda row: odd.append(row) or "error"
            ),
            convert_options=pacsv.ConvertOptions(
                include_columns=list(places.values()),
                column_types=dict.fromkeys(places.values(), pa.string()),
                strings_can_be_null=False,
            ),
        )
    except (UnicodeDecodeError, pa.ArrowException, OSError) as error:
        if odd:
            row = odd[0]
            raise ConfigError(
                f"images: {uri}: row {row.number - 1} has {row.actual_columns} cells, the header has "
                f"{row.expected_columns}; fill it, and put a text with a comma in quotes"
            ) from None
        raise ConfigError(f"images: {uri} cannot be read as CSV in UTF-8: {error}") from None
    notes = {NOTE_KEY.encode(): first_line(note_of_csv(uri)).encode()}
    return _by_name(places, {name: one_array(found[name]) for name in places.values()}), notes


def _read_parquet(uri: str, asked: Mapping[str, tuple[str, ...]], needed: Sequence[str]) -> _Read:
    """Types are checked before a value is touched, for some run code when they are read."""
    try:
        with pq.ParquetFile(pa.BufferReader(read_bytes(uri))) as file:
            schema = file.schema_arrow
            places = _places(uri, asked, schema.names, needed)
            for ours, name in places.items():
                _check_type(uri, ours, name, schema.field(name).type)
            found = file.read(columns=list(places.values()))
            columns = {name: _plain(one_array(found[name])) for name in places.values()}
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"images: {uri} cannot be read as Parquet: {error}") from None
    return _by_name(places, columns), schema.metadata or {}


def _check_type(uri: str, ours: str, name: str, kind: pa.DataType) -> None:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    ours = ours.partition(":")[0]
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    whole = pa.types.is_integer(kind) and ours in _NUMBERS
    real = (pa.types.is_floating(kind) or pa.types.is_boolean(kind)) and ours in ("label", "weight")
    if not (text or whole or real):
        raise ConfigError(f"images: {uri}: column {name} is {kind}; give text (a label, a group: or int)")


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    return pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)


def _plain(column: pa.Array) -> pa.Array:
    """Without dictionary; text as strings, truth as 0 and 1."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_large_string(column.type):
        return column.cast(pa.string())
    return column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column


# --- cells --------------------------------------------------------------------------------------------------------


def _as_mask(column: pa.BooleanArray) -> Bool[np.ndarray, " rows"]:
    return column.to_numpy(zero_copy_only=False)


def is_empty(column: pa.Array) -> Bool[np.ndarray, " rows"]:
    """Where a cell has nothing."""
    empty = pc.is_null(column, nan_is_null=True)
    if pa.types.is_string(column.type):
        empty = pc.or_(empty, pc.fill_null(pc.equal(column, ""), True))
    return _as_mask(empty)


def says_nothing(column: pa.Array, pattern: str) -> Bool[np.ndarray, " rows"]:
    """Where a text is what programs write for a cell that has none."""
    if not pa.types.is_string(column.type):
        return np.zeros(len(column), bool)
    return _as_mask(pc.fill_null(pc.match_substring_regex(column, pattern), False))


def refuse_first(uri: str, name: str, column: pa.Array, wrong: Bool[np.ndarray, " rows"], remedy: str) -> None:
    """ConfigError that names the first cell that is wrong; none if all are right."""
    if wrong.any():
        at = int(wrong.argmax())
        raise ConfigError(f"images: {uri}: row {at + 1} has the {name} {column[at].as_py()!r}; {remedy}")


def numbers(uri: str, name: str, column: pa.Array) -> Float64[np.ndarray, " rows"]:
    """A column as numbers; NaN where a cell is empty.

    Raises:
        ConfigError: a text is no number.
    """
    if pa.types.is_string(column.type):
        column = pc.utf8_trim_whitespace(column)
        filled = pc.if_else(pc.equal(column, ""), None, column)
        try:
            return filled.cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid:
            wrong = np.fromiter((not _is_number(text.as_py()) for text in filled), bool, len(filled))
            refuse_first(uri, name, column, wrong, "give a number")
            raise
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _is_number(text: str | None) -> bool:
    try:
        pa.array([text], pa.string()).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _from_hex(column: pa.StringArray) -> UInt8[np.ndarray, "rows 32"]:
    digits = column.cast(pa.binary()).buffers()[2] if len(column) else b""
    first = 64 * column.offset
    digits = memoryview(digits)[first : first + 64 * len(column)]
    return np.frombuffer(binascii.unhexlify(digits), np.uint8).reshape(-1, 32)


def as_hex(values: UInt8[np.ndarray, "rows bytes"]) -> pa.StringArray:
    """Each row as hex digits."""
    ends = np.arange(len(values) + 1, dtype=np.int32) * (2 * values.shape[1])
    digits = binascii.hexlify(values.tobytes())
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(ends), pa.py_buffer(digits))
