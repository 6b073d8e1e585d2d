"""Rows from a host's disk and from a device against those of the store's files; the choice of a place by hand."""

import os
import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from ray.exceptions import TaskUnschedulableError

from fpt_ray.config.trial import trial_from
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import join
from fpt_ray.features.places import GroupsAtHand
from fpt_ray.features.spec import StoreError
from fpt_ray.features.store import open_store
from fpt_ray.reading import host_disk, places
from fpt_ray.reading.host_disk import HostDisk, mapped_groups, room_on_disk
from fpt_ray.reading.of_each import RowsOfEach
from fpt_ray.reading.on_device import RowsOnDevice
from fpt_ray.reading.places import Reading, Room, choose_places, rows_of_trials
from fpt_ray.storage import local
from fpt_ray.storage.errors import FullError
from fpt_ray.train.buffers import Kept
from tests.conftest import SMALL
from tests.stores import (
    cut_of,
    make_spec,
    make_store,
    make_table,
    rows_from_files,
    rows_in_memory,
    rows_on_device,
    rows_on_disk,
)

CUT = cut_of((3, 5), 7)
GIGABYTE = 10**9


def same(one, other, ids):
    one, other = (rows.take(np.array(ids)) for rows in (one, other))
    for name in ("low_res", "keys", "values", "labels"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine is theirs is None or torch.equal(mine, theirs)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("cut", [CUT, cut_of((), 0)])
def test_rows_of_a_worker_are_the_same_from_every_place(tmp_path, dtype, cut):
    features, _ = make_store(tmp_path / "store", make_spec(dtype=dtype))
    for read in (rows_on_device, partial(rows_on_disk, folder=tmp_path / "disk")):
        same(read(features, "val", cut), rows_from_files(features, "val", cut), [10, 0, 7])
    share = rows_from_files(features, "train", cut).within(range(3, 8))
    held = RowsOnDevice(share, torch.device("cpu"))
    assert held.row_ids.tolist() == [3, 4, 5, 6, 7]
    same(held, share, [7, 3])
    assert np.array_equal(held.labels, share.labels)
    one = share.take([3])
    assert held.device_bytes == 5 * sum(kind.nbytes for kind in (one.low_res, one.keys, one.values) if kind is not None)


@pytest.mark.parametrize("kind", [rows_from_files, rows_in_memory, rows_on_device])
def test_networks_that_read_other_blocks_find_their_own(tmp_path, kind):
    """In one batch, in memory that is kept for it, as each finds them by itself."""
    features, _ = make_store(tmp_path / "store", make_spec())
    features.splits["val"] = replace(features.splits["val"], weights=np.arange(11, dtype=np.float32))
    first, second = kind(features, "val", CUT), kind(features, "val", cut_of((2, 4), 7))
    together, kept = RowsOfEach([first, second, first]), Kept()
    for ids in ([3, 4, 0, 10, 4, 1], [5, 6, 7]):
        batch = together.take(np.array(ids), kept)
        each = zip((first, second, first), np.split(np.array(ids), 3), strict=True)
        parts = [reader.take(own) for reader, own in each]
        for name, axis in (("low_res", 0), ("keys", 1), ("values", 1), ("labels", 0), ("weights", 0)):
            assert torch.equal(getattr(batch, name), torch.cat([getattr(part, name) for part in parts], axis)), name
        assert batch.summaries is None
        if kind is not rows_on_device:
            assert batch.keys.data_ptr() == kept("keys", (1,), torch.float16).data_ptr(), "copied once"
    assert (len(together), together.row_ids.tolist()) == (11, list(range(11)))
    assert together.device_bytes == first.device_bytes + second.device_bytes


def test_trials_read_what_is_theirs_together_where_it_is_the_same(tmp_path):
    features, _ = make_store(tmp_path / "store", make_spec(backbone=SMALL, backbone_depth=12, num_tokens=197))
    fixed = {"method": "probe", "backbone.name": SMALL, "features.token_ratio": 0.1, "side.depth": 2}
    probes = [trial_from({**fixed, "side.blocks": blocks}) for blocks in ("2,3", "4,5", "2,3")]
    read = partial(rows_of_trials, split="train", reading=Reading(), device=torch.device("cpu"))
    rows = read(probes, [features] * 3)
    assert [one.cut.blocks for one in rows.readers] == [(2, 3), (4, 5), (2, 3)]
    assert rows.readers[0] is rows.readers[2]
    assert read(probes[::2], [features] * 2).cut.blocks == (2, 3)


def test_trials_whose_blocks_are_in_several_stores_read_each_its_own(tmp_path):
    """Of one image table; each store has some of the blocks, and rows in shards of its own."""
    spec = partial(make_spec, backbone=SMALL, backbone_depth=12, num_tokens=197)
    stores = [
        make_store(tmp_path / str(number), spec(blocks=blocks), per_shard=3 + number)[0]
        for number, blocks in enumerate(((2, 3), (4, 5)))
    ]
    fixed = {"method": "probe", "backbone.name": SMALL, "features.token_ratio": 0.1, "side.depth": 2}
    probes = [trial_from({**fixed, "side.blocks": blocks}) for blocks in ("2,3", "4,5")]
    rows = rows_of_trials(probes, stores, "train", Reading(), torch.device("cpu"))
    batch = rows.take(np.array([7, 0, 3, 10]))
    kept = rows.readers[0].cut.num_kept
    for at, (store, blocks, ids) in enumerate(zip(stores, ((2, 3), (4, 5)), ([7, 0], [3, 10]), strict=True)):
        own = rows_from_files(store, "train", cut_of(blocks, kept)).take(np.array(ids))
        for name in ("keys", "values"):
            assert torch.equal(getattr(batch, name)[:, 2 * at : 2 * at + 2], getattr(own, name)), name
        assert batch.labels.tolist()[2 * at : 2 * at + 2] == own.labels.tolist()


def test_of_a_shard_some_rows_are_held():
    """By hand: rows 1, 4 and 6 of shard 0, row 2 of shard 5."""
    few, one = {"name": np.arange(3)}, {"name": np.arange(1)}
    place = GroupsAtHand({0: (np.array([1, 4, 6]), few), 5: (np.array([2]), one)})
    found = place.groups(np.array([0, 5, 0]), np.array([6, 2, 1]))
    assert [(each.group, each.at.tolist(), each.rows.tolist()) for each in found] == [
        (few, [0, 2], [2, 0]),
        (one, [1], [0]),
    ]


def test_a_file_on_a_hosts_disk_is_written_once_and_whole(tmp_path, monkeypatch):
    features, _ = make_store(tmp_path / "store", make_spec())
    read = partial(rows_on_disk, features, "train", CUT, tmp_path / "disk")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        read()
    assert not [*(tmp_path / "disk").rglob("*.arrow"), *(tmp_path / "disk").rglob("*.tmp")]
    monkeypatch.undo()
    read()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "disk").rglob("*.arrow")}
    assert len(written) == 3
    for shard in (tmp_path / "store").rglob("*.parquet"):
        shard.unlink()
    same(read(), read(), range(11))
    assert written == {path: path.stat().st_mtime_ns for path in written}
    with pytest.raises(StoreError, match="missing"):
        rows_on_disk(features, "train", cut_of((2,), 7), tmp_path / "disk")
    assert (tmp_path / "disk").stat().st_mode & 0o777 == 0o700


def test_a_hosts_disk_takes_no_more_than_its_limit(tmp_path):
    features, _ = make_store(tmp_path / "store", make_spec())
    wanted = features.rows_by_shard(["train"])
    one = sum(path.stat().st_size for path in _files(features, CUT, wanted, tmp_path / "a", 2**30)[:1])
    with pytest.raises(FullError, match=r"and may hold 0.00; free space, give another folder, or read=stream"):
        _files(features, CUT, wanted, tmp_path / "b", one + 10)
    assert len([*(tmp_path / "b").rglob("*.arrow")]) == 1


def test_what_a_dead_writer_left_takes_room_until_its_file_is_written(tmp_path):
    features, _ = make_store(tmp_path / "store", make_spec())
    wanted = features.rows_by_shard(["train"])
    files = _files(features, CUT, wanted, tmp_path / "disk", 2**30)
    size = sum(file.stat().st_size for file in files)
    left = files[0].with_suffix(".0f.tmp")
    files[0].rename(left)
    with left.open("ab") as file:
        file.write(bytes(5000))
    part, folder = host_disk.part_of(features, CUT), str(tmp_path / "disk")
    free, whole = room_on_disk(folder, ["another"])
    assert whole - free == size + 5000
    assert _files(features, CUT, wanted, tmp_path / "disk", size) == files  # what is left is in nobody's way
    assert not [*(tmp_path / "disk" / part).glob("*.tmp")]


def test_a_folder_that_another_driver_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    features, _ = make_store(tmp_path / "store", make_spec())
    written, before = [], host_disk._write

    def write(file, *others):
        if not written:
            host_disk.remove_folder(str(tmp_path / "disk"))
        written.append(file.name)
        before(file, *others)

    monkeypatch.setattr(host_disk, "_write", write)
    files = _files(features, CUT, features.rows_by_shard(["train"]), tmp_path / "disk", 2**30)
    assert [file.name for file in files] == sorted(set(written))
    assert len(written) == len(files) + 1


def test_what_is_no_disk_has_no_room(tmp_path, monkeypatch):
    """A temporary file system, as ``/tmp`` often is: what is written there fills memory."""
    device = os.stat(tmp_path).st_dev
    kinds = tmp_path / "mountinfo"
    monkeypatch.setattr(local, "_MOUNTS", kinds)
    assert room_on_disk(str(tmp_path), ["a"])[0] > 0  # it is not known
    line = f"36 35 {os.major(device)}:{os.minor(device)} / {tmp_path} rw,noatime master:1 - {{}} none rw\n"
    for kind, has_room in (("ext4", True), ("tmpfs", False)):
        kinds.write_text("25 24 0:9999 / /dev/shm rw - tmpfs tmpfs rw\n" + line.format(kind))
        assert (room_on_disk(str(tmp_path), ["a"])[0] > 0) == has_room


def test_what_is_written_already_takes_no_room_twice(tmp_path, monkeypatch):
    """Of 1,000 bytes free and 300 written, 200 of them of the same slice, features may fill 80 %."""
    monkeypatch.setattr(host_disk.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(5000, 4000, 1000))
    assert room_on_disk(str(tmp_path / "none"), ["mine/a"]) == (800, 800)
    for name, size in (("mine/a/1.arrow", 200), ("others/b/2.arrow", 100), ("mine/a/1.lock", 50)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert room_on_disk(str(tmp_path), ["mine/a"]) == (1040 - 100, 1040)
    features, _ = make_store(tmp_path / "store", make_spec())
    _files(features, CUT, features.rows_by_shard(["train"]), tmp_path / "disk", 2**30)
    assert [*(tmp_path / "disk" / host_disk.part_of(features, CUT)).glob("*.arrow")]


def _files(features, cut, wanted, folder, limit):
    mapped_groups(HostDisk(folder=str(folder), kept=True, limit_bytes=limit), features, cut, wanted)
    return sorted(folder.rglob("*.arrow"))


def test_a_folder_of_another_user_is_not_written_to(tmp_path, monkeypatch):
    features, _ = make_store(tmp_path / "store", make_spec())
    monkeypatch.setattr(host_disk.os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    with pytest.raises(ConfigError, match="is of the user number"):
        rows_on_disk(features, "train", CUT, tmp_path / "disk")


ROOM = Room(gpu=2, memory=10, disk=100)


@pytest.mark.parametrize(
    ("size", "room", "on_gpu", "place", "why"),
    [
        (2, ROOM, True, "memory", "a GPU may hold 2.00 GB"),
        (3, ROOM, False, "memory", "shared memory may hold 10.00 GB"),
        (11, ROOM, False, "disk", "shared memory may hold only 10.00 GB, the disk 100.00 GB"),
        (101, ROOM, False, "stream", "shared memory may hold only 10.00 GB, and the disk 100.00 GB"),
        (11, Room(gpu=20, memory=10, disk=100), True, "disk", "a GPU may hold 20.00 GB"),
        (1, Room(gpu=0, memory=10, disk=100), False, "memory", "shared memory may hold 10.00 GB"),
    ],
)
def test_the_first_place_that_has_room_is_taken(size, room, on_gpu, place, why):
    room = Room(gpu=room.gpu * GIGABYTE, memory=room.memory * GIGABYTE, disk=room.disk * GIGABYTE)
    assert choose_places("auto", size * GIGABYTE, room) == (on_gpu, place, why)


def test_a_place_that_is_asked_for_is_taken_or_refused():
    for asked, found in (
        ("gpu", (True, "memory")),
        ("memory", (False, "memory")),
        ("disk", (False, "disk")),
        ("stream", (False, "stream")),
    ):
        assert choose_places(asked, 2, ROOM) == (*found, "as asked")
    for asked, size in (("gpu", 3), ("memory", 11), ("disk", 101)):
        with pytest.raises(ConfigError, match=f"read is {asked}, but .* may be filled there; take another place"):
            choose_places(asked, size, ROOM)
    with pytest.raises(ConfigError, match="there is no gpu"):
        choose_places("gpu", 2, Room(gpu=0, memory=10, disk=100))


def test_a_store_that_is_made_later_joins_the_others_where_they_are(tmp_path, monkeypatch):
    features, _ = make_store(tmp_path / "store", make_spec())
    monkeypatch.setattr(places, "share_rows", lambda store, cut: {0: (store.uri, cut)})
    before = Reading(shared={"other": {0: "rows"}}, cuts={features.uri: CUT}, in_memory=True)
    assert before.with_store(features).shared == {"other": {0: "rows"}, features.uri: {0: (features.uri, CUT)}}
    on_disk = replace(before, shared={}, in_memory=False)
    assert on_disk.with_store(features) is on_disk


def test_the_weight_of_an_image_is_read_with_it_from_every_place(tmp_path):
    """By its content hash, in a worker's share too; without weights there are none."""
    features, _ = make_store(tmp_path / "store", make_spec(), rows=7)
    cut, table = cut_of([2], 3), make_table(7)
    assert rows_from_files(features, "val", cut).take([0]).weights is None
    weights = np.arange(1, len(table) + 1, dtype=np.float32) / 8
    features = join(open_store(features.uri), replace(table, weights=weights))
    known = {table.row(at).sha256: float(weight) for at, weight in enumerate(weights)}
    wanted = [known[digest.hex()] for digest in map(bytes, features.splits["val"].hashes)]
    readers = [read(features, "val", cut) for read in (rows_from_files, rows_in_memory, rows_on_device)]
    for rows in (*readers, rows_on_disk(features, "val", cut, tmp_path / "disk")):
        found = rows.take(np.array([5, 2, 6])).weights
        assert found is not None
        assert found.tolist() == [wanted[at] for at in (5, 2, 6)]
    share = readers[0].within(range(3, 7))
    held = RowsOnDevice(share, torch.device("cpu"))
    assert share.take(np.array([4])).weights.tolist() == held.take(np.array([4])).weights.tolist() == [wanted[4]]


def test_a_folder_among_temporary_files_is_where_its_host_has_them(tmp_path, monkeypatch):
    features, _ = make_store(tmp_path / "store", make_spec())
    disk = replace(host_disk.host_disk(None, "study"), limit_bytes=2**30)
    assert not disk.kept
    for host in ("one", "two"):
        (tmp_path / host).mkdir()
        monkeypatch.setattr(host_disk.tempfile, "tempdir", str(tmp_path / host))
        mapped_groups(disk, features, CUT, features.rows_by_shard(["train"]))
        assert [*(tmp_path / host).rglob("*.arrow")]
        assert room_on_disk(disk.folder, [host_disk.part_of(features, CUT)])[0] > 0
    host_disk.remove_folder(disk.folder)
    assert [*(tmp_path / "one").iterdir()]
    assert not [*(tmp_path / "two").iterdir()]


def test_where_nothing_may_be_written_is_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(host_disk.os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    assert room_on_disk(str(tmp_path / "none"), ["a"]) == (0, 0)


@pytest.mark.parametrize(
    ("error", "kept", "stays"),
    [(None, False, False), (FullError("full"), False, False), (KeyboardInterrupt(), False, True), (None, True, True)],
)
def test_what_was_written_to_disks_goes_unless_one_will_go_on(tmp_path, monkeypatch, error, kept, stays):
    monkeypatch.setattr(places, "on_every_host", lambda call: call())
    (tmp_path / "disk").mkdir()
    reading = Reading(disk=HostDisk(folder=str(tmp_path / "disk"), kept=kept), cuts={}, in_memory=False, on_gpu=False)
    with suppress(FullError, KeyboardInterrupt), places.clearing_disks(reading):
        if error is not None:
            raise error
    assert (tmp_path / "disk").exists() == stays


def test_a_host_that_was_lost_at_the_end_ends_no_search_that_has_done_its_work(tmp_path, monkeypatch):
    def lost(call):
        raise TaskUnschedulableError("the host has gone")

    monkeypatch.setattr(places, "on_every_host", lost)
    disk = HostDisk(folder=str(tmp_path), kept=False)
    with places.clearing_disks(Reading(disk=disk, cuts={}, in_memory=False, on_gpu=False)):
        pass
