"""What a report leaves on MLflow's pages, in a real database: the note, the marks of the front, the saved view."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from fpt_ray.config.dotted import flatten
from fpt_ray.config.trial import trial_from
from fpt_ray.report.mlflow_page import note_text, show_in_mlflow
from fpt_ray.report.mlflow_view import saved_view
from fpt_ray.report.publication import places_text
from fpt_ray.report.result import read_result
from fpt_ray.report.summary import summarise
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.records import ON_FRONT, study_tags
from fpt_ray.tracking.server import default_uri, open_tracking

SEARCHED = ["side.num_prompts", "features.token_ratio"]
OBJECTIVES = {"val_auc": "max", "memory_ratio": "min"}


@pytest.fixture
def study(tmp_path):
    """A study without trials, what adds one of so many prompts, and what reads the result."""
    uri = default_uri(tmp_path)
    client = open_tracking(uri)
    run = tracking.start_study(
        client, "s", params={}, tags=study_tags(OBJECTIVES, SEARCHED, "drawn images", study_id="i", constraints={})
    )

    def add(number, auc, memory):
        params = flatten(trial_from({"side.num_prompts": 4 + number}))
        trial = tracking.start_trial(client, run, number, params, {})
        costs = {"param_ratio": 0.01, "peak_memory_bytes": memory * 1e10, "learnable_parameters": 1e6}
        tracking.end_trial(client, trial, "FINISHED", {"val_auc": auc, "memory_ratio": memory, **costs})

    def result():
        return read_result(client, "s", uri, str(tmp_path))

    return SimpleNamespace(client=client, run_id=run.run_id, experiment=run.experiment_id, add=add, result=result)


def show(study, picture):
    result = study.result()
    show_in_mlflow(study.client, result, summarise(result), picture)
    return result


def test_the_note_has_the_front_its_picture_a_link_and_the_command_for_new_images(study, tmp_path):
    study.add(0, 0.8, 0.02)
    study.add(1, 0.9, 0.04)
    picture = tmp_path / "front.png"
    Image.new("RGB", (1800, 900)).save(picture)
    result = show(study, picture)
    note = study.client.get_run(study.run_id).data.tags["mlflow.note.content"]
    assert "Images: drawn images." in note
    assert f"fpt-ray predict --model s --workdir {tmp_path} --images DIR --out out.csv" in note
    rows = [re.sub(r" +", " ", line) for line in note.splitlines() if line.startswith("|")]
    assert rows[0].startswith("| trial | num_prompts | token_ratio | val AUC |")
    assert rows[3].startswith("| 1 | 5 | 0.2 | 90.00 |")
    link = places_text(result).partition("compare: http://127.0.0.1:5000/")[2]
    assert f"viewStateShareKey={study.run_id}" in link
    assert f"[Compare the front]({link})" in note
    assert f"![the front](get-artifact?path=note/front-small.png&run_uuid={study.run_id})" in note
    shown = study.client.download_artifacts(study.run_id, "note/front-small.png", str(tmp_path))
    with Image.open(shown) as image:
        assert image.size == (760, 380)


def test_trials_that_leave_the_front_are_unmarked(study, tmp_path):
    study.add(0, 0.8, 0.02)
    study.add(1, 0.7, 0.03)
    show(study, tmp_path / "none.png")
    marks = [record.tags.get(ON_FRONT) for record in study.result().trials]
    assert marks == ["true", None]
    study.add(2, 0.9, 0.01)
    show(study, tmp_path / "none.png")
    marks = [record.tags.get(ON_FRONT) for record in study.result().trials]
    assert marks == ["false", None, "true"]


def test_the_note_of_a_large_front_keeps_to_what_mlflow_takes(study):
    study.add(0, 0.8, 0.02)
    found = summarise(study.result())
    note = note_text(study.result(), replace(found, rows=found.rows * 300), with_picture=True)
    assert 6000 < len(note) <= 8000
    assert " more, in front.md" in note
    assert note.endswith(found.heading[-1])


def test_without_a_finished_trial_the_note_says_so(study, tmp_path):
    show(study, tmp_path / "none.png")
    note = study.client.get_run(study.run_id).data.tags["mlflow.note.content"]
    assert note == "Images: drawn images.\n\nNo trial has finished."


def test_the_saved_view_is_of_the_front_and_weighs_the_studys_score(study, tmp_path):
    study.add(0, 0.8, 0.02)
    show(study, tmp_path / "none.png")
    tags = study.client.get_experiment(study.experiment).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{study.run_id}"])
    state = json.loads(view["state"])
    order = [f"{state['orderByKey']} ASC"]
    (found,) = study.client.search_runs([study.experiment], state["searchFilter"], order_by=order)
    assert found.data.metrics["aim/val_auc"] == 0.8
    lines, memory, _, gains = state["compareRunCharts"]
    assert (view["name"], lines["selectedParams"]) == ("The front of s", SEARCHED)
    assert lines["selectedMetrics"] == ["aim/ppe", "aim/pme", "aim/val_auc"]
    assert (memory["xaxis"]["key"], memory["yaxis"]["key"]) == ("cost/memory_ratio", "aim/val_auc")
    assert (gains["xaxis"]["key"], gains["yaxis"]["key"]) == ("aim/pme", "aim/ppe")
    assert len(tags[f"mlflow.sharedViewState.{study.run_id}"]) < 5000  # the least that a database of MLflow's takes


def test_a_score_that_may_be_negative_has_no_gains_to_show():
    state = json.loads(json.loads(saved_view("s", "r", SEARCHED, "kappa", 0)[1])["state"])
    assert [chart["type"] for chart in state["compareRunCharts"]] == ["PARALLEL", "SCATTER", "SCATTER"]
    assert state["compareRunCharts"][0]["selectedMetrics"] == ["aim/val_kappa"]
    assert "metrics.`aim/test_kappa`" in state["selectedColumns"]
