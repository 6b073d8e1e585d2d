"""Studies compared: paired intervals against the bootstrap by hand, and what is said where images differ."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fpt_ray.__main__ import main
from fpt_ray.config.tasks import SCORES, Target
from fpt_ray.errors import ConfigError
from fpt_ray.metrics.intervals import bootstrap, interval
from fpt_ray.metrics.scores import scores
from fpt_ray.report import command
from fpt_ray.report.comparison.studies import check_comparable
from fpt_ray.report.predictions import FILE, predictions_text, read_predictions, same_images
from fpt_ray.report.result import read_result
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.server import open_tracking
from tests.metrics.test_resampled import material
from tests.report.made_study import CLASSES, NOTE, labels_of, make_study, said_of

BEST = 3
"""The made study's best trial; its validation AUC is 0.932."""


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """(working directory, tracking URI) of studies on the same images, on others, and of an earlier version."""
    workdir = tmp_path_factory.mktemp("several")
    make_study(workdir, "a")
    make_study(workdir, "worse", better=-0.3)
    make_study(workdir, "elsewhere", images="other")
    return workdir, make_study(workdir, "early", predictions=False)


def compare(several, *names, **options):
    command.compare(names, workdir=str(several[0]), tracking_uri=several[1], **options)


def test_the_difference_is_paired_and_the_one_by_hand(several, capsys):
    compare(several, "a", "worse", "elsewhere", "early", format="csv")
    found = {row["study"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    labels, worse, own = labels_of("test"), said_of(0.932 - 0.3, BEST), said_of(0.932, BEST)
    drawn = bootstrap([[worse], [own]], labels)["auc"]
    ends = interval(drawn[0] - drawn[1])
    assert ends.high < 0
    row = found["worse"]
    assert (float(row["difference from"]), float(row["difference to"])) == pytest.approx(tuple(ends), abs=1e-4)
    assert row["verdict"] == "differs from a beyond chance"
    assert float(row["test AUC"]) == pytest.approx(scores(worse, labels, CLASSES, "binary")["auc"])
    plain, slashed = (
        read_result(open_tracking(several[1]), "a", several[1], f"{several[0]}{end}") for end in ("", "/")
    )
    assert slashed.places.uri == plain.places.uri
    of_best = {one.number: one.metrics for one in plain.trials}[BEST]
    assert float(found["a"]["params %"]) == pytest.approx(100 * of_best["param_ratio"])
    assert found["a"]["verdict"] == "the others are compared with it"
    for name, why in (("elsewhere", "other test images, labels or classes than a's"), ("early", "early has stored no")):
        assert found[name]["difference from"] == ""
        assert found[name]["verdict"].startswith("not compared")
        assert why in found[name]["verdict"]


def test_the_studies_are_named_after_the_verb(several, capsys):
    places = ["--workdir", str(several[0]), "--tracking_uri", several[1]]
    main(["report", "compare", "a", "worse", "--format", "json", *places])
    assert [row["study"] for row in json.loads(capsys.readouterr().out)] == ["a", "worse"]


def test_both_studies_of_the_same_numbers_are_not_told_apart(several, capsys):
    make_study(several[0], "again")
    compare(several, "a", "again", format="csv")
    row = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))[1]
    assert (float(row["difference from"]), float(row["difference to"])) == (0, 0)
    assert row["verdict"] == "not told apart from a"


def test_the_fronts_stand_in_one_table_and_one_picture_beside_all_runs(several, capsys):
    compare(several, "a", "worse")
    out = capsys.readouterr().out
    best, _, fronts = out.partition("Their fronts")
    assert f"Images of a, worse: {NOTE}." in " ".join(best.split())
    assert [line.split()[:2] for line in fronts.splitlines() if line[:2] in ("a ", "wo")] == [
        [name, str(number)] for name in ("a", "worse") for number in (1, 2, 3, 4)
    ]
    folder = several[0] / "studies" / "a"
    with Image.open(folder / "compared.png") as picture:
        assert picture.text["Title"] == "The fronts of a, worse"
        seen = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for color in ((213, 94, 0), (0, 114, 178)):
        assert (seen == color).all(axis=1).any()
    assert NOTE not in (folder / "compared.html").read_text()  # escaped
    client = open_tracking(several[1])
    for name in ("a", "worse"):
        files = {file.path for file in client.list_artifacts(tracking.find_study(client, name).run_id)}
        assert {"compared.md", "compared.png", "compared.html"} <= files


def test_what_cannot_be_compared_is_said(several):
    with pytest.raises(ConfigError, match="compare: a; give several studies, each once"):
        compare(several, "a")
    with pytest.raises(ConfigError, match="a, a; give several"):
        compare(several, "a", "a")
    client = open_tracking(several[1])
    one, other = (read_result(client, name, several[1], str(several[0])) for name in ("a", "worse"))
    with pytest.raises(ConfigError, match="a by AUC, worse by R2"):
        check_comparable([one, replace(other, score="r2")])


@pytest.mark.parametrize("task", SCORES)
def test_predictions_come_back_from_mlflow_as_they_were(task, tmp_path):
    from mlflow import MlflowClient

    said, labels, classes = material(task)
    hashes = np.random.default_rng(0).integers(0, 256, (len(labels), 32), np.uint8)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    assert read_predictions(client, run) is None
    target = Target(task=task, classes=tuple(classes))
    text = predictions_text(target, hashes, labels, [said, said[:, ::-1]])
    tracking.attach_text(client, run, text, FILE)
    found = read_predictions(client, run)
    assert found is not None
    assert (found.target, len(found.said)) == (target, 2)
    assert found.images[1] == hashes[1].tobytes().hex()
    np.testing.assert_allclose(found.said[0], said, rtol=1e-5)
    np.testing.assert_array_equal(found.labels, labels)
    assert same_images(found, found)
    changed = found.labels.copy()
    changed[0] = changed[0] + 1
    for other in (
        replace(found, labels=changed),
        replace(found, images=(found.images[1], found.images[0], *found.images[2:])),
        replace(found, target=Target(task=task, classes=("x", *classes[1:]))),
    ):
        assert not same_images(found, other)
