"""Storage on a real S3 server, through a proxy that fails a fifth of the requests, against the same without faults."""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fpt_ray.cluster import ray_session
from fpt_ray.config.space_yaml import load_space
from fpt_ray.config.trial import override
from fpt_ray.errors import ConfigError
from fpt_ray.features.command import Ls, Rm, Verify, run_features
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.store import open_store
from fpt_ray.images.table import read_images
from fpt_ray.preload.pipeline import preload
from fpt_ray.storage import files as storage
from fpt_ray.storage import s3, s3_client
from fpt_ray.storage.errors import StorageError
from fpt_ray.train.command import Command as TrainCommand
from fpt_ray.train.command import run as run_training
from fpt_ray.train.seeds import assignment_of
from tests.conftest import table_of
from tests.s3_server import BUCKET, SECRET, forget_clients
from tests.seeds import fit_one
from tests.stores import cut_of, draw_images, make_spec, make_store, rows_from_files

ROOT = f"s3://{BUCKET}"
KINDS = ("500", "503", "reset", "cut", "hang")
NEED = load_space(Path(__file__).parents[2] / "search_spaces" / "smoke.yaml").stores()[0]
TRIAL = override(NEED.trial, {"side.resolution": 64})


# --- single requests ------------------------------------------------------------------------------------------


def test_every_kind_of_fault_is_passed_over(faults):
    """Each request of write, read and list fails once; a write whose answer was lost knows its own object again."""
    faults.by_name = True
    contents = {kind: os.urandom(3_000_000) for kind in KINDS}

    def there_and_back(kind):
        storage.write_once(f"{ROOT}/{kind}/{kind}", contents[kind])
        return storage.read_bytes(f"{ROOT}/{kind}/{kind}"), storage.list_files(f"{ROOT}/{kind}")

    with ThreadPoolExecutor(len(KINDS)) as pool:
        for kind, (content, files) in zip(KINDS, pool.map(there_and_back, KINDS), strict=True):
            assert content == contents[kind]
            assert [(file.path, file.bytes) for file in files] == [(kind, 3_000_000)]
            assert faults.made[kind] == 3  # PUT, HEAD, GET


@pytest.mark.parametrize(
    ("request_made", "ask"),
    [
        ("PutObject", lambda uri: storage.write_once(uri, b"x")),
        ("HeadObject", storage.read_bytes),
        ("HeadObject", storage.exists),
        ("ListObjectsV2", storage.list_files),
        ("DeleteObjects", lambda uri: storage.remove(uri, ["x"])),
        ("ListMultipartUploads", storage.abort_uploads),
    ],
)
def test_the_last_error_names_bucket_key_and_request(request_made, ask, faults, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget_clients()
    faults.share = 1.0
    with pytest.raises(StorageError) as caught:
        ask(f"{ROOT}/some/key")
    forget_clients()
    message = str(caught.value)
    for part in (f"bucket {BUCKET}", "key some/key", request_made, "start again"):
        assert part in message
    assert "\n" not in message
    assert SECRET not in message


def test_a_wrong_number_of_attempts_is_refused(monkeypatch, faults):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "many")
    forget_clients()
    with pytest.raises(ConfigError, match="AWS_MAX_ATTEMPTS is 'many'"):
        storage.exists(f"{ROOT}/x")
    forget_clients()


# --- stores ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_store_through_faults_has_the_bytes_and_rows_of_a_local_one(faults, tmp_path):
    local, _ = make_store(tmp_path, make_spec())
    faults.share, faults.seed = 0.2, 28
    remote, _ = make_store(f"{ROOT}/stores/one", make_spec())
    assert remote.shards == local.shards
    cut = cut_of((4, 5), 10)
    ours, theirs = (rows_from_files(store, "val", cut).take(range(11)) for store in (remote, local))
    for kind in ("keys", "values", "low_res", "labels"):
        assert torch.equal(getattr(ours, kind), getattr(theirs, kind))
    assert set(faults.made) == {"", *KINDS}


@pytest.mark.parametrize("where", ["local", "s3"])
def test_stores_are_listed_verified_and_removed(where, faults, tmp_path, capsys):
    root = f"{ROOT}/work-{where}" if where == "s3" else str(tmp_path)
    finished, _ = make_store(f"{root}/features/one", make_spec(aspect="pad"))
    half, _ = make_store(f"{root}/features/two", make_spec(resolution=80))
    manifests = [f"manifest-{number:05d}.json" for number in (3, 2, 1)]
    storage.remove(half.uri, [*manifests, half.shards[-1].path])
    storage.write(f"{root}/notes.txt", b"kept")
    assert run_features(Ls(uri=root))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(root)] == [finished.uri, half.uri]
    assert "finished    vit_test at 64 px, aspect pad, blocks 2, 3, 4, 5 of 6, 20 of 65 tokens, float16" in lines[1]
    assert "33 rows" in lines[2]
    assert "unfinished" in lines[4]
    assert "30 rows" in lines[5]
    assert run_features(Verify(uri=finished.uri))
    assert "9 shards, all as written" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"no feature store: it holds .*; nothing was removed"):
        run_features(Rm(uri=root))
    uploads = 0
    if where == "s3":
        uploads = 1
        s3_client.client().create_multipart_upload(
            Bucket=BUCKET, Key=f"work-{where}/features/two/shards/00009-0000000000000000.parquet"
        )
    for store, files, aborted in ((finished, 9 + 2 * 3, 0), (half, 8 + 3, uploads)):
        assert run_features(Rm(uri=store.uri))
        told = capsys.readouterr().out
        assert f"removed {store.uri}: {files} files" in told
        assert ("aborted 1 unfinished upload" in told) == bool(aborted)
    assert [file.path for file in storage.list_files(root)] == ["notes.txt"]
    with pytest.raises(ConfigError, match="there is nothing"):
        run_features(Rm(uri=finished.uri))


def test_a_killed_removal_leaves_an_unfinished_store(faults, monkeypatch):
    store, _ = make_store(f"{ROOT}/killed", make_spec())
    remove = s3.remove

    def killed(uri, paths):
        if not any("manifest" in path for path in paths):
            raise KeyboardInterrupt
        remove(uri, paths)

    monkeypatch.setattr(s3, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        run_features(Rm(uri=store.uri))
    with pytest.raises(ConfigError, match="no finished feature store"):
        open_store(store.uri)
    monkeypatch.undo()


# --- images, preload and training -----------------------------------------------------------------------------


def upload(folder, uri):
    for file in storage.list_files(folder):
        storage.write(f"{uri}/{file.path}", storage.read_bytes(f"{folder}/{file.path}"))
    return uri


def test_tables_and_folders_on_s3_are_those_of_a_disk(faults, tmp_path):
    folder = draw_images(tmp_path / "set", (2, 1, 1))
    rows = [f"{row.path},c{row.label},{row.split}" for row in read_images(folder).rows()]
    (tmp_path / "set" / "table.csv").write_text("\n".join(["path,label,split", *rows]))
    remote = upload(folder, f"{ROOT}/images/set")
    for source in ("", "/table.csv"):
        local, found = read_images(f"{folder}{source}"), read_images(f"{remote}{source}")
        assert dataclasses.replace(found, root=local.root) == local
        assert found.root == remote
    with pytest.raises(ConfigError, match="neither a folder nor"):
        read_images(f"{ROOT}/images/none")


@pytest.mark.slow
def test_preload_and_training_through_faults_end_as_without(faults, tmp_path, capsys):
    """Shards byte for byte, losses and AUCs to the last digit; and Ray Train's own run and checkpoints on S3."""
    images = draw_images(tmp_path / "images", (3, 1, 1))
    remote_images = upload(images, f"{ROOT}/study/images")
    trial = override(TRIAL, {"training.epochs": 2})
    with ray_session(local=True, num_cpus=2):
        local = preload(images, NEED, str(tmp_path))
        faults.share, faults.seed = 0.2, 7
        remote = preload(remote_images, NEED, f"{ROOT}/study/work")
        ours, theirs = (numbers_of(trial, store) for store in (remote, local))
        assert sum(faults.made.values()) > faults.made[""] + 10
        faults.__init__()
        run_training(
            TrainCommand(images=table_of(remote), features=remote.uri, workdir=f"{ROOT}/study/work", trial=trial)
        )
    assert [contents(store) for store in (remote, local)] == [contents(local)] * 2
    assert ours == theirs
    assert f"val  AUC {ours[-1][1]:.4f}" in capsys.readouterr().out
    assert any(file.path.endswith("checkpoint.pt") for file in storage.list_files(f"{ROOT}/study/work/runs"))


def contents(store):
    return {shard.path: (shard.bytes, shard.sha256) for shard in store.shards}


def numbers_of(trial, store):
    """Loss and best AUC of every epoch of training on rows as they are streamed from the store."""
    rows = {split: rows_from_files(store, split, trial_slice(trial, store.spec)) for split in ("train", "val")}
    progress = fit_one(trial, 1, rows, assignment_of(store, torch.device("cpu")), identity="", started=0.0)
    return [(epoch.train_loss, epoch.best_val_score) for one in progress for epoch in one.epochs]
