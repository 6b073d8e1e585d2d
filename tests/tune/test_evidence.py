"""The pictures of what a study's best trial looked at, of a bundle that is made here; the worker is this process."""

import shutil
from pathlib import Path

import pytest

from fpt_ray.config.trial import override
from fpt_ray.predict.evidence import worker
from fpt_ray.predict.evidence.writing import TABLE_FILE
from fpt_ray.tune.evidence import leave_evidence
from tests.predict.bundles import TRIAL, left, stored, table_of_images
from tests.stores import draw_images


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return table_of_images(draw_images(tmp_path_factory.mktemp("images")))


@pytest.fixture
def study(table, tmp_path, monkeypatch):
    """A function that leaves the bundle of a study's trial of some method; it returns the study's and its folder."""
    monkeypatch.setattr(worker, "ask_worker", lambda question: question())
    monkeypatch.setattr(worker, "working_hosts", lambda: [{"CPU": 1}])
    for name in ("put", "get"):
        monkeypatch.setattr(worker.ray, name, lambda handed: handed)

    def of(method):
        trial = override(TRIAL, {"method": method})
        bundle = left(trial, stored(trial, table, tmp_path / "store"), tmp_path)
        folder = tmp_path / "studies/s/bundles/trial-0003"
        shutil.copytree(bundle, folder)
        return str(tmp_path / "studies/s"), folder

    return of


def test_test_images_are_drawn_once_below_the_best_bundle(study, table, tmp_path):
    uri, folder = study("probe")
    leave_evidence(uri, table, str(tmp_path), 0)
    assert not (folder / "evidence").exists()
    (folder / "evidence").mkdir()
    for name in ("00099-of a killed one.png", "00099-of a killed one.npz", "0001-kept.png", "notes.txt"):
        (folder / "evidence" / name).write_bytes(b"")
    leave_evidence(uri, table, str(tmp_path), 3)
    for name in ("0001-kept.png", "notes.txt"):
        (folder / "evidence" / name).unlink()
    drawn = sorted((folder / "evidence").glob("*.png"))
    assert len(drawn) == len(list((folder / "evidence").glob("*.npz"))) == 3
    rows = (folder / "evidence" / TABLE_FILE).read_text()
    tested = [table.paths[int(row)].as_py() for row in table.of("test")]
    assert [path in rows for path in tested] == [path in (tested[0], tested[6], tested[-1]) for path in tested]
    (folder / "evidence" / TABLE_FILE).write_text("there")
    leave_evidence(uri, table, str(tmp_path), 3)
    assert (folder / "evidence" / TABLE_FILE).read_text() == "there", "a study that goes on has them already"


def test_a_study_does_not_fail_for_them(study, table, tmp_path, capsys):
    uri, folder = study("knn")
    leave_evidence(uri, table, str(tmp_path), 2)
    assert (
        "no pictures of what its best trial looked at: evidence: the bundle's method is knn" in capsys.readouterr().err
    )
    assert not (folder / "evidence").exists()
    leave_evidence(str(Path(uri).with_name("other")), table, str(tmp_path), 2)
    assert capsys.readouterr().err == ""
