"""What tracking writes into a real SQLite database, against what MLflow's own client reads from it; bad addresses."""

import getpass
import json
import os
import shutil
import subprocess
import sys
from importlib import metadata

import pytest
from mlflow import MlflowClient

from fpt_ray.config.dotted import flatten
from fpt_ray.config.trial import TrialConfig
from fpt_ray.errors import ConfigError
from fpt_ray.tracking import provenance
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.records import STUDY_ID, ImagesNote, trial_tags
from fpt_ray.tracking.server import default_uri, open_tracking, tracking_uri, ui_command

_TELEMETRY_OFF = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS")
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """One study, one finished and one failed trial, in a folder with a space in its name."""
    workdir = tmp_path_factory.mktemp("a study")
    client = open_tracking(default_uri(workdir))
    tags = {"objectives": json.dumps({"val_auc": "max"}), "data_note": "semi-synthetic images"}
    params = flatten(TrialConfig())
    study = tracking.start_study(client, "first", params=params, tags=tags)
    images = ImagesNote(
        name="blood", digest="ab" * 32, uri="s3://AKIA:hunter2@bucket/images.parquet", rows={"train": 9}
    )
    study = tracking.name_images(client, study, images)
    finished = tracking.start_trial(client, study, 0, params, trial_tags({"side.depth": 6}, ""))
    for epoch, auc in ((1, 0.6), (2, 0.8), (3, 0.7)):
        tracking.log_epoch(client, finished, epoch, {"val_auc_epoch": auc, "train_loss": 1 / epoch})
    tracking.end_trial(client, finished, "FINISHED", {"val_auc": 0.8, "best_epoch": 2})
    failed = tracking.start_trial(client, study, 1, params, {})
    tracking.end_trial(client, failed, "FAILED", {}, "the loss is nan in epoch 1")
    tracking.end_study(client, study, "FINISHED", 2, best={"val_auc": 0.8, "fit_seconds": 3.0})
    return workdir, study, finished, failed


@pytest.fixture
def mlflows_own(tracked):
    return MlflowClient(tracking_uri=default_uri(tracked[0]))


def test_a_study_is_one_run_with_its_tags_and_versions(tracked, mlflows_own):
    run = mlflows_own.get_run(tracked[1].run_id)
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params["side.num_prompts"] == "16"
    assert run.data.tags["mlflow.note.content"] == run.data.tags["data_note"] == "semi-synthetic images"
    assert run.data.tags["version.torch"] == metadata.version("torch")
    assert run.data.metrics == {"ledger/trials": 2, "aim/val_auc": 0.8}
    assert run.data.tags["fpt_ray.kind"] == "study"


def test_a_trial_is_a_child_with_every_parameter_by_its_dotted_name(tracked, mlflows_own):
    _, study, finished, _ = tracked
    run = mlflows_own.get_run(finished)
    assert run.data.tags["mlflow.parentRunId"] == study.run_id
    assert (run.data.tags["study"], run.data.tags["number"]) == ("first", "0")
    assert run.data.params == {name: str(value) for name, value in flatten(TrialConfig()).items()}
    assert run.data.params["method"] == "fpt+"
    assert (run.info.status, run.data.metrics["aim/val_auc"]) == ("FINISHED", 0.8)


def test_every_run_says_which_images_it_learns_from_who_made_it_and_with_what(tracked, mlflows_own):
    _, study, finished, _ = tracked
    for run in map(mlflows_own.get_run, (study.run_id, finished)):
        (read,) = run.inputs.dataset_inputs
        assert (read.dataset.name, read.dataset.digest, read.dataset.profile) == (
            "blood",
            "abababababab",
            '{"train": 9}',
        )
        assert "hunter2" not in read.dataset.source
        assert {tag.key: tag.value for tag in read.tags} == {"mlflow.data.context": "training"}
        assert run.data.tags["mlflow.user"] == getpass.getuser()
        assert (run.data.tags["mlflow.source.name"], run.data.tags["mlflow.source.type"]) == ("fpt-ray tune", "LOCAL")
        assert run.data.tags.get("mlflow.source.git.commit") == provenance.provenance().get("git_commit")
    assert mlflows_own.get_run(finished).info.run_name == "#0 · depth 6"
    assert tracking.find_study(mlflows_own, "first").images == study.images


def test_epochs_are_steps(tracked, mlflows_own):
    history = mlflows_own.get_metric_history(tracked[2], "training/val_auc_epoch")
    assert [(point.step, point.value) for point in history] == [(1, 0.6), (2, 0.8), (3, 0.7)]


def test_a_failed_trial_has_its_reason_where_people_and_programs_look(tracked, mlflows_own):
    run = mlflows_own.get_run(tracked[3])
    assert run.info.status == "FAILED"
    assert run.data.tags["reason"] == run.data.tags["mlflow.note.content"] == "the loss is nan in epoch 1"


def test_trials_are_read_back_by_number(tracked, mlflows_own):
    first, second = tracking.read_trials(mlflows_own, tracked[1])
    assert (first.number, first.status, first.reason, first.metrics["best_epoch"]) == (0, "FINISHED", "", 2)
    assert (second.number, second.status, second.reason) == (1, "FAILED", "the loss is nan in epoch 1")
    assert first.params["features.token_ratio"] == "0.2"


def test_more_trials_than_a_page_holds_are_all_read(mlflows_own, tracked, monkeypatch):
    pages = []

    def one_a_page(ids, query, view, size, page_token):
        pages.append(page_token)
        return MlflowClient.search_runs(mlflows_own, ids, query, view, 1, page_token=page_token)

    monkeypatch.setattr(mlflows_own, "search_runs", one_a_page)
    assert [record.number for record in tracking.read_trials(mlflows_own, tracked[1])] == [0, 1]
    assert len(pages) >= 2


def test_files_lie_under_the_working_directory_and_are_replaced(tracked, mlflows_own, tmp_path):
    workdir, study, *_ = tracked
    tracking.attach_text(mlflows_own, study.run_id, "a: 1", "space.yaml")
    for text in ("old", "new"):
        (tmp_path / "front.md").write_text(text)
        tracking.attach(mlflows_own, study.run_id, tmp_path / "front.md", "tables")
    kept = workdir / "mlartifacts" / study.run_id / "artifacts"
    assert (kept / "space.yaml").read_text() == "a: 1"
    assert (kept / "tables" / "front.md").read_text() == "new"
    assert [file.path for file in mlflows_own.list_artifacts(study.run_id, "tables")] == ["tables/front.md"]


def test_without_a_place_for_files_they_lie_beside_the_database(tmp_path):
    client = open_tracking(default_uri(tmp_path))
    study = tracking.start_study(client, "s", params={}, tags={})
    tracking.attach_text(client, study.run_id, "x", "x.txt")
    assert (tmp_path / "mlartifacts" / study.run_id / "artifacts" / "x.txt").exists()


def test_a_study_is_found_by_its_name_and_among_several_by_its_id(tracked, mlflows_own):
    assert tracking.find_study(mlflows_own, "first").run_id == tracked[1].run_id
    with pytest.raises(ConfigError, match="no study 'second' here; known are: first"):
        tracking.find_study(mlflows_own, "second")
    other = tracking.start_study(mlflows_own, "first", params={}, tags={STUDY_ID: "b"})
    with pytest.raises(ConfigError, match="there are 2 studies 'first' here; give the workdir of the one meant"):
        tracking.find_study(mlflows_own, "first")
    assert tracking.find_study(mlflows_own, "first", "b").run_id == other.run_id
    assert tracking.study_with(mlflows_own, "b").run_id == other.run_id
    assert tracking.study_with(mlflows_own, "c") is None
    with pytest.raises(ConfigError, match="study 'first' here is another than that of the workdir"):
        tracking.find_study(mlflows_own, "first", "c")
    mlflows_own.delete_run(other.run_id)


@pytest.mark.parametrize("name", ["", "..", "../other", "a/b", "-s", "a b", "x" * 101])
def test_names_that_are_no_folders_are_refused(mlflows_own, name):
    with pytest.raises(ConfigError, match="use 1 to 100 letters"):
        tracking.start_study(mlflows_own, name, params={}, tags={})


def test_a_deleted_experiment_says_how_to_bring_it_back(tmp_path):
    client = open_tracking(default_uri(tmp_path))
    study = tracking.start_study(client, "s", params={}, tags={})
    client.delete_experiment(study.experiment_id)
    with pytest.raises(ConfigError, match=f"experiments restore --experiment-id {study.experiment_id}"):
        tracking.start_study(client, "t", params={}, tags={})


def test_no_secret_is_written(tracked, mlflows_own):
    secret = "s3://AKIA:hunter2@bucket/x?secret_key=hunter2&region=eu"
    run_id = tracking.start_trial(mlflows_own, tracked[1], 7, {"store": secret}, {"stores": json.dumps([secret])})
    tracking.end_trial(mlflows_own, run_id, "FAILED", {}, f"cannot read {secret}")
    run = mlflows_own.get_run(run_id)
    assert "hunter2" not in str(run.to_dictionary())
    assert run.data.params["store"] == "s3://***@bucket/x?secret_key=***&region=eu"
    assert json.loads(run.data.tags["stores"]) == [run.data.params["store"]]
    mlflows_own.delete_run(run_id)


def test_what_only_looks_like_a_secret_is_kept():
    for text in ("features.token_ratio=0.2", "vit_base_patch16_384.augreg_in21k_ft_in1k", "s3://bucket/a@b", "/a/b?c"):
        assert tracking.without_secrets(text) == text


def test_long_reasons_are_cut_and_long_tags_refused(tracked, mlflows_own):
    run_id = tracking.start_trial(mlflows_own, tracked[1], 8, {"long": "v" * 7000}, {})
    tracking.end_trial(mlflows_own, run_id, "KILLED", {}, "r" * 9000)
    run = mlflows_own.get_run(run_id)
    assert (len(run.data.tags["reason"]), len(run.data.params["long"])) == (8000, 6000)
    mlflows_own.delete_run(run_id)
    with pytest.raises(ConfigError, match="'proposal' takes 8001 characters; MLflow keeps 8000"):
        tracking.start_trial(mlflows_own, tracked[1], 9, {}, {"proposal": "p" * 8001})


@pytest.mark.parametrize(
    "uri",
    [
        "file:///nowhere",  # MLflow's old store of files
        "http://me:hunter2@127.0.0.1:9",  # nobody listens
        "sqlite:////proc/none/mlflow.db",
        "sqlite:////proc",  # no file
        "postgresql://me:hunter2@127.0.0.1:9/db",  # neither driver nor server
        "http://me:hunter2@planted/x@127.0.0.1:9",  # a password as it was pasted: libraries ask the host "planted"
        "nonsense://x",
    ],
)
def test_a_place_that_cannot_be_used_is_said_at_once(uri, monkeypatch):
    monkeypatch.setattr("mlflow.store.db.utils.time", None)  # of a database MLflow asks for 100 s, with naps
    with pytest.raises(ConfigError, match=r"cannot be used .*give sqlite:///PATH/mlflow.db") as error:
        open_tracking(uri)
    assert "AttributeError" not in str(error.value)  # of a nap
    assert "hunter2" not in str(error.value)
    assert "planted" not in str(error.value)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mlflow.db").write_text("a letter to my grandmother, who is no database at all")
    with pytest.raises(ConfigError, match="not a database"):
        open_tracking(default_uri(tmp_path))
    assert (tmp_path / "mlflow.db").read_text().startswith("a letter")


def test_a_workdir_on_s3_holds_no_database(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=r"^workdir is s3://bucket/work, where no database can lie"):
        tracking_uri(None, "s3://bucket/work")
    assert tracking_uri("http://mlflow:5000", "s3://bucket/work") == "http://mlflow:5000"


def test_creating_the_database_prints_nothing_and_reports_to_nobody(tmp_path):
    code = (
        "import sys; from fpt_ray.tracking.server import default_uri, open_tracking;"
        "open_tracking(default_uri(sys.argv[1]));"
        "from mlflow.telemetry.utils import is_telemetry_disabled; assert is_telemetry_disabled()"
    )
    env = {name: value for name, value in os.environ.items() if name not in _TELEMETRY_OFF}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_the_command_for_the_pages_survives_a_shell():
    uri = "sqlite:////tmp/a study; echo x/mlflow.db"
    printed = "import sys; print(sys.argv[1:]) #"
    command = ui_command(uri).replace(f"{sys.executable} -m", f"{sys.executable} -c '{printed}'", 1)
    out = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(["mlflow", "ui", "--host", "127.0.0.1", "--backend-store-uri", uri])
    assert ui_command("https://me:hunter2@mlflow.example") == "https://***@mlflow.example"


@needs_git
def test_provenance_has_versions_and_no_commit_of_somebody_elses_checkout(tmp_path, monkeypatch):
    found = provenance.provenance()
    assert {f"version.{name}" for name in ("fpt_ray", "torch", "timm", "ray", "optuna", "mlflow")} <= set(found)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["commit", "-qm", "x", "--allow-empty"]):
        subprocess.run([*git, *command], check=True)
    inside = tmp_path / "site-packages" / "fpt_ray" / "tracking"
    inside.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(inside / "provenance.py"))
    assert "git_commit" not in provenance.provenance()
    monkeypatch.setenv("FPT_RAY_COMMIT", "0123-dirty")  # as a submitted job has it, which has no checkout
    assert provenance.provenance()["git_commit"] == "0123-dirty"


@needs_git
def test_provenance_says_whether_the_checkout_has_changes(tmp_path, monkeypatch):
    package = tmp_path / "fpt_ray" / "tracking"
    package.mkdir(parents=True)
    (package / "provenance.py").write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    assert provenance.provenance()["git_commit"] == head
    (package / "provenance.py").write_text("changed")
    assert provenance.provenance()["git_commit"] == f"{head}-dirty"
