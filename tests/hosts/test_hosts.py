"""Two hosts, their data on S3, and one of them lost in the middle; compared with one worker in this process.

Hosts share nothing but a network (hosts.py): not a disk, not a process, not a name.
"""

import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from fpt_ray.config.space_yaml import load_space, with_fixed
from fpt_ray.config.trial import override
from fpt_ray.datasets.checking import inspected
from fpt_ray.features.joining import join
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.store import open_store
from fpt_ray.images.table import read_images
from fpt_ray.search.optuna_study import load_study
from fpt_ray.storage.files import list_files, read_bytes, write
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.names import metric_key
from fpt_ray.train.checkpoint import load_checkpoint
from fpt_ray.train.seeds import assignment_of
from tests.hosts.namespaces import namespaces_allowed, network, wait_until
from tests.s3_server import BUCKET, SECRET, served
from tests.searches import feature_options, trial_options
from tests.seeds import fit_one
from tests.stores import draw_images, rows_from_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SMOKE = Path(__file__).parents[2] / "search_spaces" / "smoke.yaml"
WORK = f"s3://{BUCKET}/work"
EPOCHS, NUM_TRIALS = 30, 3
STUDY = ["--study", "s", "--num_trials", str(NUM_TRIALS), "--at_once", "2", "--set", f"training.epochs={EPOCHS}"]
TRIAL = override(  # steps so small that sums in another order do not grow into another ranking of the images
    load_space(SMOKE).stores()[0].trial,
    {"training.epochs": EPOCHS, "training.precision": "float32", "training.learning_rate": 2e-5},
)


class Cluster:
    """A head that also computes, and hosts that come and go; a CPU each."""

    def __init__(self, net):
        self.net = net
        self.head = net.host()
        self.head.join()
        wait_until("Ray's head is up", lambda: "1.0 CPU" in self.status())
        self.grow()

    def status(self):
        """What the head says, if it answers yet."""
        command = self.head.start("ray", "status", f"--address={self.head.address}:6379")
        command.process.wait(60)
        return command.out.read_text()

    def grow(self):
        """Another host joins."""
        self.other = self.net.host()
        self.other.join(self.head)
        wait_until("the host has joined", lambda: "/2.0 CPU" in self.status())

    def lose(self):
        """The other host is gone, without a word."""
        self.other.die()
        wait_until("the head has noticed", lambda: "/1.0 CPU" in self.status())

    def start(self, verb, *options):
        """A command of ours, on the head."""
        address = f"{self.head.address}:6379"
        return self.head.start(sys.executable, "-m", f"fpt_ray.{verb}", *options, RAY_ADDRESS=address)


@pytest.fixture(scope="module")
def net():
    with network(namespaced=namespaces_allowed()) as made:
        yield made


@pytest.fixture(scope="module")
def requests(net, tmp_path_factory):
    """S3, which all hosts reach; what it was asked for is noted."""
    with pytest.MonkeyPatch.context() as patch, served(tmp_path_factory.mktemp("s3"), patch, net.gateway) as seen:
        patch.setenv("FPT_RAY_S3_TIMEOUT_S", "10")
        yield seen


@pytest.fixture(scope="module")
def cluster(net, requests):
    return Cluster(net)


@pytest.fixture(scope="module")
def store(cluster, tmp_path_factory):
    """Images on S3, preloaded by hosts that share nothing else, by an actor on each."""
    folder = Path(draw_images(tmp_path_factory.mktemp("images")))
    for path in folder.rglob("*.png"):
        write(f"s3://{BUCKET}/images/{path.relative_to(folder).as_posix()}", path.read_bytes())
    command = ["--images", f"s3://{BUCKET}/images", "--space", str(SMOKE), "--workdir", WORK]
    done = cluster.start("preload", *command)
    uri = done.told().splitlines()[0]
    assert "on 2 x cpu" in done.errors.read_text()
    (table,) = list_files(f"{WORK}/tables")
    return join(open_store(uri), inspected(read_images(f"{WORK}/tables/{table.path}"), WORK).table)


@cache
def alone(trial, store):
    """The last epoch of a trial trained in this process: without Ray, without another worker."""
    cut = trial_slice(trial, store.spec)
    rows = {split: rows_from_files(store, split, cut) for split in ("train", "val")}
    *_, last = fit_one(trial, 1, rows, assignment_of(store, torch.device("cpu")), identity="", started=0.0)
    return last.epochs[0]


def train_options(store, name):
    options = [*feature_options(store), "--workdir", WORK, "--name", name]
    return [*options, "--num_workers", "2", *trial_options(TRIAL)]


def written(requests, below):
    """Checkpoints that were written below a place so far."""
    return {name for name in list(requests.seen) if f"/{below}" in name and re.match(r"PUT .*/checkpoint\.pt$", name)}


def check_trained(store, name, told):
    """That a run ended with the numbers of this process alone."""
    epoch = alone(TRIAL, store)
    files = [file.path for file in list_files(f"{WORK}/runs") if re.match(rf"{name}-.*/checkpoint\.pt$", file.path)]
    found = load_checkpoint(f"{WORK}/runs/{Path(files[-1]).parent}").current[0]
    assert found.epoch == epoch.number == EPOCHS
    assert found.best.val_score == pytest.approx(epoch.best_val_score, abs=1e-6)
    assert f"val  AUC {epoch.best_val_score:.4f}" in told


@pytest.fixture(scope="module")
def undisturbed(cluster, store):
    """What ``train`` prints whose two workers were on two hosts."""
    command = cluster.start("train", *train_options(store, "two"))
    wait_until("both hosts train", lambda: all(host.runs("RayTrainWorker") for host in cluster.net.hosts))
    return command.told()


def test_train_on_two_hosts_gives_the_numbers_of_one_worker(undisturbed, store, requests):
    check_trained(store, "two", undisturbed)
    assert len(written(requests, "runs/two")) == EPOCHS


def test_a_host_killed_in_the_middle_of_train_is_replaced_and_training_goes_on(undisturbed, cluster, store, requests):
    """The cluster has room for both workers again only when another host joins, as an autoscaler brings one."""
    command = cluster.start("train", *train_options(store, "killed"))
    wait_until("some epochs have ended", lambda: len(written(requests, "runs/killed")) > 5)
    before = len(written(requests, "runs/killed"))
    assert cluster.other.runs("RayTrainWorker")
    cluster.lose()
    cluster.grow()
    told = command.told()
    check_trained(store, "killed", told)
    assert undisturbed.replace("/runs/two-", "/runs/killed-") in told  # Ray says in addition that a host is gone
    assert before < EPOCHS
    assert len(written(requests, "runs/killed")) <= EPOCHS + 2


def test_a_host_killed_in_the_middle_of_a_search_loses_no_trial_and_repeats_none(cluster, store, requests):
    """Its trial goes on elsewhere from its checkpoint: every epoch of every trial is told once, and every result is
    that of this process alone. Optuna's journal on S3 and MLflow agree."""
    uri = f"sqlite:///{cluster.net.disk}/mlflow.db"  # on the driver's host
    command = [
        "--space",
        str(SMOKE),
        *feature_options(store),
        "--workdir",
        WORK,
        "--tracking_uri",
        uri,
        *STUDY,
    ]
    search = cluster.start("tune", *command)
    wait_until("both hosts run a trial", lambda: all(host.runs("ImplicitFunc") for host in cluster.net.hosts))
    wait_until("both trials have ended some epochs", lambda: len(written(requests, "studies/s/tune")) > 12)
    cluster.lose()
    told = search.told()
    study, client = load_study("s", f"{WORK}/studies/s/optuna.log"), MlflowClient(uri)
    records = tracking.read_trials(client, tracking.find_study(client, "s"))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * NUM_TRIALS
    assert [(record.number, record.status) for record in records] == [(n, "FINISHED") for n in range(NUM_TRIALS)]
    space = with_fixed(load_space(SMOKE), [f"training.epochs={EPOCHS}"])
    for trial, record in zip(study.trials, records, strict=True):
        epochs = client.get_metric_history(record.run_id, metric_key("val_auc_epoch"))
        assert [point.step for point in epochs] == list(range(1, EPOCHS + 1))
        expected = alone(space.trial(trial.params), store)
        assert trial.values[0] == record.metrics["val_auc"] == pytest.approx(expected.best_val_score, abs=1e-6)
    assert any("test_auc" in record.metrics for record in records)  # read from the checkpoints on S3
    assert f"trials on the front of {', '.join(f'{n} ({m})' for n, m in space.objectives.items())}" in told


def test_no_secret_is_written_anywhere(cluster, store):
    """The keys of S3 stood in every host's environment."""
    objects = [file for file in list_files(f"s3://{BUCKET}") if not file.path.endswith(".png")]
    kept = {file.path: read_bytes(f"s3://{BUCKET}/{file.path}") for file in objects}
    assert any("tuner.pkl" in name for name in kept)
    on_disk = [file for file in cluster.net.disk.rglob("*") if file.is_file()]
    assert any(file.name == "mlflow.db" for file in on_disk)
    kept |= {str(file): file.read_bytes() for file in on_disk}
    kept |= {str(one.out): one.out.read_bytes() + one.errors.read_bytes() for one in cluster.head.started}
    assert [name for name, content in kept.items() if SECRET.encode() in content] == []
