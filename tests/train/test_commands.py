"""``preload`` and ``train`` as a user runs them, on a real one-node Ray cluster that all tests of this file share.

Two workers are compared with this process alone, a killed preload with an uninterrupted one.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray.train.torch
import torch
from PIL import Image

from fpt_ray.cluster import require_resources
from fpt_ray.config.space_yaml import load_space
from fpt_ray.config.trial import override, trial_from
from fpt_ray.datasets.checking import inspected
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import features_text, join
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.shards import shard_hashes
from fpt_ray.features.spec import StoreError
from fpt_ray.features.store import open_store
from fpt_ray.images.table import read_images
from fpt_ray.preload.pipeline import preload
from fpt_ray.storage.files import list_files
from fpt_ray.train.checkpoint import load_checkpoint
from fpt_ray.train.command import Command as TrainCommand
from fpt_ray.train.command import run as run_training
from fpt_ray.train.loop import NonFiniteLossError
from fpt_ray.train.seeds import assignment_of
from fpt_ray.train.trial import train_trial
from tests.conftest import SMOKE, table_of
from tests.seeds import fit_one
from tests.stores import draw_images, rows_from_files

NEED = load_space(SMOKE).stores()[0]
TRIAL = override(NEED.trial, {"side.resolution": 64})
pytestmark = pytest.mark.usefixtures("cluster")


def rows_of(store):
    """{split: the content hashes of its rows in order} as the files hold them."""
    found = {}
    for split, rows in store.splits.items():
        hashes = {shard: shard_hashes(store.shard_uri(shard), store.spec) for shard in set(rows.shards.tolist())}
        places = zip(rows.shards.tolist(), rows.rows.tolist(), strict=True)
        found[split] = [hashes[shard][place].tobytes().hex() for shard, place in places]
    return found


def hashes_of(images):
    """The same by the images."""
    return {
        split: sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(images, split).rglob("*.png"))
        for split in ("train", "val", "test")
    }


# --- preload --------------------------------------------------------------------------------------------------


def test_preload_stores_every_image_once_and_is_reused(store, images, workdir, capsys):
    rows = rows_of(store)
    assert {split: len(found) for split, found in rows.items()} == {"train": 36, "val": 12, "test": 12}
    assert rows == hashes_of(images)
    assert rows_of(preload(images, NEED, workdir)) == rows
    assert f"all are in the store {store.uri}" in capsys.readouterr().err
    assert [file.path for file in list_files(store.uri) if "manifest" in file.path] == ["manifest-00001.json"]
    again = join(open_store(store.uri), inspected(read_images(table_of(store)), workdir).table)
    assert features_text(again) == features_text(store)
    for split in store.splits:
        assert again.splits[split].labels.tolist() == store.splits[split].labels.tolist()


def extracted(text):
    """How many images were run through the LPM, by what preload said."""
    found = re.search(r"features: (\d+) of \d+ images left", text)
    return int(found[1]) if found else 0


@pytest.mark.slow
def test_labels_splits_and_names_cost_no_extraction_and_a_new_image_costs_one(store, images, workdir, tmp_path, capsys):
    """A corrected label, another split, a renamed folder, the same images in another project, five tables; ten more."""
    whole = read_images(images)
    lines = [(f"{row.path}", f"c{row.label}", row.split) for row in whole.rows()]

    def told(rows, name, folder=images):
        Path(folder, f"{name}.csv").write_text("\n".join(",".join(row) for row in [("path", "label", "split"), *rows]))
        capsys.readouterr()
        found = preload(f"{folder}/{name}.csv", NEED, workdir)
        return extracted(capsys.readouterr().err), found

    count, relabelled = told([(lines[0][0], "c2", lines[0][2]), *lines[1:]], "relabelled")
    assert count == 0
    assert relabelled.table_digest != store.table_digest
    for number in range(5):
        mixed = [
            (path, label, ("train", "val", "test")[(at // 3 + number) % 3]) for at, (path, label, _) in enumerate(lines)
        ]
        assert told(mixed, f"split{number}")[0] == 0
    shutil.copytree(images, tmp_path / "moved" / "deeper")
    assert extracted_by(tmp_path / "moved" / "deeper", workdir, capsys) == 0
    for number in range(10):
        Image.new("RGB", (80, 90), (number, 9, 200)).save(
            tmp_path / "moved" / "deeper" / "train" / "c1" / f"n{number}.png"
        )
    assert extracted_by(tmp_path / "moved" / "deeper", workdir, capsys) == 10
    assert extracted_by(tmp_path / "moved" / "deeper", workdir, capsys) == 0
    assert open_store(store.uri).generation == 2


def extracted_by(images, workdir, capsys):
    capsys.readouterr()
    preload(str(images), NEED, workdir)
    return extracted(capsys.readouterr().err)


def test_a_store_that_is_another_than_its_name_says_is_refused(store, images, tmp_path):
    copy = tmp_path / "features" / Path(store.uri).name
    shutil.copytree(store.uri, copy)
    manifest = max(copy.glob("manifest-*.json"))
    document = json.loads(manifest.read_text())
    document["spec"]["weights_digest"] = "0" * 64
    manifest.write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"weights_digest is '0{64}', asked is"):
        preload(images, NEED, str(tmp_path))


def test_a_store_slice_equals_a_direct_extraction_bit_for_bit(store, images, workdir, tmp_path):
    narrow = override(TRIAL, {"side.depth": 1, "features.token_ratio": 0.1})
    direct = preload(images, narrow, str(tmp_path))
    wide = rows_from_files(store, "train", trial_slice(narrow, store.spec))
    small = rows_from_files(direct, "train", trial_slice(narrow, direct.spec))
    assert direct.spec.blocks == (11,)
    ids = [0, 7, 35]
    for kind in ("keys", "values", "low_res"):
        assert torch.equal(getattr(wide.take(ids), kind), getattr(small.take(ids), kind))


PRELOAD = "import sys; from fpt_ray.preload import pipeline as p; p.SHARD_BYTES = 100_000; "
PRELOAD += "from fpt_ray.config.space_yaml import load_space; "
PRELOAD += "p.preload(sys.argv[1], load_space(sys.argv[3]).stores()[0], sys.argv[2], local=True)"


@pytest.mark.slow
def test_a_killed_preload_goes_on_and_ends_with_the_same_rows(store, images, tmp_path, monkeypatch):
    command = [sys.executable, "-c", PRELOAD, images, str(tmp_path), str(SMOKE)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    shards = tmp_path / "features"
    deadline = time.monotonic() + 300
    while len(list(shards.glob("*/shards/*.parquet"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in shards.glob("*/shards/*.parquet")}
    if not list(shards.glob("*/manifest-*.json")):
        with pytest.raises(StoreError, match="no finished feature store"):
            open_store(str(next(shards.iterdir())))
    monkeypatch.setattr("fpt_ray.preload.pipeline.SHARD_BYTES", 100_000)
    resumed = preload(images, NEED, str(tmp_path))
    assert rows_of(resumed) == rows_of(store)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())
    assert len(resumed.shards) > 5


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is made by mounting a tmpfs, which only root may do")
@pytest.mark.slow
def test_a_full_disk_is_said_and_finished_shards_are_kept(images, tmp_path, monkeypatch):
    trial = override(TRIAL, {"features.dtype": "float32"})
    workdir = tmp_path / "work"
    workdir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(workdir)], check=True)
    try:
        with pytest.raises(ConfigError, match=r"/shards/\S+\.parquet cannot be written .*No space left.*free space"):
            preload(images, trial, str(workdir))
        left = [file for _, _, files in os.walk(workdir / "features") for file in files]
        assert [file for file in left if not file.endswith(".parquet")] == []
        subprocess.run(["mount", "-o", "remount,size=64m", str(workdir)], check=True)
        assert len(rows_of(preload(images, trial, str(workdir)))["train"]) == 36
    finally:
        subprocess.run(["umount", str(workdir)], check=True)


@pytest.mark.slow
def test_a_duplicate_across_splits_stops_before_anything_is_extracted_or_stands_beside_the_numbers(tmp_path, capsys):
    folder = tmp_path / "images"
    draw_images(folder, (4, 3, 3))
    (folder / "test" / "c1" / "copy.png").write_bytes((folder / "train" / "c1" / "0.png").read_bytes())
    trial = override(TRIAL, {"training.epochs": 1})
    with pytest.raises(ConfigError, match="1 image in several splits") as stopped:
        preload(str(folder), trial, str(tmp_path))
    assert "c1/copy.png" in str(stopped.value)
    assert not (tmp_path / "features").exists()
    capsys.readouterr()
    run_training(TrainCommand(images=str(folder), workdir=str(tmp_path), allow=("duplicates",), trial=trial))
    assert "1 image in several splits (2 files of the same pixels) (allowed: duplicates)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.resolution": 100}, r"features\.resolution is 100; .* take 96 or 112"),
        ({"side.depth": 13}, r"side\.depth is 13; .* has 12 blocks"),
        ({"backbone.weights": "none.safetensors"}, "there is no file none.safetensors"),
        ({"training.select_by": "r2"}, "select_by is 'r2', no score of the task multiclass; take one of auc"),
    ],
)
def test_preload_refuses_before_it_starts(change, message, images, tmp_path):
    with pytest.raises(ConfigError, match=message):
        preload(images, override(TRIAL, change), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


# --- train ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_workers_give_the_numbers_of_this_process_alone(store, workdir, capsys):
    trial = override(TRIAL, {"side.depth": 2, "features.token_ratio": 0.2, "training.epochs": 3})
    run_training(
        TrainCommand(
            images=table_of(store), features=store.uri, workdir=workdir, name="two", num_workers=2, trial=trial
        )
    )
    (path,) = Path(workdir, "runs").glob("two-*/*/checkpoint.pt")
    found = load_checkpoint(str(path.parent)).current[0]
    cut = trial_slice(trial, store.spec)
    rows = {split: rows_from_files(store, split, cut) for split in ("train", "val")}
    *_, last = fit_one(trial, 1, rows, assignment_of(store, torch.device("cpu")), identity="", started=0.0)
    (epoch,) = last.epochs
    assert found.epoch == epoch.number == 3
    assert found.best.val_score == pytest.approx(epoch.best_val_score, abs=1e-6)
    for name, tensor in epoch.snapshot.model.items():
        torch.testing.assert_close(found.model[name], tensor, atol=1e-5, rtol=1e-4)
    assert re.search(rf"val  AUC {epoch.best_val_score:.4f}.*\n +test  AUC 0\.\d+", capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_second_run_of_a_name_is_another_unless_it_is_equal(store, images, workdir, tmp_path, capsys):
    """Run again with another learning rate, more epochs or other images, it would print the first one's numbers."""
    trial = override(TRIAL, {"training.epochs": 1})

    def trained(changes, of=store):
        return train_trial(override(trial, changes), of, workdir=workdir, name="again")

    def said(result):
        return result.run, result.checkpoint, result.best_epoch, result.val["auc"], result.test["auc"]

    first = trained({})
    assert "has ended before" not in capsys.readouterr().err
    stamp = os.stat(f"{first.checkpoint}/checkpoint.pt").st_mtime_ns
    assert said(trained({})) == said(first)
    assert "has ended before, with all that determines its numbers the same" in capsys.readouterr().err
    assert os.stat(f"{first.checkpoint}/checkpoint.pt").st_mtime_ns == stamp
    faster, longer = trained({"training.learning_rate": 0.05}), trained({"training.epochs": 2})
    assert faster.val["auc"] != first.val["auc"]
    assert longer.best_epoch in (1, 2)
    assert load_checkpoint(longer.checkpoint).current[0].epoch == 2
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images" / "train" / "c0" / "0.png").unlink()
    other = trained({}, preload(str(tmp_path / "images"), NEED, workdir))
    assert len({first.run, faster.run, longer.run, other.run}) == 4
    assert "has ended before" not in capsys.readouterr().err


def test_a_batch_that_cannot_be_shared_is_refused(store, workdir):
    trial = override(TRIAL, {"training.batch_size": 9})
    with pytest.raises(ConfigError, match=r"training\.batch_size is 9; 2 workers cannot share it"):
        run_training(
            TrainCommand(images=table_of(store), features=store.uri, workdir=workdir, num_workers=2, trial=trial)
        )


def test_too_few_images_no_workers_and_a_loss_that_is_no_number_are_user_errors(store, workdir, monkeypatch):
    many = override(TRIAL, {"training.batch_size": 4096})
    with pytest.raises(ConfigError, match=r"training\.batch_size is 4096, but there are \d+ training images"):
        train_trial(many, store, workdir=workdir)
    with pytest.raises(ConfigError, match="num_workers is 0; give 1 or more"):
        train_trial(TRIAL, store, workdir=workdir, num_workers=0)

    def fit(_):
        raise ray.train.WorkerGroupError("all of a worker's log", {0: NonFiniteLossError("the loss is nan in epoch 1")})

    monkeypatch.setattr(ray.train.torch.TorchTrainer, "fit", fit)
    with pytest.raises(ConfigError, match=r"^the loss is nan in epoch 1$"):
        train_trial(override(TRIAL, {"training.seed": 77}), store, workdir=workdir)


def test_a_machine_that_is_too_small_is_said():
    with pytest.raises(ConfigError, match="a trial needs 64 CPUs and 0 GPUs, on one host; this cluster has 2 CPUs"):
        require_resources("a trial", cpus=64, gpus=0)


def test_user_errors_are_one_line(tmp_path):
    command = [sys.executable, "-m", "fpt_ray.preload", "--images", str(tmp_path / "none"), "--local"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(tmp_path / "none") in done.stderr


def test_defaults_of_a_trial_are_the_papers_on_the_command_line():
    assert TrainCommand(images="x").trial == trial_from({})
