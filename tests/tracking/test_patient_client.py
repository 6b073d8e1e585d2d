"""A search's writes while MLflow's server is away, against a real one on loopback that is closed and opened again."""

import threading
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from fpt_ray.errors import ConfigError
from fpt_ray.tracking import patient_client
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.patient_client import PatientClient
from fpt_ray.tracking.server import default_uri, open_tracking

pytestmark = pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi")  # inside mlflow's own server


class Quiet(WSGIRequestHandler):
    def log_message(self, *told):
        pass


class Server:
    """MLflow's own application over one SQLite file, on one port."""

    def __init__(self, uri):
        from mlflow.server import app, handlers

        handlers.initialize_backend_stores(uri, default_artifact_root="/nonexistent")
        self.app, self.port, self.server = app, 0, None

    def open(self):
        self.server = make_server("127.0.0.1", self.port, self.app, handler_class=Quiet)
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
        epochs = [(one.step, one.value) for one in client.get_metric_history(seed.info.run_id, "val_auc_epoch")]
        checkpoint = record.tags["checkpoint"].replace(str(record.number), "N")
        found[record.number] = (record.status, record.params, record.metrics, checkpoint, seed.info.status, epochs)
    return found


def test_mlflow_server_away_during_a_search(server, tmp_path, monkeypatch, capsys):
    """Nothing is missing: what was written while it was away equals what was written while it was there."""
    monkeypatch.setattr(patient_client, "_PAUSE_SECONDS", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    waiting = tmp_path / "studies" / "waiting.jsonl"
    client = PatientClient(f"http://127.0.0.1:{server.port}", waiting)
    study = tracking.start_study(client, "s", params={}, tags={})
    trial(client, study, 0)
    server.close()
    trial(client, study, 1)
    with pytest.raises(ConfigError, match=r"away for 0 s; what it lacks is kept in .*waiting\.jsonl.*resume the study"):
        client.settle(0)
    trial(client, study, 2)
    with waiting.open("a") as file:
        file.write('["set_tag", "half a li')  # the driver dies
    server.open()
    PatientClient(f"http://127.0.0.1:{server.port}", waiting).settle()
    assert not waiting.exists()
    found = seen(client, study)
    assert sorted(found) == [0, 1, 2]
    assert found[0] == found[1] == found[2]
    said = capsys.readouterr().err
    assert said.count("is away") == 1
    assert "is back and has taken the 20 lines" in said


def test_what_was_sent_before_a_driver_died_is_not_there_twice(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    client = PatientClient(f"http://127.0.0.1:{server.port}", tmp_path / "waiting.jsonl")
    study = tracking.start_study(client, "twice", params={}, tags={})
    server.close()
    trial(client, study, 0)
    server.open()
    lines = client.waiting.read_text()
    for _ in range(2):
        client.waiting.write_text(lines)
        PatientClient(f"http://127.0.0.1:{server.port}", client.waiting).settle()
    assert list(seen(client, study)) == [0]


def test_what_the_server_refuses_is_an_error_and_does_not_wait(server, tmp_path):
    client = PatientClient(f"http://127.0.0.1:{server.port}", tmp_path / "waiting.jsonl")
    with pytest.raises(MlflowException, match="not found"):
        client.set_tag("none", "key", "value")
    assert not client.waiting.exists()
    assert isinstance(client, MlflowClient)
