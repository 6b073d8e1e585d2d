"""Optuna's pictures of a study: against a hyper-volume by hand, and what is said where there is too little to draw."""

import optuna
import pytest

from fpt_ray.config.space_yaml import parse_space
from fpt_ray.search.pictures import draw_study_pictures, history, importances, reference_point

ROWS = "space: {side.depth: {low: 1, high: 12}, side.num_prompts: {choices: [4, 16]}}\n"
TWO = "objectives: {val_auc: max, param_ratio: min}\n"


def study_of(values, stages=(), directions=("maximize", "minimize")):
    study = optuna.create_study(directions=list(directions))
    for number, found in enumerate(values):
        stage = {"stage": stages[number]} if number < len(stages) else {}
        study.add_trial(
            optuna.trial.create_trial(
                values=found,
                params={"side.depth": number + 1},
                distributions={"side.depth": optuna.distributions.IntDistribution(1, 12)},
                user_attrs={"result": {"val_auc": found[0]}, **stage},
            )
        )
    return study


def drawn(tmp_path, study, space):
    return {page.name for page in draw_study_pictures(study, space, tmp_path / "studies" / "s")}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_hypervolume_is_the_one_by_hand():
    """Reference (0.5, 4): (0.7, 3) spans 0.2 x 1, then (0.6, 1) adds 0.1 x 2, the two worst nothing."""
    study = study_of([(0.5, 2.0), (0.6, 4.0), (0.7, 3.0), (0.6, 1.0)])
    assert reference_point(study) == [0.5, 4.0]
    figure = history(study, parse_space(ROWS + TWO))
    assert list(figure.data[0].y) == pytest.approx([0, 0, 0.2, 0.4])
    assert "val_auc 0.5, param_ratio 4" in figure.layout.title.text


def test_pictures_are_drawn_and_confirmations_are_not_in_them(tmp_path, capsys):
    values = [(0.5 + number / 20, 1.0 + number) for number in range(6)]
    study = study_of([*values, (0.99, 0.1)], ["final"] * 6 + ["confirm"])
    assert drawn(tmp_path, study, parse_space(ROWS + TWO)) == {"history.html", "importances.html"}
    assert capsys.readouterr().err == ""
    page = (tmp_path / "studies" / "s" / "history.html").read_text()
    assert "val_auc 0.5, param_ratio 6" in page
    assert "0.99" not in page.rpartition("Plotly.newPlot")[2]


def test_one_objective_has_its_best_value_over_trials():
    study = study_of([(0.5,), (0.7,), (0.6,)], directions=("maximize",))
    figure = history(study, parse_space(ROWS + "objectives: {val_auc: max}"))
    assert list(figure.data[1].y) == [0.5, 0.7, 0.7]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "0 trials have finished"),
        ([(0.5, 1.0)], "1 trials have a validation AUC, 5 are needed"),
        ([(0.5, 1.0)] * 5, "the same in all trials"),
    ],
)
def test_too_little_to_draw_is_said(tmp_path, values, reason, capsys):
    drawn(tmp_path, study_of(values), parse_space(ROWS + TWO))
    assert reason in capsys.readouterr().err


def test_parameters_that_never_differ_explain_nothing():
    study = optuna.create_study(directions=["maximize"])
    for number in range(5):
        study.add_trial(optuna.trial.create_trial(value=number / 10, user_attrs={"result": {"val_auc": number / 10}}))
    assert importances(study) == "no parameter differs between the trials"
