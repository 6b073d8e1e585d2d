"""A search's writes while MLflow's server is away, silent or refuses, against a real one on loopback behind a gate."""

import json
import pickle
import subprocess
import sys
import threading
import time
from contextlib import closing
from types import SimpleNamespace
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from mlflow import MlflowClient

from fpt_ray.config.space_yaml import parse_space
from fpt_ray.errors import ConfigError
from fpt_ray.search.messages import Proposal, pack_proposals
from fpt_ray.tracking import outbox
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.patient_client import PatientClient
from fpt_ray.tracking.records import ImagesNote
from fpt_ray.tracking.server import default_uri, open_tracking
from fpt_ray.tune.log import StudyLog
from tests.messages import report

pytestmark = pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi")  # inside mlflow's own server


class Quiet(WSGIRequestHandler):
    def log_message(self, *told):
        pass


class Server:
    """MLflow's own application over one SQLite file, on one port; before it, a gate."""

    def __init__(self, uri):
        from mlflow.server import app, handlers

        handlers.initialize_backend_stores(uri, default_artifact_root="/nonexistent")
        self.app, self.port, self.server = app, 0, None
        self.status = None
        """What the gate answers in MLflow's place, as "401 UNAUTHORIZED"."""
        self.writes = threading.Event()
        """While it is not set, who writes has no answer."""
        self.writes.set()
        self.asked = 0
        """Writes that came to the gate."""

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.port}"

    def gate(self, environ, start_response):
        if environ["REQUEST_METHOD"] == "POST" and not environ["PATH_INFO"].endswith("/search"):
            self.asked += 1
            self.writes.wait()
        if self.status is None:
            return self.app(environ, start_response)
        start_response(self.status, [("Content-Type", "text/plain")])
        return [b"the gate is shut"]

    def open(self):
        self.server = make_server("127.0.0.1", self.port, self.gate, handler_class=Quiet)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    uri = default_uri(tmp_path_factory.mktemp("server"))
    open_tracking(uri)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)  # MLflow's application sets it; afterwards it is as it was
        found = Server(uri)
        found.open()
        yield found
        found.close()


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(outbox, "PAUSE_SECONDS", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")


def trial(client, study, number):
    """A trial with a seed of its own and two epochs, as the log of a study writes them."""
    run = tracking.start_trial(client, study, number, {"side.depth": 3}, {"proposal": "{}"})
    seed = tracking.start_seed(client, study, run, 0, 7)
    for epoch, auc in ((1, 0.6), (2, 0.8)):
        tracking.log_epoch(client, seed, epoch, {"val_auc_epoch": auc})
    client.set_tag(run, "checkpoint", f"/there/{number}")
    client.set_terminated(seed, "FINISHED")
    tracking.end_trial(client, run, "FINISHED", {"val_auc": 0.8})


def seen(client, study):
    """{trial's number: all that the server holds of it}."""
    found = {}
    for record in tracking.read_trials(client, study):
        (seed,) = (client.get_run(run_id) for run_id in tracking.seed_runs(client, study, record))
        epochs = client.get_metric_history(seed.info.run_id, "training/val_auc_epoch")
        curve = [(one.step, one.value) for one in epochs]
        read = [(one.dataset.name, one.tags[0].value) for one in client.get_run(record.run_id).inputs.dataset_inputs]
        checkpoint = record.tags["checkpoint"].replace(str(record.number), "N")
        told = (record.status, record.params, record.metrics, checkpoint, seed.info.status)
        found[record.number] = (*told, curve, read)
    return found


def test_mlflow_server_away_during_a_search(server, tmp_path, capsys):
    """Nothing is missing: what was written while it was away equals what was written while it was there."""
    waiting = tmp_path / "studies" / "waiting.jsonl"
    with closing(PatientClient(server.uri, waiting)) as client:
        study = tracking.start_study(client, "s", params={}, tags={})
        images = ImagesNote(name="blood", digest="ab" * 32, uri="images.parquet", rows={"train": 9})
        study = tracking.name_images(client, study, images)
        trial(client, study, 0)
        client.settle()
        assert not waiting.exists()
        server.close()
        trial(client, study, 1)
        with pytest.raises(ConfigError, match=r"away for 0 s; what it lacks is kept in .*waiting\.jsonl.*resume the"):
            client.settle(0)
        trial(client, study, 2)
    with waiting.open("a") as file:
        file.write('["set_tag", "half a li')  # the driver dies
    server.open()
    with closing(PatientClient(server.uri, waiting)) as client:
        client.settle()
        assert not waiting.exists()
        found = seen(client, study)
    assert sorted(found) == [0, 1, 2]
    assert found[0] == found[1] == found[2]
    assert found[2][-1] == [("blood", "training")]
    said = capsys.readouterr().err
    assert said.count("is away") == 1
    assert "is back and has taken the 22 lines" in said


def test_what_was_sent_before_a_driver_died_is_not_there_twice(server, tmp_path):
    waiting = tmp_path / "waiting.jsonl"
    with closing(PatientClient(server.uri, waiting)) as client:
        study = tracking.start_study(client, "twice", params={}, tags={})
        server.close()
        trial(client, study, 0)
        server.open()
        lines = waiting.read_text()
        client.settle()
    for _ in range(2):
        waiting.write_text(lines)
        with closing(PatientClient(server.uri, waiting)) as client:
            client.settle()
            assert list(seen(client, study)) == [0]


DRIVER = """
import os, sys
from pathlib import Path
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.patient_client import PatientClient
from tests.tracking.test_patient_client import trial

client = PatientClient(sys.argv[1], Path(sys.argv[2]))
study = tracking.find_study(client, sys.argv[3])
trial(client, study, 1)
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_sigkill_of_a_driver_loses_nothing_that_it_has_handed_over(server, tmp_path):
    """The server takes some lines and is silent then, so that the driver dies with others on their way."""
    waiting = tmp_path / "waiting.jsonl"
    with closing(PatientClient(server.uri, waiting)) as client:
        study = tracking.start_study(client, "killed", params={}, tags={})
        trial(client, study, 0)
        client.settle()
    server.writes.clear()
    try:
        done = subprocess.run([sys.executable, "-c", DRIVER, server.uri, str(waiting), "killed"], check=False)
    finally:
        server.writes.set()
    assert done.returncode == -9
    assert len(waiting.read_text().splitlines()) == 10
    with closing(PatientClient(server.uri, waiting)) as client:
        client.settle()
        found = seen(client, study)
    assert found[0] == found[1]


def test_a_server_that_accepts_and_never_answers_holds_up_no_trial(server, tmp_path):
    """Every event of a trial is told while the server has answered none; MLflow's own timeout is 20 s."""
    space = parse_space("space: {side.num_prompts: {low: 1, high: 64}}\nobjectives: {val_auc: max}")
    with closing(PatientClient(server.uri, tmp_path / "waiting.jsonl")) as client:
        study = tracking.start_study(client, "silent", params={}, tags={})
        log = StudyLog(client, study, space, 1, study_uri=str(tmp_path))
        last = report(val_auc=0.8, epochs=2)
        config = pack_proposals(Proposal(number=0, values={"side.num_prompts": 8}))
        running = SimpleNamespace(trial_id="a", config=config, last_result=last)
        server.writes.clear()
        before, started = server.asked, time.monotonic()
        try:
            log.on_trial_start(0, [], running)
            for epoch in (1, 2):
                log.on_trial_result(0, [], running, report(epochs=epoch, finished=False))
            log.on_checkpoint(0, [], running, SimpleNamespace(path="/there"))
            log.on_trial_complete(0, [], running)
            assert time.monotonic() - started < 10
            assert server.asked <= before + 1  # the first of them has no answer yet
            assert pickle.loads(pickle.dumps(log)).__dict__ == {}  # as Tune does after each of its steps
        finally:
            server.writes.set()
        (record,) = tracking.read_trials(client, study)
        assert (record.complete, record.metrics["val_auc"], record.checkpoint) == (True, 0.8, "/there")
        assert client.get_run(study.run_id).info.run_id == study.run_id


def test_what_the_server_refuses_for_good_is_kept_apart_and_the_rest_is_delivered(server, tmp_path, capsys):
    """A run that somebody deletes while a driver is away, as the next driver finds it."""
    waiting = tmp_path / "waiting.jsonl"
    with closing(PatientClient(server.uri, waiting)) as client:
        study = tracking.start_study(client, "refused", params={}, tags={})
        runs = [tracking.start_trial(client, study, number, {}, {}) for number in (0, 1)]
        client.settle()
        server.close()
        for run in runs:
            client.set_tag(run, "checkpoint", "/there")
    server.open()
    MlflowClient(server.uri).delete_run(client.run_ids[runs[0]])
    for _ in range(2):
        with closing(PatientClient(server.uri, waiting)) as client:
            client.settle()
            assert [one.checkpoint for one in tracking.read_trials(client, study)] == ["/there"]
    (kept,) = [json.loads(line) for line in (tmp_path / "mlflow_refused.jsonl").read_text().splitlines()]
    assert json.loads(kept["line"])[0::2] == ["set_tag", {"key": "checkpoint", "value": "/there"}]
    assert "must be in the 'active' state" in kept["answer"]
    *_, last = capsys.readouterr().err.splitlines()
    assert last == (
        "the MLflow server has refused 1 line of this study, kept with the answers in "
        f"{tmp_path / 'mlflow_refused.jsonl'}"
    )


@pytest.mark.parametrize("status", ["401 UNAUTHORIZED", "403 FORBIDDEN", "429 TOO MANY REQUESTS", "404 NOT FOUND"])
def test_a_server_that_lets_nobody_in_any_more_is_away(server, tmp_path, status, capsys):
    with closing(PatientClient(server.uri, tmp_path / "waiting.jsonl")) as client:
        study = tracking.start_study(client, status.partition(" ")[0], params={}, tags={})
        server.status = status
        trial(client, study, 0)
        reads = threading.Timer(0.5, lambda: setattr(server, "status", None))
        reads.start()
        assert list(seen(client, study)) == [0]
    assert capsys.readouterr().err.count("the MLflow server is away") == 1


@pytest.mark.parametrize("status", ["401 UNAUTHORIZED", "403 FORBIDDEN"])
def test_a_login_that_is_refused_at_the_start_is_an_error(server, tmp_path, status):
    refused = rf"tracking_uri: {server.uri} refuses the login \({status[:3]}: .*MLFLOW_TRACKING_USERNAME and .*TOKEN"
    server.status = status
    try:
        with pytest.raises(ConfigError, match=refused):
            open_tracking(server.uri)
        with closing(PatientClient(server.uri, tmp_path / "waiting.jsonl")) as client:
            with pytest.raises(ConfigError, match=refused):
                tracking.list_studies(client)
            client.set_tag("run", "key", "value")
            with pytest.raises(ConfigError, match=refused):
                client.settle()
    finally:
        server.status = None
    assert (tmp_path / "waiting.jsonl").exists()


def test_what_goes_wrong_in_the_thread_is_told_and_nothing_is_lost(server, tmp_path, monkeypatch):
    with closing(PatientClient(server.uri, tmp_path / "waiting.jsonl")) as client:
        study = tracking.start_study(client, "broken", params={}, tags={})
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "set_tag", lambda *given: 1 / 0)
            client.set_tag(study.run_id, "checkpoint", "/there")
            with pytest.raises(ZeroDivisionError):
                client.settle()
        client.settle()
        assert client.get_run(study.run_id).data.tags["checkpoint"] == "/there"


def test_drivers_of_one_folder_do_not_share_a_file(server, tmp_path):
    waiting, second = tmp_path / "waiting.jsonl", tmp_path / "waiting-2.jsonl"
    drivers = [PatientClient(server.uri, waiting) for _ in range(2)]
    study = tracking.start_study(drivers[0], "shared", params={}, tags={})
    server.close()
    for number, driver in enumerate(drivers):
        trial(driver, study, number)
    assert len(waiting.read_text().splitlines()) == len(second.read_text().splitlines()) == 10
    for driver in drivers:
        driver.close()
    server.open()
    with closing(PatientClient(server.uri, waiting)) as client:
        client.settle()
        assert sorted(seen(client, study)) == [0, 1]
    assert not waiting.exists()
    assert not second.exists()
