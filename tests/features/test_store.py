"""The feature store on real Parquet files: slices against the arrays they were cut from, damage against its error."""

import dataclasses
import errno
import json
import os
import resource
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fpt_ray.config.preparation import Preparation
from fpt_ray.config.space import need_of
from fpt_ray.config.space_yaml import parse_space
from fpt_ray.config.trial import trial_from
from fpt_ray.errors import ConfigError
from fpt_ray.features import places, verification
from fpt_ray.features import store as stores
from fpt_ray.features.joining import join, missing
from fpt_ray.features.shards import ShardEntry, adopted, damage_as_error, shard_hashes, shard_table, write_shard
from fpt_ray.features.spec import StoreError, bytes_per_row, columns_of, everything, store_spec
from fpt_ray.features.store import add_shards, check_same, empty_store, open_store, read_index, read_manifest
from fpt_ray.features.verification import store_faults
from fpt_ray.features.withdrawal import forget
from fpt_ray.images.table import content_hashes
from fpt_ray.storage.errors import ExistsError
from fpt_ray.storage.files import any_there
from tests.conftest import SMALL
from tests.stores import (
    add_rows,
    cut_of,
    image_table,
    low_res,
    make_features,
    make_rows,
    make_spec,
    make_store,
    make_table,
    part_of,
    rows_from_files,
    rows_in_memory,
    shard_uris,
)

PAPER = make_spec(
    blocks=tuple(range(6, 12)),
    num_kept=205,
    low_resolutions=(128,),
    backbone_depth=12,
    num_heads=12,
    head_width=64,
    num_tokens=1025,
)


# --- reading --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("cut", [((2, 3, 4, 5), 20), ((4, 5), 10), ((5,), 7), ((2, 4), 1), ((3,), 19), ((), 0)])
def test_a_slice_is_any_of_the_blocks_and_a_prefix_of_tokens(dtype, cut, tmp_path):
    features, arrays = make_store(tmp_path, make_spec(dtype=dtype))
    cut = cut_of(*cut)
    extracted, low = arrays["train"]
    asked = [9, 0, 5, 3]
    whole = everything(features.spec)
    for rows in (
        rows_from_files(features, "train", cut),
        rows_in_memory(features, "train", cut),
        rows_in_memory(features, "train", cut, whole),
    ):
        batch = rows.take(asked)
        assert np.array_equal(batch.low_res.numpy(), low[asked])
        assert batch.labels.tolist() == [row % 2 for row in asked]
        assert rows.labels.tolist() == [row % 2 for row in range(11)]
        if not cut.blocks:
            assert batch.keys is None
            continue
        at = [block - 2 for block in cut.blocks]
        for read, stored in ((batch.keys, extracted.keys), (batch.values, extracted.values)):
            assert read.is_contiguous()
            assert torch.equal(read, stored[at][:, asked, :, : cut.num_kept])


def test_tokens_and_summaries_are_stored(tmp_path):
    features, arrays = make_store(tmp_path, make_spec())
    table = pq.read_table(shard_uris(features, "train")[1], columns=["tokens_03", "summaries"])
    found = np.frombuffer(table["tokens_03"][2].as_py(), np.uint16).reshape(2, 20)
    assert np.array_equal(found, arrays["train"][0].tokens[1, 6].numpy())  # block 3 is the second stored, row 4 + 2
    found = np.frombuffer(table["summaries"][2].as_py(), np.float16).reshape(6, 2, 8)
    assert np.array_equal(found, arrays["train"][0].summaries[:, :, 6].numpy())


def test_numbers_of_tokens_do_not_wrap(tmp_path):
    spec = make_spec(num_tokens=70_000)
    extracted = make_features(spec, 2)
    extracted.tokens[...] = 69_999
    images = make_rows("train", 2)
    add_rows(tmp_path, spec, images, extracted, low_res(spec, 2))
    features = join(open_store(str(tmp_path)), image_table(images))
    table = pq.read_table(features.shard_uri(0), columns=["tokens_03"])
    assert set(np.frombuffer(table["tokens_03"][0].as_py(), np.uint32)) == {69_999}


def test_each_listed_side_resolution_is_stored_as_it_is(tmp_path):
    spec = make_spec(low_resolutions=(4, 8))
    extracted, low, images = make_features(spec, 3), low_res(spec, 3), make_rows("val", 3)
    add_rows(tmp_path, spec, images, extracted, low)
    features = join(open_store(str(tmp_path)), image_table(images))
    for side, pixels in zip((4, 8), low, strict=True):
        for read in (rows_from_files, rows_in_memory):
            assert np.array_equal(read(features, "val", cut_of((), 0, side)).take([2, 0]).low_res, pixels[[2, 0]])
    with pytest.raises(StoreError, match="asked of a store that holds"):
        rows_from_files(features, "val", cut_of((), 0, 6))


def test_a_workers_share_leaves_the_rows_it_is_of_as_they_are(tmp_path):
    features, arrays = make_store(tmp_path, make_spec())
    whole = rows_from_files(features, "train", cut_of((5,), 3))
    share = whole.within(range(2, 8)).within(range(5, 11))
    assert share.row_ids.tolist() == [5, 6, 7]
    assert share.labels.tolist() == [1, 0, 1]
    assert torch.equal(share.take([6]).keys, arrays["train"][0].keys[3:, [6], :, :3])
    assert whole.row_ids.tolist() == list(range(11))
    assert len(whole.labels) == 11


def test_row_groups_of_several_rows_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr("fpt_ray.features.shards._ROW_GROUP_BYTES", 2 * bytes_per_row(make_spec()))
    features, arrays = make_store(tmp_path, make_spec(), per_shard=7)
    assert {shard.group_rows for shard in features.shards} == {2}
    cut = cut_of((2, 5), 11)
    for read in (rows_from_files, rows_in_memory):
        found = read(features, "test", cut).take([10, 6, 0, 7]).values
        assert torch.equal(found, arrays["test"][0].values[[0, 3]][:, [10, 6, 0, 7], :, :11])


class Counting:
    """A file that counts the bytes and requests that are really read."""

    def __init__(self, path):
        self.file, self.bytes, self.reads = open(path, "rb"), 0, 0  # noqa: SIM115

    closed = property(lambda self: self.file.closed)

    def read(self, number=-1):
        found = self.file.read(number)
        self.bytes += len(found)
        self.reads += 1
        return found

    def __getattr__(self, name):
        return getattr(self.file, name)


def paper_shard(folder, rows):
    images, spec = make_rows("train", rows), PAPER
    table = shard_table(images, low_res(spec, rows), make_features(spec, rows), spec)
    return write_shard(f"{folder}/shards/x.parquet", table, spec), f"{folder}/shards/x.parquet"


def test_half_the_ratio_and_half_the_depth_read_under_30_percent(tmp_path):
    _, uri = paper_shard(tmp_path, 3)
    sizes = []
    for cut in (everything(PAPER), cut_of(range(9, 12), 102, 128)):
        file = Counting(uri)
        pq.ParquetFile(pa.PythonFile(file, mode="r"), pre_buffer=False).read(columns=columns_of(PAPER, cut))
        file.file.close()
        sizes.append(file.bytes)
    assert sizes[1] <= 0.30 * sizes[0]


def test_a_row_group_takes_at_most_4_requests(tmp_path):
    """Those that are needed to open the file aside."""
    _, uri = paper_shard(tmp_path, 3)
    file = Counting(uri)
    parquet = pq.ParquetFile(pa.PythonFile(file, mode="r"), pre_buffer=True)
    before = file.reads
    parquet.read_row_group(1, columns=columns_of(PAPER, everything(PAPER)))
    assert 1 <= file.reads - before <= 4
    file.file.close()


def test_a_row_at_the_papers_setting_takes_at_most_4_mb(tmp_path):
    entry, _ = paper_shard(tmp_path, 8)
    assert bytes_per_row(PAPER) <= entry.bytes / 8 <= 4.0e6


def test_schema_is_plain_bytes_and_small_row_groups(tmp_path):
    features, _ = make_store(tmp_path, make_spec())
    file = pq.ParquetFile(features.shard_uri(0))
    assert all(pa.types.is_fixed_size_binary(kind) for kind in file.schema_arrow.types)
    assert {file.metadata.row_group(0).column(i).compression for i in range(file.metadata.num_columns)} == {
        "UNCOMPRESSED"
    }
    assert file.schema_arrow.names[:2] == ["sha256", "low_res_0008"]
    assert not {"label", "split", "path"} & set(file.schema_arrow.names)


# --- damage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights_digest", "3" * 64),
        ("resolution", 80),
        ("mean", (0.1, 0.5, 0.5)),
        ("num_kept", 21),
        ("blocks", (1, 2)),
        ("window", (40.0, 400.0)),
    ],
)
def test_another_store_than_asked_names_the_field_and_both_values(field, value):
    with pytest.raises(StoreError) as error:
        check_same(make_spec(), make_spec(**{field: value}), "here")
    for part in (field, repr(value), repr(getattr(make_spec(), field)), "preload"):
        assert part in str(error.value)


@pytest.mark.parametrize("item", dataclasses.fields(Preparation), ids=lambda item: item.name)
def test_every_way_of_preparing_pixels_has_a_store_of_its_own(item):
    others = {"window": (40.0, 400.0), "percentiles": (1.0, 99.0), "intensity": "window", "aspect": "pad"}
    others |= {"resolution": 80, "crop_black": 10, "srgb": True, "reduced_scale": True}
    assert make_spec(**{item.name: others[item.name]}).digest != make_spec().digest


def test_a_store_of_before_there_was_a_choice_is_found(tmp_path):
    """Its digest stands in its name and in every shard; it was written down before the fields were added."""
    assert make_spec().digest == "44a48ccae68651f424a3330d76df1734016b1d4395875defd9b5f7b1b44fd04a"
    made, _ = make_store(tmp_path, make_spec())
    path = Path(made.uri, "manifest-00003.json")
    document = json.loads(path.read_text())
    for item in dataclasses.fields(Preparation):
        if item.name != "resolution":
            del document["spec"][item.name]
    path.write_text(json.dumps(document))
    assert open_store(made.uri).spec == make_spec()


def test_how_pixels_were_prepared_stands_in_the_manifest(tmp_path):
    spec = make_spec(window=(40.0, 400.0), intensity="window", crop_black=7, aspect="pad")
    made, _ = make_store(tmp_path, spec)
    assert open_store(made.uri).spec == spec


def edit_manifest(features, **changes):
    path = Path(features.uri, "manifest-00003.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("version", "remedy"), [(9, "update fpt_ray"), (1, "preload again")])
def test_another_schema_is_refused_by_its_version(version, remedy, tmp_path):
    features, _ = make_store(tmp_path, make_spec())
    edit_manifest(features, schema_version=version)
    with pytest.raises(StoreError, match=rf"schema_version is {version}.*{remedy}"):
        open_store(features.uri)


def test_a_store_of_schema_1_is_refused_by_its_version(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StoreError, match=r"has schema_version 1, this program reads 2; preload again"):
        open_store(str(tmp_path))


@pytest.mark.parametrize("path", ["../x.parquet", "/etc/passwd", "shards/../../x.parquet", "shards/./x"])
@pytest.mark.parametrize("kind", ["shards", "indexes"])
def test_paths_cannot_leave_the_store(kind, path, tmp_path):
    features, _ = make_store(tmp_path, make_spec())
    own = json.loads(Path(features.uri, "manifest-00003.json").read_text())[kind][0]
    edit_manifest(features, **{kind: [own | {"path": path}]})
    with pytest.raises(StoreError, match="leaves the store"):
        open_store(features.uri)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}'])
def test_a_broken_manifest_is_refused(text, tmp_path):
    (tmp_path / "manifest-00001.json").write_text(text)
    with pytest.raises(StoreError, match="is no manifest"):
        open_store(str(tmp_path))


def test_without_a_manifest_there_is_no_store(tmp_path):
    with pytest.raises(StoreError, match=r"no finished feature store.*fpt-ray preload"):
        open_store(str(tmp_path))


def test_a_changed_index_is_refused(tmp_path):
    features, _ = make_store(tmp_path, make_spec())
    (path,) = Path(tmp_path, "index").glob("00002-*")
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=rf"{path.name} was changed since it was written"):
        join(open_store(features.uri), make_table())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_what_cannot_be_read_is_not_called_damaged(number, tmp_path, monkeypatch):
    features, _ = make_store(tmp_path, make_spec())

    def failing(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", failing)
    with pytest.raises(OSError, match=os.strerror(number)) as error:
        rows_from_files(features, "train", cut_of((5,), 3)).take([0])
    assert not isinstance(error.value, ConfigError)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["scandir", "stat"])
def test_what_cannot_be_listed_is_not_called_missing(number, call, tmp_path, monkeypatch):
    make_store(tmp_path, make_spec())

    def failing(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(OSError, match=os.strerror(number)) as error:
            open_store(str(tmp_path))
    assert not isinstance(error.value, ConfigError)


def test_of_files_that_may_not_be_looked_at_none_is_there(tmp_path, monkeypatch):
    """Unlike a store's, images may lie where this user has no business: a table says enough, or each has an error."""
    (tmp_path / "a").touch()

    def failing(number):
        return lambda *_, **__: (_ for _ in ()).throw(OSError(number, os.strerror(number)))

    assert any_there(str(tmp_path), ["a"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", failing(errno.EACCES))
        assert not any_there(str(tmp_path), ["a"])
        patch.setattr(os, "stat", failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            any_there(str(tmp_path), ["a"])


def test_rows_of_an_unfinished_store_are_counted_without_reading_them(tmp_path, monkeypatch):
    make_store(tmp_path, make_spec())
    for manifest in tmp_path.glob("manifest-*"):
        manifest.unlink()
    damaged = next((tmp_path / "shards").iterdir())
    (tmp_path / "shards" / f"00009-{'0' * 16}.parquet").write_bytes(damaged.read_bytes()[:-9])
    monkeypatch.setattr(verification, "read_bytes", None)
    (found,) = verification.find_stores(str(tmp_path))
    assert (found.store, found.why, found.rows) == (None, "unfinished", 33)


def test_too_little_memory_is_not_called_damage():
    with pytest.raises(MemoryError, match="malloc of size 9"), damage_as_error("a shard"):
        raise pa.ArrowMemoryError("malloc of size 9 failed")


def test_a_store_on_a_disk_that_this_host_does_not_see_is_not_to_be_deleted(tmp_path):
    (tmp_path / "store").mkdir()
    for file, said in (
        ("store/shards/a", "store/shards/a is missing; put it back, or delete"),
        ("gone/shards/a", "/gone is not there on the host"),
    ):
        with pytest.raises(StoreError, match=said), damage_as_error(str(tmp_path / file)):
            raise FileNotFoundError


def test_row_groups_are_kept_up_to_a_size(tmp_path, monkeypatch):
    """Of nine of one row each, three."""
    features, _ = make_store(tmp_path, make_spec(), rows=9, per_shard=1)
    rows = rows_from_files(features, "train", cut_of((2,), 3))
    first = rows.place.groups(rows.split.shards[:1], rows.split.rows[:1])
    one = sum(cells.nbytes for cells in first[0].group.values())
    assert rows.place.kept_bytes == one
    monkeypatch.setattr("fpt_ray.features.places._KEPT_BYTES", 3 * one)
    for ids in ([1, 2], range(9), [8]):
        rows.take(ids)
        assert rows.place.kept_bytes == one * len(rows.place.kept)
    assert len(rows.place.kept) == 3


def test_no_file_is_held_open_that_is_not_being_read(tmp_path, monkeypatch):
    monkeypatch.setattr("fpt_ray.features.places._OPEN_SHARDS", 2)
    features, arrays = make_store(tmp_path, make_spec(), rows=24, per_shard=1)
    before = len(os.listdir("/proc/self/fd"))
    rows = rows_from_files(features, "train", cut_of((2,), 5))
    assert len(os.listdir("/proc/self/fd")) == before
    found = rows.take(range(24)).keys
    assert torch.equal(found, arrays["train"][0].keys[[0]][..., :5, :])
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_shards_are_opened_at_once_and_each_once(tmp_path, monkeypatch):
    """On S3 opening one takes requests; rows of as many groups as threads may read stand in a batch."""
    features, arrays = make_store(tmp_path, make_spec(), rows=12, per_shard=4)
    opened, both, before = [], threading.Barrier(2), places.open_shard

    def open_shard(uri, spec):
        opened.append(uri)
        both.wait(timeout=30)
        return before(uri, spec)

    monkeypatch.setattr(places, "open_shard", open_shard)
    monkeypatch.setattr(places, "_KEPT_BYTES", 0)
    rows = rows_from_files(features, "train", cut_of((2,), 5))
    wanted = [int(np.flatnonzero(rows.split.shards == shard)[0]) for shard in (0, 1)]
    found = rows.take(wanted).keys
    assert torch.equal(found, arrays["train"][0].keys[[0]][:, wanted, :, :5])
    assert len(opened) == 2
    rows.take(np.flatnonzero(rows.split.shards < 2))
    assert len(opened) == 2


# --- generations ----------------------------------------------------------------------------------------------


def test_three_generations_give_the_rows_of_one(tmp_path):
    spec = make_spec()
    extracted, low, images = make_features(spec, 9), low_res(spec, 9), make_rows("train", 9)
    table = image_table(images)
    add_rows(tmp_path / "one", spec, images, extracted, low)
    for part in ([8, 1, 4], [0, 5], [2, 3, 6, 7]):
        at = sorted(part)
        add_rows(tmp_path / "three", spec, [images[i] for i in at], part_of(extracted, at), [low[0][at]])
    one, three = (join(open_store(str(tmp_path / name)), table) for name in ("one", "three"))
    assert open_store(three.uri).generation == 3
    cut = cut_of((2, 4), 7)
    asked = [3, 8, 0, 5]
    for read in (rows_from_files, rows_in_memory):
        found, same = (read(features, "train", cut).take(asked) for features in (one, three))
        for name in ("keys", "values", "low_res", "labels"):
            assert torch.equal(getattr(found, name), getattr(same, name)), name
    assert list(store_faults(open_store(three.uri))) == []


def test_two_writers_of_one_generation_both_keep_what_they_wrote(tmp_path):
    spec, uri = make_spec(), str(tmp_path)
    extracted, low, images = make_features(spec, 4), low_res(spec, 4), make_rows("train", 4)
    begun = empty_store(uri, spec)
    add_rows(uri, spec, images[:3], part_of(extracted, [0, 1, 2]), [low[0][:3]])
    table = shard_table(images[2:], [low[0][2:]], part_of(extracted, [2, 3]), spec)
    entry = write_shard(f"{uri}/shards/00001-{'f' * 16}.parquet", table, spec)
    after = add_shards(begun, [(entry, content_hashes(images[2:]))])
    assert after == open_store(uri)
    assert (after.generation, after.num_rows, len(after.shards)) == (2, 4, 2)
    assert read_index(after).shards.tolist() == [0, 0, 0, 1]  # of an image that lies in both, the first counts
    assert add_shards(begun, [(entry, content_hashes(images[2:]))]) == after  # nothing is new


def test_an_index_of_many_generations_becomes_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "_INDEX_FILES", 3)
    spec = make_spec()
    extracted, low, images = make_features(spec, 6), low_res(spec, 6), make_rows("train", 6)
    for row in (5, 0, 3, 1, 4, 2):
        store = add_rows(tmp_path, spec, images[row : row + 1], part_of(extracted, [row]), [low[0][[row]]])
    assert [entry.rows for entry in store.indexes] == [4, 1, 1]
    features = join(store, image_table(images))
    assert torch.equal(
        rows_from_files(features, "train", cut_of((3,), 4)).take(range(6)).keys, extracted.keys[[1], :, :, :4]
    )


def test_labels_splits_names_and_tables_cost_no_image(tmp_path):
    """What is missing is a matter of content alone."""
    features, arrays = make_store(tmp_path, make_spec())
    store, table = open_store(features.uri), make_table()
    whole = table.rows()
    others = {
        "relabelled": [dataclasses.replace(whole[0], label=1), *whole[1:]],
        "split anew": [dataclasses.replace(row, split="train" if row.label else "val") for row in whole],
        "renamed": [dataclasses.replace(row, path=f"moved/{row.path}") for row in whole],
        "fewer": whole[3:20],
        "of groups": [dataclasses.replace(row, group=row.path) for row in whole],
    }
    digests = {table.digest()}
    for rows in others.values():
        other = image_table(rows)
        assert missing(other, store).tolist() == []
        digests.add(join(store, other).table_digest)
    assert len(digests) == 4  # names and groups are no part of what a number depends on
    split = join(store, image_table(others["split anew"]))
    assert split.num_rows("train") == 15
    found = rows_from_files(split, "train", cut_of((2,), 3)).take([5]).keys  # the 6th odd one is the first of val
    assert torch.equal(found, arrays["val"][0].keys[:1, [1], :, :3])
    more = image_table([*whole, *make_rows("train", 10, first=11)])
    assert missing(more, store).tolist() == list(range(33, 43))
    with pytest.raises(StoreError, match=r"lacks 10 of 43 images, such as train/c/11.png"):
        join(store, more)


def test_images_of_one_content_share_a_row(tmp_path):
    features, arrays = make_store(tmp_path, make_spec())
    row = make_rows("train", 1)[0]
    twice = (row, dataclasses.replace(row, path="again.png", split="val", label=1))
    table = image_table(twice)
    found = join(open_store(features.uri), table)
    for split in ("train", "val"):
        rows = rows_from_files(found, split, cut_of((5,), 20))
        assert torch.equal(rows.take([0]).keys, arrays["train"][0].keys[3:, [0]])


def test_opening_a_million_rows_takes_little_time_and_memory(tmp_path):
    """The index is read, no shard; as many as of ViT-tiny at 512 to a shard."""
    rows, per_shard, uri = 1_000_000, 512, str(tmp_path)
    hashes = np.random.default_rng(0).integers(0, 256, (rows, 32), np.uint8)
    entries = []
    (tmp_path / "shards").mkdir()
    for number, first in enumerate(range(0, rows, per_shard)):
        path = f"shards/00001-{number:016x}.parquet"
        os.close(os.open(tmp_path / path, os.O_CREAT | os.O_WRONLY))
        os.truncate(tmp_path / path, 10**6)
        part = hashes[first : first + per_shard]
        entries.append((ShardEntry(path=path, rows=len(part), group_rows=4, bytes=10**6, sha256="0" * 64), part))
    add_shards(empty_store(uri, make_spec()), entries)
    del entries
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    index = read_index(open_store(uri))
    seconds, grown = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    asked = [0, 999_999, 512]
    at = index.find(hashes[asked])
    assert [(index.shards[i], index.rows[i]) for i in at] == [(0, 0), (1953, 63), (1, 0)]
    print(f"{rows:,} rows: {seconds:.2f} s, {grown / 1024:.0f} MiB more")


# --- withdrawal -----------------------------------------------------------------------------------------------


def test_forgotten_images_leave_nothing(tmp_path):
    features, arrays = make_store(tmp_path, make_spec())
    table = make_table()
    gone = [*make_rows("train", 1), *make_rows("train", 2, first=3), *make_rows("test", 3, first=8)]
    assert forget(features.uri, [image.sha256 for image in gone]) == 2  # the last shard of test held these alone
    store = open_store(features.uri)
    assert list(store_faults(store)) == []
    assert (store.generation, store.num_rows) == (4, 27)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    content = b"".join(path.read_bytes() for path in left)
    for image in gone:
        assert bytes.fromhex(image.sha256) not in content
        assert image.sha256.encode() not in content
    assert len(left) == 8 + 2  # shards; the manifest and its index
    rest = image_table([row for row in table.rows() if row not in gone])
    found = rows_from_files(join(store, rest), "train", cut_of((2, 5), 6)).take(range(8)).keys
    kept = [1, 2, 5, 6, 7, 8, 9, 10]
    assert torch.equal(found, arrays["train"][0].keys[[0, 3]][:, kept, :, :6])
    assert missing(table, store).tolist() == [0, 3, 4, 30, 31, 32]


def test_what_is_not_there_cannot_be_forgotten(tmp_path):
    features, _ = make_store(tmp_path, make_spec())
    here = make_rows("train", 1)[0].sha256
    with pytest.raises(StoreError, match=r"does not hold ff+; nothing was removed"):
        forget(features.uri, [here, "f" * 64])
    with pytest.raises(StoreError, match=r"'12' is no SHA-256"):
        forget(features.uri, ["12"])
    assert open_store(features.uri).generation == 3


def test_an_image_that_was_forgotten_can_come_back(tmp_path):
    spec = make_spec()
    extracted, low, images = make_features(spec, 2), low_res(spec, 2), make_rows("train", 2)
    add_rows(tmp_path, spec, images, extracted, low, per_shard=1)
    forget(str(tmp_path), [images[0].sha256])
    store = add_rows(tmp_path, spec, images[:1], part_of(extracted, [0]), [low[0][:1]])
    assert store.num_rows == 2
    assert list(store_faults(open_store(str(tmp_path)))) == []


# --- writing --------------------------------------------------------------------------------------------------


def small_table(spec, rows=2):
    return shard_table(make_rows("train", rows), low_res(spec, rows), make_features(spec, rows), spec)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_shard(f"{tmp_path}/shards/x.parquet", small_table(make_spec()), make_spec())
    assert [file for _, _, files in os.walk(tmp_path) for file in files] == []


def test_a_finished_shard_is_adopted_as_it_is(tmp_path):
    features, _ = make_store(tmp_path, make_spec())
    uri = features.shard_uri(0)
    entry, hashes = adopted(uri, features.spec)
    assert entry == features.shards[0]
    assert np.array_equal(hashes, content_hashes(make_rows("train", 4)))
    assert np.array_equal(shard_hashes(uri, features.spec), hashes)
    assert adopted(uri, make_spec(resolution=80)) is None
    os.truncate(uri, 100)
    assert adopted(uri, features.spec) is None
    assert adopted(f"{tmp_path}/shards/none.parquet", features.spec) is None


def test_a_generation_is_put_once(tmp_path):
    make_store(tmp_path, make_spec())
    store = read_manifest(str(tmp_path))
    earlier = dataclasses.replace(store, generation=2)
    with pytest.raises(ExistsError):
        stores.replaced(earlier, [], [])
    assert read_manifest(str(tmp_path)) == store


def test_an_image_with_a_feature_that_is_not_finite_is_named():
    spec = make_spec()
    for kind in ("keys", "values", "summaries"):
        extracted = make_features(spec, 3)
        getattr(extracted, kind).select(2 if kind == "summaries" else 1, 1)[0].fill_(float("inf"))
        with pytest.raises(StoreError, match=r"^train/c/1\.png: its features hold NaN or infinite values"):
            shard_table(make_rows("train", 3), low_res(spec, 3), extracted, spec)


def test_a_spec_names_its_store():
    spec = make_spec()
    assert spec.name.startswith("vit_test-64px-20tok-4blocks-")
    changes = ({"resolution": 80}, {"blocks": (1, 2, 3, 4)}, {"mean": (0, 0, 0)}, {"low_resolutions": (8, 16)}, {})
    assert len({dataclasses.replace(spec, **change).name for change in changes}) == 5


def test_the_spec_of_a_trial_holds_its_digest_and_of_images_alone_nothing_of_the_lpms_settings():
    asked = {"features.importance": "class_token", "features.dtype": "bfloat16", "features.token_ratio": 0.1}
    known = {"weights_digest": "w", "precision": "bfloat16"}
    found = dataclasses.asdict(store_spec(need_of(trial_from(asked)), **known))
    wanted = {**known, "importance": "class_token", "dtype": "bfloat16", "blocks": (6, 7, 8, 9, 10, 11)}
    assert found.items() >= wanted.items()
    assert found["num_kept"] == 102  # a tenth of 32 x 32 patches and the class token
    images = [store_spec(need_of(trial_from({"method": "lora", **options})), **known) for options in (asked, {})]
    assert images[0] == images[1]
    assert (images[0].blocks, images[0].num_kept, images[0].low_resolutions) == ((), 0, (512,))


def test_a_studys_store_holds_the_union_of_what_its_space_can_ask_for():
    space = parse_space(
        "space:\n  side.blocks: {choices: [last, '0,5', '2,3,4']}\n  side.depth: {choices: [2, 3]}\n"
        "  side.resolution: {choices: [32, 64]}\n  features.token_ratio: {low: 0.1, high: 0.5}\n"
        f"fixed: {{backbone.name: {SMALL}, features.resolution: 96}}"
    )
    (need,) = space.stores()
    spec = store_spec(need)
    assert spec.blocks == (0, 2, 3, 4, 5, 9, 10, 11)
    assert spec.low_resolutions == (32, 64)
    assert spec.num_kept == spec.num_tokens // 2
    assert {(trial.side.blocks, trial.side.depth) for trial in need.trials()} == {("last", 3), ("0,5", 2), ("2,3,4", 3)}


def test_a_studys_store_holds_what_patterns_of_blocks_ask_for_at_every_depth():
    """Of those that nest, the most layers are enough; three layers spread evenly are not among four."""
    space = "space:\n  side.blocks: {choices: [%s]}\n  side.depth: {choices: [3, 4]}\n"
    fixed = f"fixed: {{backbone.name: {SMALL}, features.resolution: 96}}"
    for patterns, blocks in (
        ("last, middle", (4, 5, 6, 7, 8, 9, 10, 11)),
        ("two_thirds", (5, 6, 7, 8)),
        ("even", (2, 3, 5, 7, 8, 11)),
    ):
        (need,) = parse_space(space % patterns + fixed).stores()
        assert store_spec(need).blocks == blocks
    points = "points: {a: {side.blocks: even, side.depth: 3}, b: {side.blocks: middle, side.depth: 1}}\n"
    (need,) = parse_space(points + fixed).stores()
    assert store_spec(need).blocks == (3, 5, 7, 11)
