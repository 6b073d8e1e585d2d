"""The fault table, full disks of a search: small disks are real ones (tmpfs), or a real limit on the size of files.

What is said, what is kept, and that the search goes on after room was made; MLflow's runs against Optuna's storage.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from fpt_ray.config.space_yaml import load_space
from fpt_ray.errors import ConfigError
from fpt_ray.search.journal import JournalFile, one_driver
from fpt_ray.storage.errors import FullError, disk_full_as_error
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.patient_client import PatientClient
from fpt_ray.tracking.server import default_uri, open_tracking
from fpt_ray.train.checkpoint import CHECKPOINT_FILE, Best, Checkpoint, Snapshot, load_checkpoint, save_checkpoint
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.study import run_study
from tests.conftest import SMOKE
from tests.searches import agree, driver, feature_options, of_store, study_of, trial_options, tune_command

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is made by mounting a tmpfs, which only root may do")


@contextlib.contextmanager
def small_disk(folder, size):
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_room(folder):
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)


@contextlib.contextmanager
def file_size_limit(size_bytes):
    """Files of this process cannot grow beyond; the system says so as it does of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --- files, without Ray ---------------------------------------------------------------------------------------


def test_disk_full_in_the_middle_of_an_entry_of_the_journal(tmp_path):
    """The entry is not there, the study is as before it, and goes on once there is room."""
    path = tmp_path / "optuna.log"
    study = optuna.create_study(study_name="j", storage=optuna.storages.JournalStorage(JournalFile(str(path))))
    study.tell(study.ask(), 1.0)
    before = path.read_bytes()
    with file_size_limit(len(before) + 20), pytest.raises(FullError, match=rf"^{path} cannot be written \(File too la"):
        study.ask()
    assert path.read_bytes() == before
    study.tell(study.ask(), 2.0)
    assert [trial.value for trial in study_of(path, "j").get_trials()] == [1.0, 2.0]


def test_half_an_entry_of_a_driver_that_was_killed_while_it_wrote(tmp_path):
    """Optuna itself would read nothing any more after the next entry."""
    path = tmp_path / "optuna.log"
    storage = optuna.storages.JournalStorage(JournalFile(str(path)))
    optuna.create_study(study_name="j", storage=storage).enqueue_trial({})
    with path.open("ab") as file:
        file.write(b'{"op_code":5,"worker')
    with one_driver(str(path)):
        study = study_of(path, "j")
        study._storage = optuna.storages.JournalStorage(JournalFile(str(path)))
        study.tell(study.ask(), 1.0)
    assert [trial.value for trial in study_of(path, "j").get_trials()] == [1.0]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_disk_full_while_writing_what_waits_for_mlflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with contextlib.closing(
        PatientClient("http://127.0.0.1:9", tmp_path / "waiting.jsonl")
    ) as client:  # nobody is there
        client.set_tag("run", "one", "x")
        with (
            file_size_limit(100),
            pytest.raises(FullError, match=r"waiting\.jsonl cannot be written .*start again, or resume the study"),
        ):
            client.set_tag("run", "two", "x" * 200)
        client.set_tag("run", "three", "x")
        lines = [json.loads(line) for line in client.outbox.file.path.read_text().splitlines()]
    assert [values["key"] for _, _, values in lines] == ["one", "three"]


def test_disk_full_in_the_middle_of_a_checkpoint(tmp_path):
    """The one before stays whole."""
    first, larger = (
        Checkpoint(finished=(), current=(Snapshot(epoch=n, model=model, optimizer={}, schedule={}, best=Best()),))
        for n, model in ((1, {}), (2, {"rest": "x" * 5000}))
    )
    save_checkpoint(first, tmp_path)
    size = os.path.getsize(tmp_path / CHECKPOINT_FILE)
    told = pytest.raises(FullError, match="the-folder cannot be written")
    with file_size_limit(size + 1000), told, disk_full_as_error("the-folder"):
        save_checkpoint(larger, tmp_path)
    assert load_checkpoint(tmp_path) == first


HOLDER = "import sys, time; from fpt_ray.search.journal import one_driver\n"
HOLDER += "with one_driver(sys.argv[1]): print('held', flush=True); time.sleep(100)"


def test_two_drivers_of_one_study(tmp_path):
    """The second is refused while the first lives, however the first ends; a database may be shared."""
    journal = tmp_path / "studies" / "s" / "optuna.log"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(journal)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        told = rf"another driver searches this study just now \(process {holder.pid} on .*optuna\.log\): wait"
        with pytest.raises(ConfigError, match=told), one_driver(str(journal)):
            pass
        with one_driver("postgresql://host/db"), one_driver("postgresql://host/db"):
            pass
        holder.send_signal(signal.SIGKILL)
    with one_driver(str(journal)):
        assert Path(f"{journal}.driver").read_text().startswith(f"process {os.getpid()} on ")


# --- searches -------------------------------------------------------------------------------------------------


REMEDY = "free space and start again, or resume the study: what is finished is kept"
HERE = "(here: --resume)"  # of a search, which has that option


def last_words(command, said):
    """The last line that a search of its own says before it ends with the status of what a user can mend."""
    with driver(command, said) as process:
        assert process.wait() == 2, said.read_text()
    text = said.read_text()
    assert "Traceback" not in text
    return text.strip().splitlines()[-1]


def resume(store, workdir, name, num_trials, **more):
    given = of_store(store, workdir=str(workdir), study=name, **more)
    run_study(StudyOptions(**given, num_trials=num_trials, resume=True))


def records_of(workdir, name):
    client = open_tracking(default_uri(workdir))
    study = tracking.find_study(client, name)
    return tracking.read_trials(client, study)


@ROOT
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_disk_full_while_writing_a_checkpoint(cluster, store, tmp_path):
    """Said in one line with the trial's folder; the trial is not blamed, and no half checkpoint is taken for whole."""
    folder = tmp_path / "studies" / "d"
    with small_disk(folder, "400k"):
        told = last_words(tune_command(store, tmp_path, "d", 3), tmp_path / "said")
        assert told == f"error: a checkpoint in {folder} cannot be written (No space left on device); {REMEDY} {HERE}"
        records = records_of(tmp_path, "d")
        assert "FAILED" not in [record.status for record in records]
        assert "KILLED" in [record.status for record in records]
        for record in records:
            if record.status == "FINISHED":
                assert load_checkpoint(record.tags["checkpoint"]).current[0].epoch == 2
        make_room(folder)
        resume(store, tmp_path, "d", 3)
        agree(str(tmp_path), "d", 3)


@ROOT
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_disk_full_while_train_writes_a_checkpoint(cluster, store, tmp_path):
    """Ray Train's worker told it; started again, the run goes on."""
    command = [
        sys.executable,
        "-m",
        "fpt_ray.train",
        *feature_options(store),
        "--workdir",
        str(tmp_path),
        "--local",
    ]
    command += trial_options(load_space(SMOKE).stores()[0].trial)
    with small_disk(tmp_path / "runs", "600k"):
        told = last_words(command, tmp_path / "said")
        (place,) = (tmp_path / "runs").glob("train-*")
        assert told == f"error: a checkpoint in {place} cannot be written (No space left on device); {REMEDY}"
        make_room(tmp_path / "runs")
        with driver(command, tmp_path / "said") as process:
            assert process.wait() == 0
        assert "best epoch" in (tmp_path / "said").read_text()


@ROOT
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_disk_full_while_writing_the_studys_journal(cluster, store, tmp_path):
    """Said in one line with the journal; every entry in it is whole, and no trial is lost."""
    journal = tmp_path / "small" / "optuna.log"
    with small_disk(journal.parent, "12k"):
        (journal.parent / "filler").write_bytes(b"0" * 4096)
        command = tune_command(store, tmp_path, "j", 4, "--storage", str(journal))
        told = last_words(command, tmp_path / "said")
        assert told == f"error: {journal} cannot be written (No space left on device); {REMEDY} {HERE}"
        assert all(json.loads(line) for line in journal.read_text().splitlines())
        make_room(journal.parent)
        resume(store, tmp_path, "j", 4, storage=str(journal))
        agree(str(tmp_path), "j", 4, journal=journal)


@ROOT
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_disk_full_with_all_that_a_search_writes_on_it(cluster, store, tmp_path):
    """Journal, checkpoints, MLflow's database, what waits for it, whichever comes first: one line, no work lost."""
    workdir = tmp_path / "work"
    with small_disk(workdir, "1400k"):
        told = last_words(tune_command(store, workdir, "w", 4), tmp_path / "said")
        print(told)
        assert told.startswith("error: ")
        assert told.endswith(f"cannot be written (No space left on device); {REMEDY} {HERE}")
        make_room(workdir)
        resume(store, workdir, "w", 4)
        agree(str(workdir), "w", 4)
