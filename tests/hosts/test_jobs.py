"""`ray job submit` as a user runs it: a search on a head of its own, stopped in its middle and submitted again.

The head wants a token, MLflow is a server of its own. Compared are MLflow's runs with Optuna's storage, and all that
was written with the secrets that were planted in the head's environment.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import psutil
import pytest
from mlflow import MlflowClient

from fpt_ray.config.space_yaml import load_space
from fpt_ray.datasets.checking import Inspection
from fpt_ray.datasets.usable import inspected_here
from fpt_ray.features.shards import shard_table, write_shard
from fpt_ray.images.picture import smaller
from fpt_ray.preload import pipeline as preloading
from fpt_ray.preload.batches import extract_batches
from fpt_ray.preload.decoded import read_image
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.records import StudyRun, TrialRecord
from tests.conftest import table_of
from tests.hosts.namespaces import wait_until
from tests.s3_server import free_ports
from tests.searches import study_of
from tests.stores import draw_images

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PASSWORD, AWS_KEY, TOKEN = "planted-password", "planted/AWS+key", "planted-token-" + 32 * "0"
COMMIT = "0123456789abcdef0123456789abcdef01234567-dirty"
NUM_TRIALS = 3
# Trials of some ten seconds: one must still run when `ray job stop` has started.
STUDY = ["--study", "s", "--num_trials", str(NUM_TRIALS), "--at_once", "1", "--set", "training.epochs=90"]


@dataclass
class Cluster:
    folder: Path
    environment: dict[str, str]
    head: psutil.Process
    jobs: str
    mlflow: str
    features: str
    images: str

    def job(self, *arguments: str) -> str:
        """What `ray job` prints, run where the code lies."""
        command = ["ray", "job", *arguments]
        if "--" in command:
            command[command.index("--") : command.index("--")] = ["--address", self.jobs]
        else:
            command += ["--address", self.jobs]
        done = subprocess.run(command, cwd=self.folder / "code", env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def submit(self, name: str, *options: str, resume: bool = False) -> str:
        where = ["--working-dir", ".", "--runtime-env", "cluster/runtime_env.yaml", "--submission-id", name]
        command = [
            "env",
            f"FPT_RAY_COMMIT={COMMIT}",
            "python",
            "-m",
            "fpt_ray.tune",
            "--space",
            "search_spaces/smoke.yaml",
            *STUDY,
        ]
        command += ["--images", self.images, "--features", self.features, "--workdir", str(self.folder / "work")]
        return self.job("submit", *options, *where, "--", *command, *(["--resume"] if resume else []))

    def runs(self) -> tuple[StudyRun, list[TrialRecord], str]:
        """The study, its trials and its status as MLflow has them."""
        client = MlflowClient(self.mlflow)
        study = tracking.find_study(client, "s")
        return study, tracking.read_trials(client, study), client.get_run(study.run_id).info.status


def fetch(address, **headers):
    """(status, body) of an address."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def head_command(folder, jobs_port):
    ports = "port ray-client-server-port dashboard-agent-listen-port dashboard-agent-grpc-port metrics-export-port"
    named = {name: str(port) for name, port in zip(ports.split(), free_ports(5), strict=True)}
    named |= {"dashboard-port": str(jobs_port), "dashboard-host": "127.0.0.1", "min-worker-port": "0"}
    named |= {"max-worker-port": "0", "num-cpus": "2", "object-store-memory": str(200 * 2**20)}
    named |= {"temp-dir": str(folder / "ray")}
    return ["ray", "start", "--head", "--block", "--disable-usage-stats", *(f"--{k}={v}" for k, v in named.items())]


def mlflow_command(folder, port):
    places = [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--artifacts-destination={folder}/artifacts"]
    where = ["--host=127.0.0.1", f"--port={port}", f"--allowed-hosts=127.0.0.1:{port}", "--workers=1"]
    return ["mlflow", "server", *where, *places]


@contextlib.contextmanager
def running(command, folder, env):
    """A server whose children end with it; nobody else's are touched."""
    with (folder / f"{command[0]}.log").open("w") as log:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    server = psutil.Process(process.pid)
    try:
        yield server
    finally:
        family = [server, *server.children(recursive=True)] if server.is_running() else []
        process.terminate()
        for one in psutil.wait_procs(family, timeout=5)[1]:
            with contextlib.suppress(psutil.Error):
                one.kill()
        process.wait()


def preloaded_here(images, workdir):
    """A feature store made in this process, without Ray: test_commands.py shows preload itself."""

    def write_shards(work, _):
        spec = work.spec
        for plan in work.plans:
            high = [read_image(work.root, one, spec.preparation) for one in plan.images.rows()]
            low = [smaller(one, spec.low_resolutions) for one in high]
            features = extract_batches(work.holder[0], np.stack(high), spec)
            table = shard_table(plan.images.rows(), [np.stack(kind) for kind in zip(*low, strict=True)], features, spec)
            yield write_shard(plan.uri, table, spec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preloading, "inspected", lambda table, *_, **__: Inspection(table=inspected_here(table)))
        patch.setattr(preloading, "ray_session", lambda **_: contextlib.nullcontext())
        patch.setattr(preloading, "worker_asked", lambda question: question)
        patch.setattr(preloading, "share_model", lambda model: (model,))
        patch.setattr(preloading, "_require_shared", lambda *_: None)
        patch.setattr(preloading, "_announced", lambda *_: None)
        patch.setattr(preloading, "write_shards", write_shards)
        features = preloading.preload(images, load_space(ROOT / "search_spaces" / "smoke.yaml").stores()[0], workdir)
        return features.uri, table_of(features)


@pytest.fixture(scope="module")
def cluster():
    folder = Path(tempfile.mkdtemp(prefix="fpt", dir="/tmp"))  # sockets lie in it, whose paths must be short
    jobs_port, mlflow_port = free_ports(2)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    secret = {
        "MLFLOW_TRACKING_URI": f"http://user:{PASSWORD}@127.0.0.1:{mlflow_port}",
        "AWS_SECRET_ACCESS_KEY": AWS_KEY,
    }
    code = folder / "code"
    for part in ("fpt_ray", "search_spaces", "cluster"):
        shutil.copytree(ROOT / part, code / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".rayignore", code)
    for data in (".venv/lib/x.so", "features/x/part.parquet", "images/x.png", "demo/x.png", "runs/x.pt", "mlflow.db"):
        (code / data).parent.mkdir(parents=True, exist_ok=True)
        (code / data).write_bytes(bytes(2**20))
    jobs, mlflow = f"http://127.0.0.1:{jobs_port}", f"http://127.0.0.1:{mlflow_port}"
    try:
        with (
            running(mlflow_command(folder, mlflow_port), folder, environment),
            running(head_command(folder, jobs_port), folder, {**environment, **secret}) as head,
        ):
            features = preloaded_here(draw_images(folder / "images"), str(folder / "work"))
            token = {"Authorization": f"Bearer {TOKEN}"}
            wait_until("Ray's head is up", lambda: fetch(f"{jobs}/api/jobs/", **token)[0] == 200)
            wait_until("MLflow is up", lambda: fetch(f"{mlflow}/health")[0] == 200)
            yield Cluster(folder, environment, head, jobs, mlflow, *features)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def under_way(cluster):
    """Whether a trial has finished and another runs."""
    try:
        states = {record.status for record in cluster.runs()[1]}
    except tracking.ConfigError:  # there is no study yet
        return False
    return {"FINISHED", "RUNNING"} <= states


@pytest.fixture(scope="module")
def stopped(cluster):
    """The logs of a job that was stopped while it ran trials."""
    cluster.submit("first", "--no-wait")
    wait_until("a trial has finished and another runs", lambda: under_way(cluster))
    cluster.job("stop", "first")
    return cluster.job("logs", "first")


@pytest.fixture(scope="module")
def resumed(cluster, stopped):
    """The study's trials after the first job, and the logs of the second."""
    before = cluster.runs()[1]
    return before, cluster.submit("second", resume=True)  # which prints the logs until it ends


def test_without_the_token_nothing_is_told(cluster):
    assert fetch(f"{cluster.jobs}/api/jobs/")[0] == 401
    assert fetch(f"{cluster.jobs}/api/jobs/", Authorization="Bearer " + 46 * "1")[0] == 403


def test_mlflow_answers_to_its_own_names_alone(cluster):
    search = f"{cluster.mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    assert fetch(search)[0] == 200
    assert fetch(search, Host="elsewhere.example")[0] == 403


def test_the_package_has_the_code_and_no_data(cluster, stopped):
    (package,) = (cluster.folder / "ray" / "session_latest").glob("runtime_resources/working_dir_files/_ray_pkg_*/")
    assert {path.name for path in package.iterdir()} <= {"fpt_ray", "search_spaces", "cluster", ".rayignore"}
    assert sum(path.stat().st_size for path in package.rglob("*") if path.suffix != ".pyc") < 2**21


def test_its_commit_is_recorded_though_git_stays_behind(cluster, stopped):
    run = MlflowClient(cluster.mlflow).get_run(cluster.runs()[0].run_id)
    assert run.data.tags["git_commit"] == COMMIT


def test_a_stopped_job_ends_its_trials_and_marks_its_runs_killed(cluster, stopped):
    _, trials, status = cluster.runs()
    states = Counter(record.status for record in trials)
    assert status == "KILLED"
    assert states["KILLED"] >= 1
    assert states["FINISHED"] >= 1
    assert states.keys() == {"KILLED", "FINISHED"}
    assert f"of {NUM_TRIALS} trials; go on with --resume" in stopped
    wait_until(
        "the trials' processes are gone",
        lambda: not any("ImplicitFunc" in "".join(one.cmdline()) for one in cluster.head.children(recursive=True)),
    )


def test_progress_can_be_read_in_the_logs(stopped, resumed):
    assert "read once into shared memory" in stopped
    assert f"trial 1/{NUM_TRIALS}: val AUC" in stopped
    assert f"trial {NUM_TRIALS}/{NUM_TRIALS}: val AUC" in resumed[1]
    assert "trials on the front of val_auc (max), param_ratio (min)" in resumed[1]


def test_submitted_again_with_resume_it_ends(cluster, resumed):
    before, _ = resumed
    _, trials, status = cluster.runs()
    states = Counter(record.status for record in trials)
    assert status == "FINISHED"
    assert states == {"FINISHED": NUM_TRIALS, "KILLED": sum(record.status == "KILLED" for record in before)}
    stored = study_of(cluster.folder / "work" / "studies" / "s" / "optuna.log", "s")
    complete = {trial.number for trial in stored.get_trials() if trial.state == optuna.trial.TrialState.COMPLETE}
    assert complete == {record.number for record in trials if record.status == "FINISHED"}
    known = {record.run_id for record in before if record.status == "FINISHED"}
    assert known < {record.run_id for record in trials if record.status == "FINISHED"}


def test_no_secret_is_written_anywhere(cluster, stopped, resumed):
    client = MlflowClient(cluster.mlflow)
    token = {"Authorization": f"Bearer {TOKEN}"}
    runs = client.search_runs([cluster.runs()[0].experiment_id])
    told = {
        "logs": stopped + resumed[1],
        "jobs' metadata": fetch(f"{cluster.jobs}/api/jobs/", **token)[1],
        "runs": json.dumps([run.to_dictionary() for run in runs]),
    }
    assert "second" in told["jobs' metadata"]
    for folder in ("work", "artifacts", "ray/session_latest/logs"):
        files = [path for path in (cluster.folder / folder).rglob("*") if path.is_file()]
        assert files
        told |= {str(path): path.read_bytes().decode("latin-1") for path in files}
    told["mlflow.db"] = (cluster.folder / "mlflow.db").read_bytes().decode("latin-1")
    assert [name for name, text in told.items() for secret in (PASSWORD, AWS_KEY, TOKEN) if secret in text] == []
