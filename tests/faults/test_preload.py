"""The fault table, preload: its driver and its actors killed at random points, two of them at once.

Compared with a preload that nothing disturbs: the same rows, in shards of the same bytes. Real Ray clusters, real
SIGKILLs; the points follow from seeds.
"""

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from fpt_ray.config.space_yaml import load_space
from fpt_ray.display.terminal import run_command
from fpt_ray.features.command import Verify, run_features
from fpt_ray.preload.pipeline import preload
from fpt_ray.storage.files import list_files
from tests.conftest import SMOKE
from tests.stores import draw_images

NEED = load_space(SMOKE).stores()[0]
SHARD_BYTES = 40_000  # an image a shard
KILLS = 10
NUM_SHARDS = 120
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images"), (24, 8, 8))


@pytest.fixture(scope="module")
def undisturbed(cluster, images, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fpt_ray.preload.pipeline.SHARD_BYTES", SHARD_BYTES)
        return preload(images, NEED, str(tmp_path_factory.mktemp("undisturbed")))


def finished(workdir):
    """{shard: its file's bytes and time of change}."""
    return {path: path.stat()[6:9:2] for path in Path(workdir).glob("features/*/shards/*.parquet")}


def is_as(store, undisturbed):
    """Nothing lost, doubled or left over: the same shards of the same bytes, and no other file."""
    assert len(store.shards) == NUM_SHARDS
    assert {one.sha256 for one in store.shards} == {one.sha256 for one in undisturbed.shards}
    assert {split: rows.labels.tolist() for split, rows in store.splits.items()} == {
        split: rows.labels.tolist() for split, rows in undisturbed.splits.items()
    }
    files = [file.path for file in list_files(store.uri)]
    assert {path for path in files if path.startswith("shards/")} == {one.path for one in store.shards}
    assert not [path for path in files if path.endswith(".tmp")]
    assert run_features(Verify(uri=store.uri))


# --- drivers --------------------------------------------------------------------------------------------------


def live(images, workdir, said):
    """A driver's life, in a process and with a Ray cluster of its own."""
    os.setsid()
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    from fpt_ray.preload import pipeline

    pipeline.SHARD_BYTES = SHARD_BYTES
    run_command(lambda: pipeline.preload(images, NEED, workdir, local=True) and None)


@pytest.fixture(scope="module")
def drivers():
    """Processes that have imported all there is to import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fpt_ray.preload.pipeline"])
    return context


def wait_for(process, workdir, random_point):
    """Waits for so many new shards, or, for none, so many seconds of its life."""
    shards, seconds = random_point
    while os.getsid(process.pid) != process.pid:  # it imports, and does not live yet
        time.sleep(0.005)
    before, began = len(finished(workdir)), time.monotonic()
    while process.is_alive():
        passed = time.monotonic() - began
        assert passed < 200
        if len(finished(workdir)) - before >= shards and (shards or passed >= seconds):
            return
        time.sleep(0.005)


def test_sigkill_of_preloads_driver(drivers, images, undisturbed, tmp_path, monkeypatch):
    """Ten lives, killed one after the other, every second time with all of its cluster; what was finished stays."""
    left, sessions = [], []
    for seed in range(KILLS):
        generator, before = random.Random(seed), finished(tmp_path)
        process = drivers.Process(target=live, args=(images, str(tmp_path), str(tmp_path / "said")))
        process.start()
        wait_for(process, tmp_path, (generator.choice([0, 1, 2, 5, 10]), generator.uniform(1, 20)))
        (os.killpg if seed % 2 else os.kill)(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert before.items() <= finished(tmp_path).items()
        left.append(len(finished(tmp_path)))
        sessions.append(process.pid)
    print(f"shards after each kill: {left}")
    assert len(set(left) - {0, NUM_SHARDS}) >= 3
    before = finished(tmp_path)
    monkeypatch.setattr("fpt_ray.preload.pipeline.SHARD_BYTES", SHARD_BYTES)
    is_as(preload(images, NEED, str(tmp_path)), undisturbed)
    assert before.items() <= finished(tmp_path).items()
    deadline = time.monotonic() + 120  # Ray's own processes see one after the other that theirs has gone
    while left_over := [process for process in psutil.process_iter() if session_of(process) in sessions]:
        assert time.monotonic() < deadline, left_over
        time.sleep(1)


def session_of(process):
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None


def test_two_preloads_of_one_store_at_once(drivers, images, undisturbed, tmp_path, monkeypatch):
    """One wins; the other takes what is there, or stops with a message."""
    said = [tmp_path / "said-0", tmp_path / "said-1"]
    processes = [drivers.Process(target=live, args=(images, str(tmp_path), str(path))) for path in said]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    texts = [path.read_text() for path in said]
    print(f"exit codes: {[process.exitcode for process in processes]}")
    for process, text in zip(processes, texts, strict=True):
        assert "images left" in text
        stopped = "another preload finished this store first, with other shards" in text
        assert process.exitcode == (2 if stopped else 0)
    assert 0 in [process.exitcode for process in processes]
    monkeypatch.setattr("fpt_ray.preload.pipeline.SHARD_BYTES", SHARD_BYTES)
    is_as(preload(images, NEED, str(tmp_path)), undisturbed)


# --- actors ---------------------------------------------------------------------------------------------------


def kill_actors(workdir, points, killed):
    """Kills an actor that runs the LPM, whenever another of these numbers of shards is there."""
    for point in points:
        while len(finished(workdir)) < point or not (actors := lpm_actors_of(psutil.Process())):
            if len(finished(workdir)) == NUM_SHARDS:
                return
            time.sleep(0.005)
        actor = actors[len(killed) % len(actors)]
        actor.kill()
        killed.append(len(finished(workdir)))
        psutil.wait_procs([actor], timeout=10)


def lpm_actors_of(process):
    found = []
    for child in process.children(recursive=True):
        try:
            if "ShardWriter" in "".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_sigkill_of_a_preload_actor(images, undisturbed, tmp_path, monkeypatch):
    """Ten kills at random numbers of shards: the same preload goes on by itself; Ray says that a worker died."""
    points, killed = sorted(random.Random(0).sample(range(NUM_SHARDS - 10), KILLS)), []
    killer = threading.Thread(target=kill_actors, args=(tmp_path, points, killed), daemon=True)
    killer.start()
    monkeypatch.setattr("fpt_ray.preload.pipeline.SHARD_BYTES", SHARD_BYTES)
    store = preload(images, NEED, str(tmp_path))
    killer.join()
    print(f"shards at each kill: {killed}")
    assert len(killed) == KILLS
    assert len(set(killed) - {0, NUM_SHARDS}) >= 3
    is_as(store, undisturbed)
