"""What a table's labels say, compared with the cells they were written from; tables of many rows."""

import dataclasses
import tracemalloc
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import tyro

from fpt_ray.config.preparation import Preparation
from fpt_ray.config.tasks import ImagesOptions, Target
from fpt_ray.config.trial import trial_from
from fpt_ray.datasets.stratification import write_stratified
from fpt_ray.errors import ConfigError
from fpt_ray.features import command as features_command
from fpt_ray.images.splits import imbalance, with_hashed_splits
from fpt_ray.images.table import read_images, write_table
from fpt_ray.preload import command as preload_command
from fpt_ray.train import command as train_command
from fpt_ray.tune import command as tune_command

NAN = np.nan


def read(folder, columns, kind="parquet", options=(), task=None):
    """A table of these columns beside paths; a .csv has all cells as text."""
    number = len(next(iter(columns.values())))
    table = pa.table({"path": [f"{i:02}.png" for i in range(number)], **columns})
    uri = f"{folder}/set.{kind}"
    pq.write_table(table, uri) if kind == "parquet" else pacsv.write_csv(table, uri)
    return read_images(uri, ImagesOptions(columns=tuple(options), task=task))


# --- the task -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("labels", "task", "classes", "values"),
    [
        (["b", "a", "b"], "binary", ("a", "b"), [1, 0, 1]),
        (["b", "a", "c"], "multiclass", ("a", "b", "c"), [1, 0, 2]),
        ([10, 9, 0], "multiclass", ("0", "9", "10"), [2, 1, 0]),
        ([0.5, 2.0, -1.25], "regression", ("label",), [0.5, 2.0, -1.25]),
        (["x|y", "", "y | z"], "multilabel", ("x", "y", "z"), [[1, 1, 0], [0, 0, 0], [0, 1, 1]]),
    ],
)
def test_labels_say_the_task(tmp_path, kind, labels, task, classes, values):
    table = read(tmp_path, {"label": labels}, kind)
    assert (table.task, table.classes) == (task, classes)
    assert table.labels.tolist() == values


def test_numbers_of_parquet_that_are_whole_are_classes(tmp_path):
    table = read(tmp_path, {"label": [2.0, 10.0, 2.0]})
    assert (table.task, table.classes, table.labels.tolist()) == ("binary", ("2", "10"), [0, 1, 0])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_several_columns_are_labels_of_which_some_are_not_known(tmp_path, kind):
    columns = {"edema": [0, 1, None], "effusion": [1.0, NAN if kind == "csv" else None, 1.0]}
    table = read(tmp_path, columns, kind, ["label=edema,effusion"])
    assert (table.task, table.classes) == ("multilabel", ("edema", "effusion"))
    assert np.array_equal(table.labels, np.array([[0, 1], [1, NAN], [NAN, 1]], np.float32), equal_nan=True)
    assert table.row(0).label == (0, 1)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (["a", "nan", "b"], None),
        (["1", "NaN", "2"], None),
        (["1", " ", "2"], "ordinal"),
        (["a", "\t", "b"], None),
        (["a|b", "a| NaN", "b"], None),
        (["0.5", "nan", "1.5"], "regression"),
    ],
)
def test_a_text_for_a_missing_label_is_no_class(tmp_path, kind, labels, task):
    with pytest.raises(ConfigError, match=r"row 2 has the label '.*'; (fill it, or take|take it out|give a fi)"):
        read(tmp_path, {"label": labels}, kind, task=task)


@pytest.mark.parametrize("label", ["nano", "none", "NA", "a nan"])
def test_names_that_only_look_so_are_classes(tmp_path, label):
    assert label in read(tmp_path, {"label": [label, "b", label]}, "csv").classes


def test_a_given_task_is_taken(tmp_path):
    assert read(tmp_path, {"label": [3, 1, 2]}, task="ordinal").classes == ("1", "2", "3")
    assert read(tmp_path, {"label": [3, 1, 2]}, task="regression").labels.tolist() == [3, 1, 2]
    assert read(tmp_path, {"label": ["a|b", "a"]}, task="binary").classes == ("a", "a|b")
    assert read(tmp_path, {"label": ["a", ""]}, task="multilabel").labels.tolist() == [[1], [0]]


@pytest.mark.parametrize("columns", [{"label": ["x|x_low", "", "x"]}, {"x": [1, 0, 1], "x_low": [0, 1, 1]}])
def test_a_label_that_is_called_as_an_end_of_anothers_interval_is_refused(tmp_path, columns):
    names = [f"label={','.join(columns)}"] if "x" in columns else []
    with pytest.raises(
        ConfigError, match=r"has the labels 'x' and 'x_low', and an end of an interval of 'x' is called"
    ):
        read(tmp_path, columns, "csv", names)


def test_what_makes_a_table_multilabel_is_said_where_the_task_is_not_given(tmp_path, capfd):
    read(tmp_path, {"grade": ["a", "b", "a|b", ""]}, "csv", ["label=grade"])
    said = "1 of 4 texts of 'grade' has '|' in it, so images have any of several labels (multilabel), and an empty"
    assert said in (told := capfd.readouterr().err)
    assert "--task binary or multiclass" in told
    assert told.count("\n") == 1
    read(tmp_path, {"grade": ["a", "b", "a|b", ""]}, "csv", ["label=grade"], task="multilabel")
    read(tmp_path, {"grade": ["a", "b", "a|b"]}, "csv", ["label=grade"], task="multiclass")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("columns", "options", "task", "message"),
    [
        (
            {"label": ["a", "b", "c"]},
            [],
            "binary",
            r"not fit: .*3 classes in the column 'label'.*multiclass",
        ),
        ({"grade": ["1", "b"]}, ["label=grade"], "ordinal", r"has 'b' in the column 'grade'; number the grades"),
        ({"label": ["1.5", "b"]}, [], "regression", r"row 2 has the label 'b'; give a number"),
        ({"label": [0.5, 1.0]}, [], "multiclass", r"row 1 has the label 0.5; .* or the task regression"),
        ({"a": [0, 1], "b": [1, 1]}, ["label=a,b"], "binary", r"the labels are in 2 columns, a, b; give one"),
        ({"a": [0, 1], "b": [1, -1]}, ["label=a,b"], None, r"row 2 has the b -1; give 0, 1, or leave it empty"),
        ({"label": [0.5, NAN]}, [], None, r"row 2 has the label nan; fill it"),
        ({"label": [0.5, np.inf]}, [], None, r"row 2 has the label inf; give a finite number"),
        ({"label": [None, 0.5]}, [], None, r"row 1 has the label None; fill it"),
        ({"label": [0.0, 1.0, np.inf]}, [], None, r"row 3 has the label inf; give whole numbers"),
        ({"label": [0.0, 1e300, 1.0]}, [], None, r"row 2 has the label 1e\+300; give whole numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, columns, options, task, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, columns, "parquet", options, task)


def test_folders_are_classes_whatever_they_are_called(tmp_path):
    for name in ("0.5", "1.5|2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
    assert (read_images(str(tmp_path)).task, read_images(str(tmp_path)).classes) == ("binary", ("0.5", "1.5|2"))
    with pytest.raises(ConfigError, match="is a folder, which has none"):
        read_images(str(tmp_path), ImagesOptions(columns=("label=x",)))


# --- columns --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_may_be_called_otherwise(tmp_path, kind):
    columns = {"diagnosis": ["b", "a"], "patient": [7, 8], "label": ["?", "?"], "importance": [0.5, 2.0]}
    table = read(tmp_path, columns, kind, ["label=diagnosis", "group=patient", "weight=importance"])
    assert [(row.label, row.group, row.weight) for row in table.rows()] == [(1, "7", 0.5), (0, "8", 2)]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("label", "'label' is no NAME=COLUMN"),
        ("label=a,,b", "is no NAME=COLUMN"),
        ("lable=a", "did you mean 'label'"),
        ("group=a", "lacks the column 'a'; it has path, label"),
        ("label=a", "lacks the column 'a'; it has path, label"),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path, option, message):
    with pytest.raises(ConfigError, match=message) as error:
        read(tmp_path, {"label": ["b", "a"]}, "parquet", [option])
    assert error.value.fields == ("columns",)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("weight", [0.0, -1.0, np.inf, NAN, 1e-60, 1e60])
def test_weights_are_finite_and_positive(tmp_path, kind, weight):
    with pytest.raises(ConfigError, match=r"row 2 has the weight .*; give a finite number above 0"):
        read(tmp_path, {"label": ["b", "a"], "weight": [1.0, weight]}, kind)


def test_a_column_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("path,label,label\n1.png,a,b\n")
    with pytest.raises(ConfigError, match="has the column 'label' twice"):
        read_images(str(tmp_path / "a.csv"))


def test_a_row_with_too_many_cells_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("path,label\n\n1.png,a\n2,5.png,b\n")
    with pytest.raises(ConfigError, match=r"row 2 has 3 cells, the header has 2; .*in quotes"):
        read_images(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("command", [tune_command, train_command, preload_command])
def test_every_command_reads_images_with_the_same_options(command):
    needed = ["--space", "s"] if command is tune_command else []
    given = ["--images", "i", *needed, "--columns", "label=a,b", "group=c", "--task", "ordinal"]
    options = tyro.cli(command.Command, args=given, use_underscores=True)
    assert isinstance(options, ImagesOptions)
    assert (options.columns, options.task) == (("label=a,b", "group=c"), "ordinal")
    assert issubclass(features_command.Importance, ImagesOptions)


def test_images_of_a_given_store_are_checked_as_the_trial_takes_them(monkeypatch):
    taken, asked = [], []

    def stop(table, _workdir, preparations, *, kept, allow):
        taken.append((table, preparations, kept, allow))
        raise ConfigError("far enough")

    monkeypatch.setattr("fpt_ray.cluster.ray_session", lambda **_: nullcontext())
    table = SimpleNamespace(target=Target(task="binary", classes=("a", "b")))
    monkeypatch.setattr("fpt_ray.images.table.read_images", lambda *given: asked.append(given) or table)
    monkeypatch.setattr("fpt_ray.datasets.checking.inspected", stop)
    trial = trial_from({"features.intensity": "percentile", "features.resolution": 384})
    command = train_command.Command(images="i", features="store", allow=("labels",), folds=3, fold=1, trial=trial)
    with pytest.raises(ConfigError, match="far enough"):
        train_command.run(command)
    assert asked == [("i", command)]
    assert taken == [(table, (Preparation(intensity="percentile", resolution=384),), False, ("labels",))]


# --- written and read again -----------------------------------------------------------------------------------

NINE = [["a", "b", "c"] * 3, [0.1 * i for i in range(9)], ["group", "a|group", ""] * 3, [1, 2, 3] * 3]


def divided(table):
    return dataclasses.replace(
        table,
        splits=np.repeat(np.arange(3, dtype=np.int8), 3),
        hashes_=np.random.default_rng(0).integers(0, 256, (len(table), 32), np.uint8),
        note="said",
    )


@pytest.mark.parametrize(("labels", "task"), list(zip(NINE, [None, None, None, "ordinal"], strict=True)))
def test_a_written_table_is_read_as_it_was(tmp_path, labels, task):
    columns = {"label": labels, "group": list("AAABBBCCC"), "weight": [0.5 + i for i in range(9)]}
    table = divided(read(tmp_path, columns, task=task))
    write_table(table, f"{tmp_path}/w.parquet")
    again = read_images(f"{tmp_path}/w.parquet")
    assert again == table
    assert again.digest() == table.digest()
    changed = table.labels.copy()
    changed[0] = 1 - changed[0]
    assert dataclasses.replace(table, labels=changed).digest() != table.digest()


def test_what_is_not_known_is_not_known_after_writing_and_counts_in_the_digest(tmp_path):
    table = divided(read(tmp_path, {"a": [0, 1, None] * 3, "b": [1, 1, 1] * 3}, options=["label=a,b"]))
    write_table(table, f"{tmp_path}/w.parquet")
    assert read_images(f"{tmp_path}/w.parquet") == table
    filled = dataclasses.replace(table, labels=np.nan_to_num(table.labels))
    assert filled.digest() != table.digest()
    assert filled != table


def test_tables_without_classes_are_divided_by_hash_and_not_class_by_class(tmp_path):
    table = divided(read(tmp_path, {"label": [0.5 + i for i in range(9)]}))
    found = with_hashed_splits(dataclasses.replace(table, splits=np.full(9, -1, np.int8)))
    assert found.is_divided
    assert imbalance(table) == "33.3% train, 33.3% val, 33.3% test (meant are 70/10/20)"
    with pytest.raises(ConfigError, match="regression has no classes to be divided"):
        write_stratified(f"{tmp_path}/set.parquet", None, 0)


# --- many rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_many_rows_are_read_divided_and_identified_without_an_object_for_each(tmp_path, kind):
    """A list of the paths alone would take 90 bytes a row more."""
    rows = 200_000
    number = pa.array(np.arange(rows)).cast(pa.string())
    columns = {
        "path": pc.binary_join_element_wise("folder/of/images/image", number, ".png", ""),
        "label": pa.array(["none", "mild", "severe"]).take(pa.array(np.arange(rows) % 3)),
        "group": pc.binary_join_element_wise("patient", pa.array(np.arange(rows) // 4).cast(pa.string()), ""),
    }
    uri = f"{tmp_path}/set.{kind}"
    (pq.write_table if kind == "parquet" else pacsv.write_csv)(pa.table(columns), uri)
    tracemalloc.start()
    try:
        table = read_images(uri)
        table = dataclasses.replace(table, hashes_=np.zeros((rows, 32), np.uint8))
        divided_table = with_hashed_splits(table)
        divided_table.digest()
        (held, peak), blocks = tracemalloc.get_traced_memory(), tracemalloc.take_snapshot().traces
        assert len(blocks) < rows / 10
    finally:
        tracemalloc.stop()
    assert len(divided_table) == rows
    print(f"{kind}: {held / rows:.0f} bytes a row, {peak / rows:.0f} at most")
    assert peak / rows < 250
