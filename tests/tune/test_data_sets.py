"""Studies of several data sets by one command: their names, images and learning rates, against numbers.json by hand."""

import dataclasses

import pytest

from fpt_ray.config.space_yaml import load_space
from fpt_ray.errors import ConfigError
from fpt_ray.paper.numbers import authors_learning_rate, numbers
from fpt_ray.search.optuna_study import is_begun, open_study
from fpt_ray.tune import command
from fpt_ray.tune.data_sets import studies_of
from fpt_ray.tune.options import StudyOptions

NAMES = ("ddr", "messidor2", "isic2016", "isic2018", "ddsm", "cmmd", "covid", "chncxr")
RATES = (5e-4, 2e-4, 5e-3, 1e-4, 1e-3, 5e-5, 1e-4, 5e-4)


@pytest.fixture
def options(tmp_path):
    return StudyOptions(space="table3", images="data/{}/{}.parquet", workdir=str(tmp_path), set=("training.epochs=1",))


def test_each_has_the_name_the_images_and_the_rate_of_its_data_set(options):
    found = studies_of(options, (*NAMES, "mine"))
    assert [one.study for one in found] == [*NAMES, "mine"]
    assert [one.images for one in found] == [f"data/{name}/{name}.parquet" for name in (*NAMES, "mine")]
    assert [one.set[1:] for one in found] == [*((f"training.learning_rate={rate}",) for rate in RATES), ()]
    assert {one.set[0] for one in found} == {"training.epochs=1"}


def test_a_rate_that_is_given_or_searched_stands(options):
    given = dataclasses.replace(options, set=("training.learning_rate=0.1",))
    assert studies_of(given, ["ddr"])[0].set == ("training.learning_rate=0.1",)
    for space in ("table1", "table1_dino", "table2"):
        searched = dataclasses.replace(options, space=space)
        assert studies_of(searched, ["ddr"])[0].set == options.set


def test_the_grids_begin_with_the_authors_rates():
    theirs = {one["authors_learning_rate"] for one in numbers()["datasets"].values()}
    for name in ("table1", "table1_dino", "table2"):
        (rates,) = [row.choices for row in load_space(name).rows if row.name == "training.learning_rate"]
        assert set(rates[: len(theirs)]) == theirs


def test_a_data_set_is_known_by_its_letters():
    assert authors_learning_rate("Messidor-2") == authors_learning_rate("messidor2") == 2e-4
    assert authors_learning_rate("bccd") is None


def test_studies_that_are_there_are_gone_on_with(options, tmp_path):
    (tmp_path / "studies/ddr").mkdir(parents=True)
    open_study(load_space("smoke"), "ddr", f"{tmp_path}/studies/ddr/optuna.log", resume=False)
    again = studies_of(dataclasses.replace(options, resume=True), ("ddr", "cmmd"))
    assert [one.resume for one in again] == [True, False]
    assert not any(one.resume for one in studies_of(options, ("ddr", "cmmd")))
    assert not is_begun("cmmd", f"{tmp_path}/studies/ddr/optuna.log")


def test_the_name_must_have_its_place(options):
    with pytest.raises(ConfigError, match=r"images is data\.csv; write \{\} where the name of the data set stands"):
        studies_of(dataclasses.replace(options, images="data.csv"), ["ddr"])
    with pytest.raises(ConfigError, match="leave out the name 'all'"):
        studies_of(dataclasses.replace(options, study="all"), ["ddr"])


def test_the_command_runs_one_after_the_other(options, monkeypatch, capsys):
    monkeypatch.setattr("fpt_ray.tune.study.run_study", lambda one: one)
    monkeypatch.setattr("fpt_ray.report.publication.report_text", lambda one: f"report of {one.study}")
    monkeypatch.setattr("fpt_ray.report.publication.places_text", lambda one: one.images)
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    command.run(command.Command(**values, data_sets=("ddr", "cmmd")))
    assert capsys.readouterr().out.split("\n")[:4:2] == ["report of ddr", "report of cmmd"]
    command.run(command.Command(**values))
    assert capsys.readouterr().out == "report of None\ndata/{}/{}.parquet\n"
