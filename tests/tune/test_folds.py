"""A study of every fold by one command: names and folds by hand, and what is refused."""

import pytest

from fpt_ray.config.space_yaml import load_space
from fpt_ray.errors import ConfigError
from fpt_ray.search.optuna_study import open_study
from fpt_ray.tune import command
from fpt_ray.tune.command import Command
from fpt_ray.tune.folds import studies_of_folds


def test_each_fold_has_a_study_which_is_gone_on_with_where_it_is_there(tmp_path):
    options = Command(space="table3", images="x", workdir=str(tmp_path), folds=3)
    assert [(one.study, one.fold, one.folds) for one in studies_of_folds(options)] == [
        ("table3-fold1", 1, 3),
        ("table3-fold2", 2, 3),
        ("table3-fold3", 3, 3),
    ]
    (tmp_path / "studies/mine-fold2").mkdir(parents=True)
    open_study(load_space("smoke"), "mine-fold2", f"{tmp_path}/studies/mine-fold2/optuna.log", resume=False)
    again = Command(space="table3", images="x", workdir=str(tmp_path), folds=3, study="mine", resume=True)
    assert [one.resume for one in studies_of_folds(again)] == [False, True, False]


def test_what_is_not_the_same_in_each_fold_is_refused():
    for space in ("smoke", "table1"):  # a search, and a grid that chooses
        with pytest.raises(ConfigError, match="compares the same configurations in each; give a space with"):
            studies_of_folds(Command(space=space, images="x", folds=3))
    with pytest.raises(ConfigError, match="give --fold with --data_sets, or one data set"):
        command.run(Command(space="table3", images="{}.csv", folds=3, data_sets=("ddr",)))
    for several in (
        Command(space="table3", images="x", folds=3, register="cells"),
        Command(space="table3", images="{}", data_sets=("a", "b"), register="cells"),
    ):
        with pytest.raises(ConfigError, match="'cells' would be the best of one study after the other; leave it out"):
            command.run(several)


def test_every_fold_is_run_and_what_they_come_to_is_printed_last(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr("fpt_ray.tune.study.run_study", lambda options: ran.append(options) or options.study)
    monkeypatch.setattr("fpt_ray.report.publication.report_text", lambda result: f"report of {result}")
    monkeypatch.setattr("fpt_ray.report.publication.places_text", lambda result: "places")
    monkeypatch.setattr("fpt_ray.report.folds.over_folds", lambda results: results)
    monkeypatch.setattr("fpt_ray.display.typesetting.typeset", lambda results, form: f"{len(results)} folds as {form}")
    command.run(Command(space="table3", images="x", folds=2))
    assert [(one.study, one.fold) for one in ran] == [("table3-fold1", 1), ("table3-fold2", 2)]
    assert capsys.readouterr().out.splitlines() == [
        "report of table3-fold1",
        "places",
        "report of table3-fold2",
        "places",
        "",
        "2 folds as text",
    ]
    command.run(Command(space="table3", images="x", folds=2, fold=2))
    assert (len(ran), ran[-1].fold, ran[-1].study) == (3, 2, None)
