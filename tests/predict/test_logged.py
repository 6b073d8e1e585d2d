"""Bundles as MLflow's models, against the bundle itself: in this process, from the registry, behind a real server."""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from fpt_ray.config.dotted import flatten
from fpt_ray.config.trial import override
from fpt_ray.errors import ConfigError
from fpt_ray.predict import logged
from fpt_ray.predict.classifier import load
from fpt_ray.predict.finding import bundle_named
from fpt_ray.predict.logged import log_study, log_study_if_possible
from fpt_ray.predict.verbs import log
from fpt_ray.tracking import models, runs
from fpt_ray.tracking.folder import claim_folder
from fpt_ray.tracking.names import metric_key
from fpt_ray.tracking.records import study_tags, trial_tags
from fpt_ray.tracking.server import default_uri, open_tracking, quiet
from fpt_ray.train.bundle import BUNDLE_FILE, bundle_digest
from tests.predict.bundles import TRIAL, left, stored, table_of_images
from tests.stores import draw_images

SCORES = {0: 0.7, 3: 0.9, 4: 0.8}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(workdir with the bundles of a study "s.1" and its runs in MLflow, a client); the bundles are of one training."""
    workdir = tmp_path_factory.mktemp("work")
    table, trial = table_of_images(draw_images(workdir / "images")), override(TRIAL, {"method": "probe"})
    bundle = left(trial, stored(trial, table, workdir / "store"), workdir, seeds=2)
    client = open_tracking(default_uri(workdir))
    tags = study_tags({"val_auc": "max"}, [], "", study_id="x", constraints={})
    run = runs.start_study(client, "s.1", params={}, tags=tags)
    claim_folder(f"{workdir}/studies/s.1", "x", begun=False)
    for number, score in SCORES.items():
        told = runs.start_trial(client, run, number, flatten(trial), trial_tags({}, "", stage="final", seeds=2))
        runs.log_epoch(client, told, 1, {"val_auc_epoch": score / 2})
        runs.end_trial(client, told, "FINISHED", {"val_auc": score})
        folder = workdir / f"studies/s.1/bundles/trial-{number:04d}"
        shutil.copytree(bundle, folder)
        document = json.loads((folder / BUNDLE_FILE).read_text())
        document["metrics"]["val_auc"] = score
        (folder / BUNDLE_FILE).write_text(json.dumps(document))
        (folder / "evidence").mkdir()
        (folder / "evidence" / "00000-patient.png").write_bytes(b"of somebody")
    return str(workdir), client


def records_of(client):
    return {record.number: record for record in runs.read_trials(client, runs.find_study(client, "s.1"))}


def an_image(workdir):
    return next(Path(workdir, "images").rglob("*.png"))


def test_every_bundle_is_a_model_of_its_trials_run_and_the_best_is_the_champion(study, capsys):
    workdir, client = study
    log("s.1", register="blood cells", workdir=workdir)
    said = capsys.readouterr().out
    assert "models: 3 of study s.1 in MLflow" in said
    assert "trial 3 is blood cells version 1: models:/blood cells@champion" in said
    for number, record in records_of(client).items():
        (model,) = models.models_of(client, runs.find_study(client, "s.1").experiment_id, record.run_id)
        assert {metric.key: metric.value for metric in model.metrics} == {
            metric_key("val_auc_epoch"): SCORES[number] / 2,
            metric_key("val_auc"): SCORES[number],
        }
        assert model.name == f"s-1-{number:04d}"
        run = client.get_run(record.run_id)
        assert [one.model_id for one in run.outputs.model_outputs] == [model.model_id]
        assert len(client.get_metric_history(record.run_id, metric_key("val_auc"))) == 1
    own = client.get_run(runs.find_study(client, "s.1").run_id).outputs.model_outputs
    assert len({one.model_id for one in own}) == 3, "the study's run shows them, too"
    log("s.1", register="blood cells", workdir=workdir)
    assert capsys.readouterr().out == said, "what is there is not logged or registered again"
    best = client.get_model_version_by_alias("blood cells", "champion")
    assert best.run_id == records_of(client)[3].run_id
    size = sum(file.stat().st_size for file in Path(best.source.removeprefix("file://")).rglob("*") if file.is_file())
    assert size < 2**20, "the LPM is not in it"


def test_pyfunc_says_what_the_bundle_says_of_bytes_and_paths(study):
    workdir, client = study
    log_study(f"{workdir}/studies/s.1", default_uri(workdir), "blood cells")
    with quiet():
        import mlflow.pyfunc

        model = mlflow.pyfunc.load_model(client.get_model_version_by_alias("blood cells", "champion").source)
    path = an_image(workdir)
    rows = pd.DataFrame({"image": [path.read_bytes(), None], "path": [None, str(path)]})
    expected, found = load(f"{workdir}/studies/s.1/bundles/trial-0003").predict([path]), model.predict(rows)
    np.testing.assert_allclose(
        found[["probability_c0", "probability_c1", "probability_c2"]],
        expected.probabilities.repeat(2, axis=0),
        rtol=1e-5,  # of two images at once
    )
    assert found["class"].tolist() == expected.labels * 2
    np.testing.assert_allclose(found["spread"], expected.spread.repeat(2))
    with pytest.raises(MlflowException, match="image 0: no readable image"):
        model.predict(pd.DataFrame({"image": [b"no image"]}))
    with pytest.raises(MlflowException, match="neither an image nor a path"):
        model.predict(pd.DataFrame({"path": [""]}))
    assert [(one.name, str(one.type)) for one in model.metadata.signature.inputs] == [
        ("image", "DataType.binary"),
        ("path", "DataType.string"),
    ]


def test_a_registered_model_is_a_bundle_by_alias_and_by_version(study):
    workdir, _ = study
    log_study(f"{workdir}/studies/s.1", default_uri(workdir), "blood cells")
    folder = bundle_named("models:/blood cells@champion", workdir)
    assert not [file for file in Path(folder).rglob("*") if "patient" in file.name]
    assert folder == bundle_named("models:/blood cells/1", workdir, default_uri(workdir))
    own = Path(workdir, "studies/s.1/bundles/trial-0003")
    assert {file.name: file.read_bytes() for file in Path(folder).iterdir()} == {
        file.name: file.read_bytes() for file in own.iterdir() if file.is_file()
    }
    kept = sorted(Path(workdir, "models").iterdir())
    late = Path(workdir, "models", "late")
    shutil.copytree(folder, late)
    models._move_once(late, Path(folder))
    shutil.rmtree(late)
    assert sorted(Path(workdir, "models").iterdir()) == kept, "the second who fetches it takes the first's"
    with pytest.raises(OSError, match="No such file"):
        models._move_once(late, Path(workdir, "models", "other"))
    for wrong, why in (
        ("models:/blood cells/7", "Model Version .* not found"),
        ("models:/blood cells@other", "alias other not found"),
        ("models:/blood cells", "give models:/NAME@ALIAS or models:/NAME/VERSION"),
    ):
        with pytest.raises(ConfigError, match=why):
            bundle_named(wrong, workdir)


def test_best_is_of_all_studies_that_ask_the_same(study, tmp_path):
    shutil.copytree(Path(study[0], "studies"), tmp_path / "studies")
    other = tmp_path / "studies/other/bundles/trial-0001"
    shutil.copytree(tmp_path / "studies/s.1/bundles/trial-0003", other)
    document = json.loads((other / BUNDLE_FILE).read_text())
    document["metrics"]["val_auc"] = 0.95
    (other / BUNDLE_FILE).write_text(json.dumps(document))
    assert bundle_named("best", str(tmp_path)) == str(other)
    assert bundle_named("best", study[0]).endswith("studies/s.1/bundles/trial-0003")
    document["classes"] = ["x", "y", "z"]
    (other / BUNDLE_FILE).write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=r"do not compare \(other: auc of multiclass \(x, y, z\), .*; s.1: auc"):
        bundle_named("best", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no study in .* has bundles"):
        bundle_named("best", str(tmp_path / "nowhere"))


def test_a_search_is_not_lost_with_mlflow_and_what_was_half_logged_is_logged_again(study, monkeypatch, capsys):
    workdir, client = study
    name, record = "half", records_of(client)[4]
    experiment = runs.find_study(client, "s.1").experiment_id
    for model in models.models_of(client, experiment, record.run_id):
        client.delete_logged_model(model.model_id)
    real = logged.models.log_model

    def away(client, study, run_id, *_):
        client.create_logged_model(study.experiment_id, name, run_id)
        raise MlflowException("the server is away")

    monkeypatch.setattr(logged.models, "log_model", away)
    log_study_if_possible(f"{workdir}/studies/s.1", default_uri(workdir), "cells")
    said = capsys.readouterr().err
    assert "could not be logged (MlflowException: the server is away)" in said
    assert f"`fpt-ray predict log s.1 --workdir {workdir} --register cells` does it" in said
    elsewhere = f"sqlite:///{workdir}/other.db"
    log_study_if_possible("s3://b/p q/studies/s.1", f"{elsewhere}?password=x", "blood cells")
    again = "`fpt-ray predict log s.1 --workdir 's3://b/p q' --register 'blood cells'"
    assert f"{again} --tracking_uri '{elsewhere}?password=***'` does it" in capsys.readouterr().err
    monkeypatch.setattr(logged.models, "log_model", real)
    log_study(f"{workdir}/studies/s.1", default_uri(workdir))
    (model,) = models.models_of(client, experiment, record.run_id)
    assert models.is_ready(model)


def test_a_bundle_that_was_written_again_is_another_model(study):
    workdir, client = study
    log_study(f"{workdir}/studies/s.1", default_uri(workdir))
    experiment, record = runs.find_study(client, "s.1").experiment_id, records_of(client)[0]
    (first,) = models.models_of(client, experiment, record.run_id)
    file = Path(workdir, "studies/s.1/bundles/trial-0000", BUNDLE_FILE)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"versions": {"git_commit": "another"}}))
    for _ in range(2):
        log_study(f"{workdir}/studies/s.1", default_uri(workdir))
        assert len(models.models_of(client, experiment, record.run_id)) == 2
    assert models.is_of(first, first.tags["fpt_ray.bundle_digest"])
    assert not models.is_of(first, bundle_digest(str(file.parent)))


def test_a_name_is_not_taken_over_by_models_of_other_classes(study):
    workdir, client = study
    log_study(f"{workdir}/studies/s.1", default_uri(workdir), "blood cells")
    before = client.get_model_version_by_alias("blood cells", "champion").version
    model, record = models.models_of(client, "1", records_of(client)[0].run_id)[0], records_of(client)[0]
    with pytest.raises(ConfigError, match="holds models of multiclass: c0, c1, c2, and this one is of binary: no"):
        models.register(client, "blood cells", model.model_id, record.run_id, "binary: no, yes")
    assert client.get_model_version_by_alias("blood cells", "champion").version == before


def test_what_was_confirmed_is_the_best_whatever_a_single_seed_reached(study, tmp_path):
    shutil.copytree(Path(study[0], "studies"), tmp_path / "studies")
    file = tmp_path / "studies/s.1/bundles/trial-0004" / BUNDLE_FILE
    assert bundle_named("s.1", str(tmp_path)).endswith("trial-0003")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"confirms": 3}))
    assert bundle_named("s.1", str(tmp_path)) == str(file.parent)


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "x'y"])
def test_a_name_that_mlflow_or_a_uri_would_misread_is_refused(name):
    with pytest.raises(ConfigError, match="is no name for a model"):
        models.check_model_name(name)


# --- behind MLflow's own server ---------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def posted(port, body):
    """(status, answer) of a server."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_mlflows_own_server_serves_the_champion(study, tmp_path):
    workdir, _ = study
    log_study(f"{workdir}/studies/s.1", default_uri(workdir), "blood cells")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/blood cells@champion"]
    options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # of an environment that is activated
    environment = {**os.environ, "MLFLOW_TRACKING_URI": default_uri(workdir), "PATH": path}
    with open(tmp_path / "log", "w") as said:
        server = subprocess.Popen([*command, *options], env=environment, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 240
        while True:
            assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
            assert time.monotonic() < deadline
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        pixels = np.random.default_rng(1).integers(0, 255, (40, 50, 3), np.uint8)
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "PNG")
        row = {"image": base64.b64encode(sink.getvalue()).decode()}
        status, answer = posted(port, {"dataframe_records": [row, row]})
        expected = load(f"{workdir}/studies/s.1/bundles/trial-0003").predict([pixels])
        assert status == 200
        for found in answer["predictions"]:
            assert found["class"] == expected.labels[0]
            np.testing.assert_allclose(
                [found[f"probability_{name}"] for name in ("c0", "c1", "c2")], expected.probabilities[0], atol=1e-6
            )
        status, answer = posted(port, {"dataframe_records": [{"path": str(an_image(workdir))}]})
        assert (status, len(answer["predictions"])) == (200, 1)
        status, answer = posted(port, {"dataframe_records": [{"image": base64.b64encode(b"no image").decode()}]})
        assert status == 400
        assert "no readable image" in answer["message"]
    finally:
        server.terminate()
        server.wait(30)
