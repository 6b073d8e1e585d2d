"""Studies and stores that are made to be measured hold what real ones would; exponents are those of powers by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fpt_ray.bench.grow import images, stores
from fpt_ray.bench.grow.axes import AXES
from fpt_ray.bench.grow.growth import AtSize, draw_grow, exponent, grow_text, peak_memory
from fpt_ray.bench.grow.made_study import SPACE, add_trials, begin_study
from fpt_ray.bench.grow.stores import made_table, measure_rows, read_epoch, small_spec, write_index_alone
from fpt_ray.bench.made import fill_store
from fpt_ray.config.trial import override
from fpt_ray.features.joining import join
from fpt_ray.features.store import open_store, read_index
from fpt_ray.report.result import read_result
from fpt_ray.search.attributes import result_of
from fpt_ray.search.optuna_study import open_study
from fpt_ray.tracking.server import open_tracking

MEASURED = [
    AtSize(size=size, values={"linear [s]": 2.0 * size, "square [s]": 1e-3 * size**2, "resident [MiB]": 100.0})
    for size in (1, 10, 30, 100)
]
SMALLER = {"features.resolution": 64, "side.depth": 1, "training.batch_size": 2}
BEYOND = AtSize(size=1000, values={"linear [s]": 2000.0, "resident [MiB]": 0.0})


def test_exponents_are_fitted_over_the_last_decade():
    assert exponent([1, 10, 100, 1000], [9, 9, 4 * 100**1.5, 4 * 1000**1.5]) == pytest.approx(1.5)
    assert math.isnan(exponent([10], [1.0]))


def test_the_table_has_a_row_for_each_size_and_the_exponents():
    lines = grow_text(AXES["trials"], [*MEASURED, BEYOND]).splitlines()
    assert lines[0].split()[:3] == ["trials", "in", "a"]
    assert lines[-3].split() == ["exponent", "1.00", "2.00", "0.00"]
    assert lines[-4].split() == ["1,000", "2e+03", "-", "0"]
    assert lines[-5].split() == ["100", "200", "10", "100"]


def test_the_picture_is_small(tmp_path):
    path = tmp_path / "grow.png"
    draw_grow(AXES["trials"], [*MEASURED, BEYOND], path)
    with Image.open(path) as picture:
        assert picture.size[0] == 900
        assert picture.info["Title"] == "How cost grows with trials in a study"
    assert path.stat().st_size < 100_000


def test_a_made_study_grows_and_mlflow_and_the_journal_hold_the_same(tmp_path):
    made = begin_study(tmp_path)
    study = open_study(SPACE, made.run.name, made.location, resume=True)
    add_trials(made, study, 3)
    add_trials(made, study, 4)
    result = read_result(open_tracking(made.tracking_uri), made.run.name, made.tracking_uri, str(tmp_path))
    trials = study.get_trials()
    assert [record.number for record in result.trials] == list(range(7))
    assert [record.complete for record in result.trials] == [True] * 7
    for record, trial in zip(result.trials, trials, strict=True):
        assert [record.metrics[name] for name in SPACE.objectives] == pytest.approx(trial.values)
        assert record.metrics == pytest.approx(result_of(trial))
        assert record.values == trial.params
        assert {name: record.params[name] for name in trial.params} == {
            name: str(value) for name, value in trial.params.items()
        }
    assert 0 < len(result.front) < 7


# --- stores and images ----------------------------------------------------------------------------------------------


def test_peak_memory_is_what_was_held_at_most_and_no_more():
    values = {}
    with peak_memory(values, "held"):
        np.ones(64 * 2**20, np.uint8).sum()
    assert 60 < values["held [MiB]"] < 80
    with peak_memory(values, "held"):
        pass
    assert values["held [MiB]"] < 5


def test_an_epoch_of_a_made_store_reads_every_whole_batch_of_its_rows(tmp_path):
    table = made_table(60)
    assert {split: len(table.of(split)) for split in ("train", "val", "test")} == {"train": 52, "val": 4, "test": 4}
    spec = small_spec()
    low = [np.zeros((60, side, side, 3), np.uint8) for side in spec.low_resolutions]
    fill_store(str(tmp_path), spec, table, lambda images: [pixels[: len(images)] for pixels in low], 25)
    features = join(open_store(str(tmp_path)), table)
    assert [shard.rows for shard in features.shards] == [25, 25, 10]
    assert read_epoch(features, stores.SMALL) == 48


def test_an_index_alone_opens_as_that_of_a_store_does(tmp_path):
    write_index_alone(str(tmp_path), 1100)
    store = open_store(str(tmp_path))
    assert (store.num_rows, len(store.shards), len(read_index(store).hashes)) == (1100, 3, 1100)


def test_beyond_what_is_written_a_store_is_opened_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "MOST_WRITTEN", 40)
    whole, alone = measure_rows(tmp_path, (40, 80))
    names = {"write the rows [s]", "open with its index [s]", "join the table [s]", "an epoch's reading [s]"}
    assert names < set(whole.values)
    assert set(alone.values) == {"open with its index [s]", "open with its index [MiB]"}
    assert not any(Path(tmp_path).iterdir())


def test_shards_divide_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "SHARDS_OF_ROWS", 40)
    found = []
    monkeypatch.setattr(stores, "fill_store", lambda *given: found.append(given[-1]) or fill_store(*given))
    list(AXES["shards"].measure(tmp_path, (1, 3)))
    assert found == [40, 14]


@pytest.mark.slow
@pytest.mark.parametrize(("axis", "sizes"), [("resolution", (32, 64)), ("ratio", (10, 50))])
def test_what_an_image_and_a_step_take_grows_with_their_arithmetic(tmp_path, monkeypatch, axis, sizes):
    monkeypatch.setattr(images, "SMALL", override(images.SMALL, SMALLER))
    first, second = AXES[axis].measure(tmp_path, sizes)
    assert (first.size, second.size) == sizes
    assert {name.rpartition("[")[2] for name in first.values} == {"s]", "MiB]", "GFLOP]"}
    for name in ("a training step [GFLOP]", "a training step on a GPU, predicted [MiB]"):
        assert second.values[name] >= first.values[name] > 0
    assert second.values["a training step [GFLOP]"] > first.values["a training step [GFLOP]"]
    if axis == "resolution":
        assert second.values["extract an image [GFLOP]"] > 3 * first.values["extract an image [GFLOP]"]
