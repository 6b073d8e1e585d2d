"""Fronts, tables and lines by hand; a study written with tracking into a real database; the paper's Table 1 as its
numbers stand in test_metrics."""

import base64
import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fpt_ray.config.dotted import flatten
from fpt_ray.config.objectives import Limit
from fpt_ray.config.trial import TrialConfig, trial_from
from fpt_ray.display.door import open_door
from fpt_ray.errors import ConfigError
from fpt_ray.metrics.scores import pme, ppe
from fpt_ray.report import command, publication
from fpt_ray.report.command import Command, report
from fpt_ray.report.command import run as run_report
from fpt_ray.report.confirmation import confirming
from fpt_ray.report.front import front_of, front_table
from fpt_ray.report.pictures import Picture, Point, axis, draw_html, draw_png, paper_points, staircase
from fpt_ray.report.result import read_result, study_result
from fpt_ray.report.summary import rendered, short_names, summarise, value_text
from fpt_ray.report.tested import best_tested
from fpt_ray.report.what_if import what_if
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.folder import claim_folder
from fpt_ray.tracking.records import PRUNED, StudyRun, TrialRecord, study_tags
from fpt_ray.tracking.server import default_uri, open_tracking

SEARCHED = ["side.num_prompts", "features.token_ratio"]
OBJECTIVES = {"val_auc": "max", "memory_ratio": "min"}
NOTE = "semi-synthetic images, drawn from $1 photograph <b>"
TRIALS = [  # prompts, val AUC, memory ratio, on the front by hand
    (4, 0.80, 0.02, True),
    (8, 0.85, 0.03, True),
    (16, 0.84, 0.04, False),
    (32, 0.90, 0.05, True),
    (64, 0.90, 0.06, False),
]


def metrics_of(auc, memory):
    return {
        "val_auc": auc,
        "param_ratio": 0.01,
        "memory_ratio": memory,
        "peak_memory_bytes": memory * 1e10,
        "learnable_parameters": 1e6,
    }


def record(number, status="FINISHED", params=None, reason="", tags=None, **metrics):
    given = {name: str(value) for name, value in flatten(trial_from(params or {})).items()}
    return TrialRecord(
        number=number, run_id=f"r{number}", params=given, metrics=metrics, tags=tags or {}, status=status, reason=reason
    )


def tags_of(note="", limits=None):
    return study_tags(OBJECTIVES, SEARCHED, note, study_id="id", constraints=limits or {})


def result(records, objectives=OBJECTIVES, note="", limits=None):
    tags = study_tags(objectives, SEARCHED, note, study_id="id", constraints=limits or {})
    study = StudyRun(name="s", experiment_id="1", run_id="r", tags=tags)
    return study_result(study, records, {}, "sqlite:///s.db", "studies/s")


@pytest.fixture(scope="module")
def records():
    return [record(n, params={"side.num_prompts": p}, **metrics_of(a, m)) for n, (p, a, m, _) in enumerate(TRIALS)]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """(working directory, tracking URI) of a study of these trials, one failed and one that was started twice."""
    workdir = tmp_path_factory.mktemp("study")
    uri = default_uri(workdir)
    client = open_tracking(uri)
    study = tracking.start_study(client, "s", params={}, tags=tags_of(NOTE))
    for number, (prompts, auc, memory, on_front) in enumerate(TRIALS):
        params = flatten(trial_from({"side.num_prompts": prompts, "features.token_ratio": 0.1 * 3}))
        trial = tracking.start_trial(client, study, number, params, {})
        tested = {"test_auc": auc - 0.1} if on_front else {}
        tracking.end_trial(client, trial, "FINISHED", metrics_of(auc, memory) | tested)
    for status, reason in (("KILLED", "its driver died"), ("FAILED", "the loss is nan\nTraceback of many lines")):
        trial = tracking.start_trial(client, study, 5, flatten(TrialConfig()), {})
        tracking.end_trial(client, trial, status, {}, reason)
    tracking.end_study(client, study, "FINISHED", 0)
    claim_folder(f"{workdir}/studies/s", "id", begun=False)
    return workdir, uri


# --- the front and its table ----------------------------------------------------------------------------------


def test_the_front_is_the_one_by_hand(records):
    front = front_of(records, OBJECTIVES, {})
    assert [found.number for found in front] == [number for number, trial in enumerate(TRIALS) if trial[3]]
    assert [found.number for found in front_of(records, {"val_auc": "max"}, {})] == [3, 4]
    assert [found.number for found in front_of(records, {"memory_ratio": "min"}, {})] == [0]


@pytest.mark.parametrize("pruned", ["stopped early", "infeasible"])
def test_a_pruned_trial_is_shown_as_what_it_is_and_reaches_no_table(records, pruned):
    best = record(9, reason="epoch 3 of 20", tags={PRUNED: pruned}, **metrics_of(1.0, 0.001))
    assert best not in front_of([*records, best], OBJECTIVES, {})
    assert what_if([best], SEARCHED, {}) == what_if([], SEARCHED, {})
    confirming_one = replace(best, tags={**best.tags, "stage": "confirm", "of": "1", "seeds": "5"})
    assert confirming([confirming_one]) == []
    found = summarise(result([*records, best]))
    assert "trial 9" not in [point.name for point in found.picture.trials]
    assert found.failed == (f"trial 9 {pruned}: epoch 3 of 20",)
    told = replace(best, reason=f"{pruned} before training")
    assert summarise(result([told])).failed == (f"trial 9 {pruned} before training",)


@pytest.mark.parametrize("status", ["FAILED", "KILLED", "RUNNING"])
def test_only_finished_trials_reach_the_front(records, status):
    better = record(9, status=status, **metrics_of(1.0, 0.001))
    assert better not in front_of([*records, better], OBJECTIVES, {})


def test_a_trial_without_an_objective_or_with_nan_is_not_on_the_front(records):
    for broken in (record(9, memory_ratio=0.0), record(9, **metrics_of(float("nan"), 0.0))):
        assert front_of([*records, broken], OBJECTIVES, {}) == front_of(records, OBJECTIVES, {})
    assert front_of([], OBJECTIVES, {}) == []


def test_the_table_is_sorted_by_memory_and_follows_the_test_auc_where_there_is_one(records):
    tested = record(7, **metrics_of(0.95, 0.01), test_auc=0.7, measured_peak_memory_bytes=2**21)
    first, second = front_table([records[0], tested], SEARCHED)
    assert (first["trial"], second["trial"]) == (7, 0)
    assert (first["ppe"], first["pme"]) == (ppe(0.7, 0.01), pme(0.7, 0.01))
    assert (second["ppe"], second["pme"], second["test_auc"]) == (ppe(0.80, 0.01), pme(0.80, 0.02), None)
    assert (first["measured_peak_memory_bytes"], second["measured_peak_memory_bytes"]) == (2**21, None)
    assert (second["side.num_prompts"], second["features.token_ratio"]) == ("4", "0.2")
    assert "measured_peak_memory_bytes" not in front_table([records[0]], SEARCHED)[0]


def test_the_heading_says_which_auc_ppe_and_pme_are_of(records):
    tested = record(7, **metrics_of(0.95, 0.01), test_auc=0.7)
    heading = {
        "of the validation AUC.": records,
        "of the test AUC.": [tested],
        "of the test AUC (of the validation AUC for trial 0).": [tested, records[0]],
    }
    for words, trials in heading.items():
        objectives = {"val_auc": "max", "param_ratio": "min"} if len(trials) == 1 else {"param_ratio": "min"}
        assert f"PPE and PME are {words}" in rendered(summarise(result(trials, objectives)), "markdown")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("val_auc", 0.91234, "91.23"),
        ("param_ratio", 0.0103, "1.03"),
        ("memory_ratio", 0.0318, "3.18"),
        ("peak_memory_bytes", 736 * 2**20, "736"),
        ("test_auc", None, "-"),
        ("side.depth", "6", "6"),
        ("features.token_ratio", "0.30000000000000004", "0.3"),
        ("training.learning_rate", "5e-05", "5e-05"),
        ("backbone.name", "vit_small_patch14_dinov2", "vit_small_patch14_dinov2"),
        ("features.importance", "class_token", "class_token"),
    ],
)
def test_values_as_people_read_them(name, value, text):
    assert value_text(name, value) == text


def test_names_are_short_only_where_they_stay_different():
    names = ["side.resolution", "features.resolution", "side.depth"]
    assert list(short_names(names).values()) == ["side.resolution", "features.resolution", "depth"]


def test_the_table_in_every_form(records):
    found = summarise(result(records, note=NOTE))
    rows = json.loads(rendered(found, "json"))
    assert [{name: row[name] for name in row if name != "data_note"} for row in rows] == list(found.rows)
    read = list(csv.DictReader(io.StringIO(rendered(found, "csv"))))
    assert [float(row["val_auc"]) for row in read] == [0.80, 0.85, 0.90]
    assert {row["data_note"] for row in [*rows, *read]} == {NOTE}
    front, *further = rendered(found, "markdown").split("With a smaller budget")
    assert len(further) == 1
    markdown = [line for line in front.splitlines() if line.startswith("|")]
    assert len(markdown) == 5
    assert len({line.count("|") for line in markdown}) == 1
    lines = rendered(found, "text").splitlines()
    table = lines[lines.index("") + 1 :]
    table = table[: table.index("")]
    assert table[0].split()[:3] == ["trial", "num_prompts", "token_ratio"]
    assert [line.split()[:3] for line in table[1:]] == [["0", "4", "0.2"], ["1", "8", "0.2"], ["3", "32", "0.2"]]


def test_a_study_without_a_finished_trial_says_so():
    found = summarise(result([record(0, status="FAILED", reason="x")]))
    assert rendered(found, "json") == "[]"
    assert rendered(found, "csv") == ""
    for form in ("text", "markdown"):
        assert "no trial has finished" in rendered(found, form)
        assert "trial 0 failed: x" in rendered(found, form)


def test_of_many_failures_the_first_are_listed():
    failed = [record(number, status="FAILED", reason=f"reason {number}") for number in range(23)]
    text = rendered(summarise(result(failed)), "text")
    assert text.count("failed: reason") == 20
    assert "and 3 more" in text


# --- the pictures ---------------------------------------------------------------------------------------------


def point(auc, memory=1.0, name="trial 1", **rest):
    return Point(name=name, score=auc, memory_mib=memory, param_percent=1.0, **rest)


def test_the_line_is_the_best_up_to_each_cost():
    points = [point(auc, memory) for memory, auc in [(1, 0.5), (2, 0.4), (3, 0.7), (3, 0.9), (4, 0.8)]]
    assert staircase(points, lambda point: point.memory_mib) == ([1, 3, 3], [0.5, 0.5, 0.9])


def test_the_papers_points_are_those_of_its_table_where_backbone_resolution_and_batch_are_its_own():
    params = {name: str(value) for name, value in flatten(TrialConfig()).items()}
    points, why = paper_points([params, params])
    found = {point.name: (point.param_percent, point.memory_mib, point.score) for point in points}
    assert len(found) == 10
    assert found["FPT+"] == (1.03, 736, pytest.approx(0.8712))
    assert found["Full fine-tuning"] == (100, 23128, pytest.approx(0.8882))
    assert "other images" in why
    dino, _ = paper_points([params | {"backbone.name": "vit_base_patch16_224.dino"}])
    assert {point.name: point.score for point in dino}["FPT+"] == pytest.approx(0.8726)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"backbone.name": "vit_small_patch14_dinov2"}, "vit_small_patch14_dinov2"),
        ({"backbone.weights": "random"}, "vit_base_patch16_384"),
        ({"features.resolution": "448"}, "448 px"),
        ({"training.batch_size": "64"}, "batch 64"),
    ],
)
def test_the_papers_points_are_left_out_with_a_reason_where_something_differs(change, named):
    params = {name: str(value) for name, value in flatten(TrialConfig()).items()}
    for settings in ([params | change], [params, params | change]):
        points, why = paper_points(settings)
        assert points == ()
        assert "not drawn" in why
        assert named in why


def test_every_finished_trial_is_drawn_and_trial_0_marked(records):
    """As the one nearest to the paper's settings, unless its study began elsewhere, as grids and rungs do."""
    broken = [record(8, **metrics_of(float("nan"), 0.1)), record(9, status="FAILED", **metrics_of(0.9, 0.1))]
    picture = summarise(result([*records, *broken], note=NOTE)).picture
    assert [point.name for point in picture.trials] == [f"trial {number}" for number in range(5)]
    assert [point.on_front for point in picture.trials] == [trial[3] for trial in TRIALS]
    assert [point.is_first for point in picture.trials] == [True, False, False, False, False]
    tags = study_tags(OBJECTIVES, SEARCHED, "", study_id="id", constraints={}, starts_at_paper=False)
    study = StudyRun(name="s", experiment_id="1", run_id="r", tags=tags)
    elsewhere = summarise(study_result(study, records, {}, "sqlite:///s.db", "studies/s")).picture
    assert not any(point.is_first for point in elsewhere.trials)
    assert "side.num_prompts = 4" in picture.trials[0].details
    assert len(picture.paper) == 10  # the default trial is the paper's
    assert NOTE in picture.caption


@pytest.mark.parametrize("number", [1, 3])
def test_the_png_shows_each_group_in_its_colour(tmp_path, number):
    trials = [point(0.7 + 0.1 * i, 500 + i, on_front=i == 0, is_first=i == 1) for i in range(number)]
    draw_png(Picture(title="Study s", caption=NOTE, trials=trials), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.text["Description"] == NOTE
        seen = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for color, drawn in (((213, 94, 0), True), ((140, 149, 159), number > 1), ((0, 114, 178), number > 1)):
        assert (seen == color).all(axis=1).any() == drawn
    assert not (seen == (0, 158, 115)).all(axis=1).any()  # no point of the paper's


@pytest.mark.parametrize("shares", [(0.0, 6.0, 3.0), (0.0, 0.0)])
def test_what_learns_nothing_stands_left_of_all_others(tmp_path, shares):
    trials = [replace(point(0.7, on_front=True), param_percent=share) for share in shares]
    title, place = axis(trials, "share", "param_percent")
    assert (title, [place(one) for one in trials]) == ("share, 0 is drawn at 1", [share or 1.0 for share in shares])
    draw_png(Picture(title="s", caption="", trials=trials), tmp_path / "a.png")
    draw_html(Picture(title="s", caption="", trials=trials), tmp_path / "a.html")
    assert axis(trials, "memory", "memory_mib")[0] == "memory"


def test_the_page_holds_every_trial_and_needs_no_network(tmp_path, records):
    picture = summarise(result(records, note="</script><b>")).picture
    draw_html(picture, tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    for prompts in (4, 8, 16, 32, 64):
        assert f"side.num_prompts = {prompts}" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert "</script><b>" not in page
    assert "the paper's Table 1" in page
    draw_html(picture, tmp_path / "b.html")
    assert (tmp_path / "b.html").read_text() == page


# --- the command ----------------------------------------------------------------------------------------------


def test_the_report_prints_draws_and_attaches(tracked, capsys):
    workdir, uri = tracked
    for _ in range(2):  # again: replaced
        report("s", tracking_uri=uri, workdir=str(workdir))
    out = capsys.readouterr().out
    client = open_tracking(uri)
    study = tracking.find_study(client, "s")
    for part in (
        "3 of 6 trials on the front of val_auc (max), memory_ratio (min)",
        NOTE,
        "of the test AUC.",
        "trial 5 killed: its driver died",
        "trial 5 failed: the loss is nan\n",
        "mlflow ui",
        study.run_id,
    ):
        assert part in out
    assert "Traceback" not in out
    files = {"front.png", "front.html", "front.md", "note", "report.html"}
    assert {file.path for file in client.list_artifacts(study.run_id)} == files
    folder = workdir / "studies" / "s"
    attached = workdir / "mlartifacts" / study.run_id / "artifacts"
    for name in ("front.png", "front.html", "front.md"):
        assert (attached / name).read_bytes() == (folder / name).read_bytes()
    assert NOTE in (folder / "front.md").read_text()


def test_a_report_needs_nothing_that_another_one_removes_as_it_begins(tracked, monkeypatch):
    workdir, uri = tracked
    result = read_result(open_tracking(uri), "s", uri, str(workdir))
    folder = result.places.folder

    def beside_another(*args):
        for file in folder.glob("front.*"):
            file.unlink()
        return best_tested(*args)

    monkeypatch.setattr(publication, "best_tested", beside_another)
    publication.publish(result)
    assert sorted(file.name for file in folder.glob("front.*")) == ["front.html", "front.md", "front.png"]
    picture = base64.b64encode((folder / "front.png").read_bytes()).decode()
    assert picture in (folder / "report.html").read_text()


def test_another_working_directory_is_told_the_table_and_writes_nothing(tracked, tmp_path, capsys):
    """Else everybody would see a page that was made without the study's images and bundles."""
    client = open_tracking(tracked[1])
    study = tracking.find_study(client, "s")
    before = [(file.path, file.file_size) for file in client.list_artifacts(study.run_id)]
    note = client.get_run(study.run_id).data.tags.get("mlflow.note.content")
    with pytest.raises(
        ConfigError, match=r"--workdir: .*studies/s is not the folder of study 's', .* in which it was run"
    ):
        report("s", tracking_uri=tracked[1], workdir=str(tmp_path))
    assert "val_auc" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert [(file.path, file.file_size) for file in client.list_artifacts(study.run_id)] == before
    assert client.get_run(study.run_id).data.tags.get("mlflow.note.content") == note


def test_an_unknown_study_is_named_with_those_there_are(tracked):
    with pytest.raises(ConfigError, match="no study 'other' here; known are: s"):
        report("other", tracking_uri=tracked[1], workdir=str(tracked[0]))


def test_the_command_as_typed_prints_nothing_but_the_table(tracked):
    command = [sys.executable, "-m", "fpt_ray.report", "--study", "s", "--format", "json"]
    places = ["--workdir", str(tracked[0]), "--tracking-uri", tracked[1]]
    done = subprocess.run([*command, *places], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [row["trial"] for row in json.loads(done.stdout)] == [0, 1, 3]


# --- the paper's tables and figures ---------------------------------------------------------------------------

ROWS = [  # label, what differs from FPT+'s defaults, test AUC
    ("LoRA", {"method": "lora"}, 0.80),
    ("FPT+", {}, 0.85),
    ("", {"side.resolution": 64}, 0.84),
    ("", {"side.num_prompts": 4}, 0.83),
    ("", {"side.depth": 3}, 0.82),
    ("", {"features.token_ratio": 0.5}, 0.81),
    ("Side network alone", {"side.num_prompts": 0, "features.preloaded": False}, 0.70),
]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """(working directory, tracking URI) of studies DDR and CMMD as a grid with seeds leaves them, and an empty one."""
    workdir = tmp_path_factory.mktemp("compared")
    uri = default_uri(workdir)
    client = open_tracking(uri)
    for name, lower in (("DDR", 0.0), ("CMMD", 0.1)):
        study = tracking.start_study(client, name, params={}, tags=tags_of(NOTE))
        for number, (label, over, auc) in enumerate(ROWS):
            params = flatten(trial_from({"backbone.name": "vit_base_patch16_224.dino", **over}))
            for stage, score in (("choose", 0.99), ("final", auc - lower)):
                run = tracking.start_trial(client, study, number, params, {"label": label, "stage": stage})
                if label == "FPT+":
                    of_seed = tracking.start_seed(client, study, run, 0, 0)
                    tracking.end_trial(client, of_seed, "FINISHED", {"val_auc": 0.999, "test_auc": 0.999})
                tested = {"test_auc": score, "test_auc_std": 0.01}
                tracking.end_trial(client, run, "FINISHED", metrics_of(score, 0.03) | tested)
    tracking.start_study(client, "empty", params={}, tags=tags_of())
    return workdir, uri


def run_as(compared, name, *studies, **options):
    run_report(Command(study=studies, as_=name, workdir=str(compared[0]), tracking_uri=compared[1], **options))


def test_seeds_are_not_trials(compared):
    client = open_tracking(compared[1])
    assert len(tracking.read_trials(client, tracking.find_study(client, "DDR"))) == 2 * len(ROWS)


@pytest.mark.parametrize(
    ("name", "row"),  # by hand, over both studies: FPT+'s mean AUC is 80, (0.85 + 0.75) / 2
    [
        ("table1", "FPT+ 1.00 286 *85.00 ± 1.00* *75.00 ± 1.00* *80.00* *79.66* *78.98*"),
        ("table1_dino", "FPT+ 1.00 286 *85.00 ± 1.00* *75.00 ± 1.00* *80.00* *79.66* *78.98*"),
        ("table2", "FPT+ 286 *80.00*"),
        ("table3", "128 *80.00* 286 *78.98*"),
        ("table4", "16 *80.00* 1.00 286 *79.66* *78.98*"),
        ("figure1", "FPT+ 1.00 286 *80.00*"),
        ("figure6", "6 *80.00* *79.66* *78.98* 286"),
        ("figure7", "+ Preloading *80.00* 286"),
        ("figure8", "0.2 *80.00* *79.66* *78.98*"),
    ],
)
def test_each_table_and_figure_from_two_studies(compared, capsys, name, row):
    run_as(compared, name, "DDR", "CMMD")
    out = capsys.readouterr().out
    assert row.split() in [line.split() for line in out.splitlines()]
    assert "99.9" not in out  # seeds
    assert "99.00" not in out  # what was only to choose from
    assert NOTE in out
    kinds = {"md", "png", "html"} if name.startswith("figure") else {"md"}
    assert ("picture: " in out) == ("png" in kinds)
    client = open_tracking(compared[1])
    for study in ("DDR", "CMMD"):
        attached = {file.path for file in client.list_artifacts(tracking.find_study(client, study).run_id)}
        assert {file for file in attached if file.startswith(f"{name}.")} == {f"{name}.{kind}" for kind in kinds}


def test_the_numbers_behind_a_figure_alone_are_on_stdout(compared, capsys):
    run_as(compared, "figure8", "DDR", paper=True, format="csv")
    said = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [float(row["Avg. AUC"]) for row in rows] == [85.0, 81.0]
    assert [row["paper Avg. AUC"] for row in rows] == ["87.12", ""]
    assert "figure8.png" in said.err


def test_a_data_sets_numbers_in_the_paper_stand_beside_the_study_named_after_it(compared, capsys):
    run_as(compared, "table1_dino", "DDR", paper=True, format="json")
    row = json.loads(capsys.readouterr().out)[-1]
    assert (row["DDR"], row["paper DDR"], row["paper DDR std"]) == (85.0, 86.52, 0.42)
    assert (row["paper Avg."], row["paper Mem. (MB)"]) == (87.26, 736)


@pytest.mark.parametrize(
    ("studies", "options", "message"),
    [
        (
            ("DDR", "empty"),
            {"as_": "table3"},
            "study 'empty' has no final trial for Table 3.*fpt-ray tune --space table3 ",
        ),
        (("DDR", "other"), {"as_": "table1"}, "there is no study 'other' here"),
        ((), {"as_": "table1"}, "--study: none is given"),
        (("DDR", "CMMD"), {}, "several studies: only with --as"),
        (("DDR",), {"paper": True}, "--paper: only with --as"),
        (("DDR",), {"format": "latex"}, "--format latex: only with --as"),
    ],
)
def test_what_cannot_be_reported_is_said_in_one_line(compared, studies, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        run_report(Command(study=studies, workdir=str(compared[0]), tracking_uri=compared[1], **options))
    assert "\n" not in str(error.value)


def test_a_table_as_typed_for_several_studies(compared, capsys):
    options = ["--study", "DDR", "CMMD", "--as", "table1", "--format", "latex", "--paper"]
    places = ["--workdir", str(compared[0]), "--tracking-uri", compared[1]]
    open_door(command, "report", [*options, *places])
    assert r"\textbf{85.00 $\pm$ 1.00}" in capsys.readouterr().out


# --- constraints --------------------------------------------------------------------------------------------------


def test_what_breaks_a_constraint_is_on_no_front_and_within_no_budget_but_shown_apart():
    """Two trials that dominate each other in nothing; with val_auc >= 0.8 the front is the first, as Optuna has it."""
    limits = {"val_auc": Limit(low=0.8)}
    good = record(0, params={"side.num_prompts": 16}, **metrics_of(0.9, 0.02))
    bad = record(1, params={"side.num_prompts": 4}, **metrics_of(0.7, 0.01))
    assert front_of([good, bad], OBJECTIVES, {}) == [good, bad]
    assert front_of([good, bad], OBJECTIVES, limits) == [good]
    budgets = {row["at most"]: row["trial"] for row in what_if([good, bad], SEARCHED, limits)}
    assert set(budgets.values()) <= {0, "none fits"}
    found = result([good, bad], limits=limits)
    assert (found.front, found.infeasible) == ((good,), (bad,))
    summary = summarise(found)
    assert [point.name for point in summary.picture.trials] == ["trial 0"]
    text = rendered(summary, "text")
    assert "Infeasible: trained to the end" in text
    assert "val_auc is 0.7, at least 0.8" in text
    assert "Infeasible" not in rendered(summarise(result([good, bad])), "text")


def test_the_limits_of_a_study_are_read_back_from_its_tags():
    study = StudyRun(name="s", experiment_id="1", run_id="r", tags=tags_of(limits={"pme": Limit(low=0.1, high=0.2)}))
    assert study.constraints == {"pme": Limit(low=0.1, high=0.2)}
