"""The fault table, MLflow: a real server, killed in the middle of a search and started again a minute later.

Compared with the same search of the same seed that nothing disturbs: every parameter, every metric of every epoch.
"""

import contextlib
import threading
import time
from functools import partial

import pytest

from fpt_ray.display.terminal import run_command
from fpt_ray.errors import ConfigError
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.patient_client import PatientClient
from fpt_ray.tracking.server import default_uri, open_tracking
from fpt_ray.tune import study_run
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.study import run_study
from tests.mlflow_server import Server
from tests.searches import agree, finished_in, of_store

AWAY_SECONDS = 60
TRIALS = 6
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster"), pytest.mark.timeout(600)]


@pytest.fixture
def server(tmp_path):
    found = Server(tmp_path)
    found.start()
    yield found
    with contextlib.suppress(ProcessLookupError):
        found.kill()


def seen(uri, name):
    """{trial's number: all that is held of it, but for what measures time}."""
    client = open_tracking(uri)
    found = {}
    for record in tracking.read_trials(client, tracking.find_study(client, name)):
        metrics = {
            key: [(one.step, one.value) for one in client.get_metric_history(record.run_id, key)]
            for key in client.get_run(record.run_id).data.metrics
        }
        timed = {key: values for key, values in metrics.items() if key.startswith(("time/", "system/"))}
        exact = {metric: values for metric, values in metrics.items() if metric not in timed}
        found[record.number] = (record.status, record.params, exact, sorted(timed))
    return found


def test_sigkill_of_the_mlflow_server_that_is_away_for_60_s_during_a_search(store, server, tmp_path, capsys):
    journal = tmp_path / "studies" / "m" / "optuna.log"
    command = of_store(store, study="m", num_trials=TRIALS, at_once=1)
    during = []

    def disturb():
        while not finished_in(journal):
            time.sleep(0.02)
        server.kill()
        before = finished_in(journal)
        time.sleep(AWAY_SECONDS)
        during.append(finished_in(journal) - before)
        server.start()

    disturber = threading.Thread(target=disturb, daemon=True)
    disturber.start()
    run_study(StudyOptions(**command, workdir=str(tmp_path), tracking_uri=server.uri))
    disturber.join()
    said = capsys.readouterr().err
    assert during[0] >= 2  # trials went on
    assert said.count("the MLflow server is away (") == 1
    assert "the MLflow server is back and has taken the" in said
    assert not list(journal.parent.glob("mlflow_waiting*"))
    agree(str(tmp_path), "m", TRIALS, uri=server.uri)
    calm = str(tmp_path / "calm")
    run_study(StudyOptions(**command, workdir=calm))
    assert seen(server.uri, "m") == seen(default_uri(calm), "m")


def test_sigkill_of_the_mlflow_server_that_does_not_come_back(store, server, tmp_path, capsys, monkeypatch):
    """The search ends and keeps all; the user reads what to do; with the server there again, the study is completed."""
    journal = tmp_path / "studies" / "g" / "optuna.log"
    command = of_store(store, study="g", num_trials=3, workdir=str(tmp_path))
    command |= {"tracking_uri": server.uri}
    monkeypatch.setattr(study_run, "PatientClient", partial(PatientClient, patience_seconds=2))

    def disturb():
        while not finished_in(journal):
            time.sleep(0.02)
        server.kill()

    threading.Thread(target=disturb, daemon=True).start()
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: run_study(StudyOptions(**command)))
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    (waiting,) = journal.parent.glob("mlflow_waiting*")
    assert last == (
        f"error: the MLflow server has been away for 2 s; what it lacks is kept in {waiting}: bring it back and "
        "resume the study"
    )
    assert finished_in(journal) == 3
    with pytest.raises(ConfigError, match=f"tracking_uri: {server.uri} cannot be used"):
        run_study(StudyOptions(**command, resume=True))
    server.start()
    run_study(StudyOptions(**command, resume=True))
    agree(str(tmp_path), "g", 3, uri=server.uri)
