"""The feature store on real Parquet files: slices against the arrays they were cut from, damage against its error."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from fpt_ray.config.trial import trial_from
from fpt_ray.features.rows import MemorySource, rows_from_files, rows_from_tables
from fpt_ray.features.shards import existing_shard, open_shard, shard_table, write_shard
from fpt_ray.features.spec import Slice, StoreError, bytes_per_row, column_widths, store_spec
from fpt_ray.features.store import open_store, write_manifest
from fpt_ray.images.table import ImageRow
from fpt_ray.storage.errors import ExistsError
from tests.stores import make_features, make_rows, make_spec, make_store

PAPER = make_spec(
    depth=6, num_kept=205, low_resolution=128, backbone_depth=12, num_heads=12, head_width=64, num_tokens=1025
)


def tables_of(store, split, cut):
    return [pq.read_table(uri, columns=store.columns(cut)) for uri in store.shard_uris(split)]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("cut", [(4, 20), (2, 10), (1, 7), (3, 1), (0, 20)])
def test_a_slice_is_a_suffix_of_layers_and_a_prefix_of_tokens(dtype, cut, tmp_path):
    store, arrays = make_store(tmp_path, make_spec(dtype=dtype))
    cut = Slice(depth=cut[0], num_kept=cut[1])
    features, low = arrays["train"]
    asked = [9, 0, 5, 3]
    for rows in (
        rows_from_files(store, "train", cut, 8),
        rows_from_tables(tables_of(store, "train", cut), store.spec, cut, 8),
    ):
        batch = rows.take(asked)
        assert np.array_equal(batch.low_res.numpy(), low[asked])
        assert batch.labels.tolist() == [row % 2 for row in asked]
        assert rows.labels.tolist() == [row % 2 for row in range(11)]
        if cut.depth == 0:
            assert batch.keys is None
            continue
        for read, whole in ((batch.keys, features.keys), (batch.values, features.values)):
            assert read.is_contiguous()
            assert torch.equal(read, whole[4 - cut.depth :, asked, :, : cut.num_kept])


def test_tokens_are_stored(tmp_path):
    store, arrays = make_store(tmp_path, make_spec())
    table = pq.read_table(store.shard_uris("train")[1], columns=["tokens_03"])
    found = np.frombuffer(table["tokens_03"][2].as_py(), np.uint16).reshape(2, 20)
    assert np.array_equal(found, arrays["train"][0].tokens[1, 6].numpy())  # block 3 is the second stored, row 4 + 2


def test_a_part_of_a_split_will_do(tmp_path):
    store, arrays = make_store(tmp_path, make_spec())
    cut = Slice(depth=4, num_kept=20)
    rows = rows_from_tables([tables_of(store, "train", cut)[1].slice(1, 2)], store.spec, cut, 8)
    assert rows.row_ids.tolist() == [5, 6]
    assert torch.equal(rows.take([6]).keys, arrays["train"][0].keys[:, [6]])


def test_a_workers_share_leaves_the_rows_it_is_of_as_they_are(tmp_path):
    store, arrays = make_store(tmp_path, make_spec())
    whole = rows_from_files(store, "train", Slice(depth=1, num_kept=3), 8)
    share = whole.within(range(2, 8)).within(range(5, 11))
    assert share.row_ids.tolist() == [5, 6, 7]
    assert share.labels.tolist() == [1, 0, 1]
    assert torch.equal(share.take([6]).keys, arrays["train"][0].keys[3:, [6], :, :3])
    assert whole.row_ids.tolist() == list(range(11))
    assert len(whole.labels) == 11


def test_views_share_memory_with_arrow(tmp_path):
    store, _ = make_store(tmp_path, make_spec())
    (table, *_) = tables_of(store, "train", Slice(depth=1, num_kept=3))
    group, _ = MemorySource([table], column_widths(store.spec)).find(0)
    column = table.column("keys_05_0000").chunk(0)
    assert np.shares_memory(group.cells["keys_05_0000"], np.frombuffer(column.buffers()[1], np.uint8))


def test_side_resolution_is_resized_from_the_widest(tmp_path):
    store, _ = make_store(tmp_path, make_spec())
    assert rows_from_files(store, "val", Slice(depth=0, num_kept=1), 4).take([0, 1]).low_res.shape == (2, 4, 4, 3)


class Counting:
    """A file that counts the bytes really read."""

    def __init__(self, path):
        self.file, self.bytes = open(path, "rb"), 0  # noqa: SIM115

    closed = property(lambda self: self.file.closed)

    def read(self, number=-1):
        found = self.file.read(number)
        self.bytes += len(found)
        return found

    def __getattr__(self, name):
        return getattr(self.file, name)


def bytes_read(uri, columns):
    file = Counting(uri)
    pq.ParquetFile(pa.PythonFile(file, mode="r"), pre_buffer=False).read(columns=columns)
    file.file.close()
    return file.bytes


def test_half_the_ratio_and_half_the_depth_read_under_30_percent(tmp_path):
    rows = 3
    table = shard_table(
        make_rows("train", rows), 0, np.zeros((rows, 128, 128, 3), np.uint8), make_features(PAPER, rows), PAPER
    )
    entry = write_shard(f"{tmp_path}/train/part-00000.parquet", "train", table, PAPER)
    write_manifest(str(tmp_path), PAPER, ("a", "b"), [entry])
    store = open_store(str(tmp_path))
    (uri,) = store.shard_uris("train")
    whole = bytes_read(uri, store.columns(Slice(depth=6, num_kept=205)))
    half = bytes_read(uri, store.columns(Slice(depth=3, num_kept=102)))
    assert half <= 0.30 * whole


def test_a_row_at_the_papers_setting_takes_at_most_4_mb(tmp_path):
    rows = 8
    table = shard_table(
        make_rows("train", rows), 0, np.zeros((rows, 128, 128, 3), np.uint8), make_features(PAPER, rows), PAPER
    )
    entry = write_shard(f"{tmp_path}/train/part-00000.parquet", "train", table, PAPER)
    assert bytes_per_row(PAPER) <= entry.bytes / rows <= 4.0e6


def test_schema_is_plain_bytes_and_small_row_groups(tmp_path):
    store, _ = make_store(tmp_path, make_spec())
    file = pq.ParquetFile(store.shard_uris("train")[0])
    assert {str(kind) for kind in file.schema_arrow.types if not pa.types.is_fixed_size_binary(kind)} == {
        "int64",
        "string",
    }
    assert {file.metadata.row_group(0).column(i).compression for i in range(file.metadata.num_columns)} == {
        "UNCOMPRESSED"
    }


# --- damage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"), [("weights_digest", "3" * 64), ("resolution", 80), ("mean", (0.1, 0.5, 0.5)), ("num_kept", 21)]
)
def test_another_store_than_asked_names_the_field_and_both_values(field, value, tmp_path):
    store, _ = make_store(tmp_path, make_spec())
    with pytest.raises(StoreError) as error:
        open_store(store.uri, expect=make_spec(**{field: value}))
    for part in (field, repr(value), repr(getattr(store.spec, field)), "preload"):
        assert part in str(error.value)


def edit_manifest(store, **changes):
    path = Path(store.uri, "manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_newer_schema_asks_for_an_update(tmp_path):
    store, _ = make_store(tmp_path, make_spec())
    edit_manifest(store, schema_version=9)
    with pytest.raises(StoreError, match=r"schema_version is 9.*update fpt_ray"):
        open_store(store.uri)


@pytest.mark.parametrize("path", ["../x.parquet", "/etc/passwd", "train/../../x.parquet", "train/./x"])
def test_paths_cannot_leave_the_store(path, tmp_path):
    store, _ = make_store(tmp_path, make_spec())
    shard = {"path": path, "split": "train", "rows": 1, "bytes": 1, "sha256": ""}
    edit_manifest(store, shards=[shard])
    with pytest.raises(StoreError, match="leaves the store"):
        open_store(store.uri)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 2}'])
def test_a_broken_manifest_is_refused(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StoreError, match="is no manifest"):
        open_store(str(tmp_path))


def test_without_a_manifest_there_is_no_store(tmp_path):
    with pytest.raises(StoreError, match=r"no finished feature store.*fpt-ray preload"):
        open_store(str(tmp_path))


# --- writing --------------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    spec = make_spec()
    table = shard_table(make_rows("train", 2), 0, np.zeros((2, 8, 8, 3), np.uint8), make_features(spec, 2), spec)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_shard(f"{tmp_path}/train/part-00000.parquet", "train", table, spec)
    assert [file for _, _, files in os.walk(tmp_path) for file in files] == []


def test_a_finished_shard_is_adopted_only_if_it_holds_what_is_planned(tmp_path):
    store, _ = make_store(tmp_path, make_spec())
    uri = store.shard_uris("train")[0]
    planned = [(i, image.sha256) for i, image in enumerate(make_rows("train", 4))]
    assert existing_shard(uri, "train", planned, store.spec) == store.shards[0]
    for other in (planned[:3], planned[::-1], [(i + 1, digest) for i, digest in planned], [*planned[:3], (3, "other")]):
        assert existing_shard(uri, "train", other, store.spec) is None
    assert existing_shard(uri, "train", planned, make_spec(resolution=80)) is None
    os.truncate(uri, 100)
    assert existing_shard(uri, "train", planned, store.spec) is None
    assert existing_shard(f"{tmp_path}/train/none.parquet", "train", planned, store.spec) is None


def test_a_manifest_is_written_once(tmp_path):
    store, _ = make_store(tmp_path, make_spec())
    write_manifest(store.uri, store.spec, ("a", "b"), store.shards)  # the same again: the first stands
    with pytest.raises(ExistsError, match="exists already"):
        write_manifest(store.uri, store.spec, ("a", "b"), store.shards[1:])
    assert open_store(store.uri) == store


def test_rows_of_the_same_name_in_different_folders_do_not_collide(tmp_path):
    spec = make_spec()
    images = tuple(ImageRow(path=f"train/{c}/1.png", label=0, split="train", sha256=c * 64) for c in "ab")
    features = make_features(spec, 2)
    table = shard_table(images, 0, np.zeros((2, 8, 8, 3), np.uint8), features, spec)
    uri = f"{tmp_path}/train/part-00000.parquet"
    write_shard(uri, "train", table, spec)
    assert open_shard(uri).read(columns=["path"])["path"].to_pylist() == ["train/a/1.png", "train/b/1.png"]


def test_a_spec_names_its_store():
    spec = make_spec()
    assert spec.name.startswith("vit_test-64px-20tok-4layers-")
    names = {
        dataclasses.replace(spec, **change).name
        for change in ({"resolution": 80}, {"images_digest": "2"}, {"mean": (0, 0, 0)}, {})
    }
    assert len(names) == 4


def test_the_spec_of_a_trial_holds_its_digests_and_of_images_alone_nothing_of_the_lpms_settings():
    asked = {"features.importance": "class_token", "features.dtype": "bfloat16", "features.token_ratio": 0.1}
    known = {"weights_digest": "w", "images_digest": "i", "precision": "bfloat16"}
    found = dataclasses.asdict(store_spec(trial_from(asked), **known))
    assert found.items() >= {**known, "importance": "class_token", "dtype": "bfloat16", "depth": 6}.items()
    assert found["num_kept"] == 102  # a tenth of 32 x 32 patches and the class token
    images = [store_spec(trial_from({"method": "lora", **options}), **known) for options in (asked, {})]
    assert images[0] == images[1]
    assert (images[0].depth, images[0].num_kept, images[0].low_resolution) == (0, 0, 512)
