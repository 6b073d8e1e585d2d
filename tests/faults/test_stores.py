"""The fault table: what happens, what the user reads, what is kept. One test a row, named after it."""

import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from optuna.trial import TrialState

from fpt_ray.config.space_yaml import parse_space
from fpt_ray.errors import ConfigError
from fpt_ray.features import shards
from fpt_ray.features.command import Verify, run_features
from fpt_ray.features.joining import join
from fpt_ray.features.places import read_shard_rows
from fpt_ray.features.shards import shard_table, write_shard
from fpt_ray.features.spec import SCHEMA_VERSION, StoreError
from fpt_ray.features.store import add_shards, empty_store, open_store
from fpt_ray.images.table import content_hashes
from fpt_ray.search.attributes import finished_trials
from fpt_ray.search.journal import one_driver
from fpt_ray.search.messages import unpack_proposal
from fpt_ray.search.optuna_study import open_study
from fpt_ray.search.searcher import StudySearcher
from fpt_ray.storage.errors import ExistsError
from tests.messages import report
from tests.stores import (
    cut_of,
    image_table,
    low_res,
    make_features,
    make_rows,
    make_spec,
    make_store,
    rows_from_files,
    rows_in_memory,
    shard_uris,
)

CUT = cut_of((2, 3, 4, 5), 20)


# --- damaged shards -------------------------------------------------------------------------------------------


def flip(uri):
    """One bit of a byte in the last column of features."""
    column = pq.ParquetFile(uri).metadata.row_group(0).column(30)
    content = bytearray(Path(uri).read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    Path(uri).write_bytes(content)


def read_train(features):
    """As a trial does that streams, and as the task does that fills Ray's memory: the errors of both."""
    told = []
    with pytest.raises(StoreError) as error:
        rows_from_files(features, "train", CUT).take(list(range(11)))
    told.append(str(error.value))
    with pytest.raises(StoreError) as error:
        rows_in_memory(features, "train", CUT).take(list(range(11)))
    return [*told, str(error.value)]


def verify(store, capsys):
    """What ``features verify`` prints; it must find something."""
    assert not run_features(Verify(uri=store.uri))
    return capsys.readouterr().out


def test_a_shard_with_one_flipped_byte(tmp_path, capsys):
    store, _ = make_store(tmp_path, make_spec())
    path = shard_uris(store, "train")[1]
    flip(path)
    for told in read_train(store):
        assert f"{path} is damaged" in told
    assert f"{path} was changed since it was written" in verify(store, capsys)


def test_a_shard_with_any_flipped_byte_is_refused_or_read_as_it_was(tmp_path):
    store, _ = make_store(tmp_path, make_spec(blocks=(5,), num_kept=2, num_heads=1, low_resolutions=(2,)), rows=2)
    uri, cut = shard_uris(store, "train")[0], cut_of((5,), 2, 2)

    def read():
        return {name: cells.tobytes() for name, cells in read_shard_rows(uri, store, cut, np.arange(2))[1].items()}

    whole, content, refused = read(), Path(uri).read_bytes(), 0
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        Path(uri).write_bytes(damaged)
        try:
            assert read() == whole, place
        except StoreError:
            refused += 1
    assert refused > len(content) / 3  # the others lie in what no reader looks at


def test_a_shard_cut_short(tmp_path, capsys):
    store, _ = make_store(tmp_path, make_spec())
    path = shard_uris(store, "train")[0]
    os.truncate(path, os.path.getsize(path) - 10)
    for told in read_train(store):
        assert f"{path} is damaged" in told
    with pytest.raises(StoreError, match=rf"{path} has \d+ bytes, the manifest says \d+"):
        open_store(store.uri)
    assert f"{path} has" in verify(store, capsys)
    os.remove(path)
    for told in read_train(store):
        assert f"{path} is missing" in told
    with pytest.raises(StoreError, match=rf"{path} is missing"):
        open_store(store.uri)
    assert f"{path} is missing" in verify(store, capsys)


def test_a_shard_swapped_with_another_stores(tmp_path, capsys):
    one, _ = make_store(tmp_path / "one", make_spec())
    two, _ = make_store(tmp_path / "two", make_spec(weights_digest="2" * 64))
    path = shard_uris(one, "train")[0]
    os.replace(shard_uris(two, "train")[0], path)
    for told in read_train(one):
        assert f"{path} belongs to another store" in told
    assert f"{path} belongs to another store" in verify(one, capsys)


def test_two_shards_of_a_store_swapped(tmp_path, capsys):
    """A shard is read only where its rows are those that the index says."""
    store, _ = make_store(tmp_path, make_spec())
    first, second, _ = shard_uris(store, "train")
    os.rename(first, f"{tmp_path}/aside")
    os.rename(second, first)
    os.rename(f"{tmp_path}/aside", second)
    for told in read_train(store):
        assert f"{first} holds other images than the index says" in told
    told = verify(store, capsys)
    assert f"{first} holds other images than the index says" in told
    assert f"{second} holds other images than the index says" in told


def test_a_shard_from_a_newer_schema(tmp_path, capsys):
    store, _ = make_store(tmp_path, make_spec())
    path = shard_uris(store, "train")[0]
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, shards.VERSION_KEY: "9"}), path)
    for told in read_train(store):
        said = f"has schema_version 9, this program reads {SCHEMA_VERSION}; update fpt_ray"
        assert f"{path} {said}" in told
    assert "has schema_version 9" in verify(store, capsys)


def test_verify_lists_all_faults_of_a_store(tmp_path, capsys):
    store, _ = make_store(tmp_path, make_spec())
    paths = shard_uris(store, "train")[1], shard_uris(store, "val")[2], shard_uris(store, "test")[0]
    flip(paths[0])
    os.remove(paths[1])
    os.truncate(paths[2], 100)
    told = verify(store, capsys)
    for path in paths:
        assert path in told
    assert "9 shards, 6 faults" in told  # size, sum and content of what was cut; sum and pages of what was flipped


# --- values ---------------------------------------------------------------------------------------------------


def test_nan_in_features(tmp_path, capsys, monkeypatch):
    spec, images = make_spec(), make_rows("train", 2)
    features = make_features(spec, 2)
    features.values[3, 1, 0, 7, 2] = float("nan")
    low = low_res(spec, 2)
    with pytest.raises(StoreError, match=r"train/c/1\.png: its features hold NaN or infinite values as float16"):
        shard_table(images, low, features, spec)
    monkeypatch.setattr(shards, "_check_finite", lambda *given: None)
    entry = write_shard(f"{tmp_path}/shards/00001-{'0' * 16}.parquet", shard_table(images, low, features, spec), spec)
    add_shards(empty_store(str(tmp_path), spec), [(entry, content_hashes(images))])
    told = verify(open_store(str(tmp_path)), capsys)
    assert f"values_05_0006 holds NaN or infinite values in 1 rows ({images[1].sha256[:12]})" in told
    assert "1 shards, 1 faults" in told


class Pickled:
    """Something whose unpickling is seen."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickled_columns_are_refused_on_open(tmp_path, capsys):
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    store, _ = make_store(tmp_path / "store", make_spec())
    path = shard_uris(store, "train")[0]
    table, trace = pq.read_table(path), str(tmp_path / "trace")
    cells = pa.array([pickle.dumps(Pickled(trace))] * table.num_rows, pa.large_binary())
    for name in ("extra", "low_res_0008"):
        column = pa.ExtensionArray.from_storage(ArrowPythonObjectType(), cells)
        hostile = table.drop_columns([name] if name in table.schema.names else []).append_column(name, column)
        pq.write_table(hostile.replace_schema_metadata(table.schema.metadata), path)
        for told in (*read_train(store), verify(store, capsys)):
            assert f"{path} has other columns" in told
            assert f"{name}: extension<ray.data.arrow_pickled_object" in told
    assert not os.path.exists(trace)


# --- two at once ---------------------------------------------------------------------------------------------


def test_two_preloads_of_one_store(tmp_path):
    """The shard that is there is taken, whoever wrote it; one of other images is not taken for it."""
    from fpt_ray.preload.decoded import ShardPlan
    from fpt_ray.preload.extraction import write_or_adopt

    spec, images = make_spec(), make_rows("train", 2)
    plan = ShardPlan(uri=f"{tmp_path}/shards/00001-{'0' * 16}.parquet", path="", images=image_table(images))
    tables = [shard_table(images, low_res(spec, 2), make_features(spec, 2, seed), spec) for seed in (0, 1)]
    first = write_or_adopt(plan, tables[0], spec)
    assert write_or_adopt(plan, tables[1], spec) == first
    with pytest.raises(ExistsError, match="exists already with another content"):
        write_or_adopt(dataclasses.replace(plan, images=image_table(make_rows("val", 2))), tables[1], spec)
    store = add_shards(empty_store(str(tmp_path), spec), [(first, content_hashes(images))])
    features = join(store, image_table(images))
    found = rows_from_files(features, "train", CUT).take([0, 1]).keys
    assert torch.equal(found, make_features(spec, 2, 0).keys)


# --- a study's journal ----------------------------------------------------------------------------------------

ROWS = """
space: {side.num_prompts: {choices: [4, 16]}, features.token_ratio: {low: 0.1, high: 0.3, step: 0.1}}
objectives: {val_auc: max, param_ratio: min}
num_trials: 5
"""


def drive(space, journal, num_trials, *, resume):
    """What ``tune`` does with a study, each trial ending with numbers that follow from its point."""
    with one_driver(str(journal)):
        search = StudySearcher(space, open_study(space, "s", str(journal), resume=resume))
        while finished_trials(search.study) < num_trials:
            asked = search.suggest("a")
            assert isinstance(asked, dict), "the search ended too early"
            auc = 0.5 + unpack_proposal(asked).values["features.token_ratio"]
            search.on_trial_complete("a", report(val_auc=auc, param_ratio=0.01))
        return [trial for trial in search.study.get_trials() if trial.state == TrialState.COMPLETE]


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_sigkill_of_tunes_driver_after_any_entry_of_the_journal_or_within_it(sampler, tmp_path):
    """From every part of an undisturbed search's journal, the resumed one ends with the same trials, each once."""
    space = parse_space(f"{ROWS}\nsampler: {sampler}")
    number = len(space.grid()) if sampler == "grid" else 5
    whole = drive(space, tmp_path / "whole", number, resume=False)
    points = sorted(map(str, (trial.params for trial in whole)))
    assert len(set(points)) == number
    entries = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    for last in range(1, len(entries), 1 if sampler == "grid" else 4):
        journal = tmp_path / f"{last}"
        journal.write_bytes(b"".join(entries[:last]) + entries[last][: last % 3 * 10])
        ended = drive(space, journal, number, resume=True)
        assert len(ended) == number
        assert len({str(trial.params) for trial in ended}) == number
        if sampler == "grid":
            assert sorted(str(trial.params) for trial in ended) == points
        else:
            assert whole[0].params in [trial.params for trial in ended]  # the paper's point


def test_two_studies_with_one_name(tmp_path):
    """The second is refused, with what to do; nothing of the first is touched."""
    space, journal = parse_space(ROWS), tmp_path / "optuna.log"
    drive(space, journal, 2, resume=False)
    before = journal.read_bytes()
    with pytest.raises(ConfigError, match=r"study 's' exists \(.*\); resume it, or choose another name"):
        drive(space, journal, 2, resume=False)
    assert journal.read_bytes() == before
