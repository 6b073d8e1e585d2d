"""Optuna's pictures of a study: against a hyper-volume by hand, and what is said where there is too little to draw."""

import numpy as np
import optuna
import pytest

from fpt_ray.config.space_yaml import parse_space
from fpt_ray.search.importances import FILE, Importances, as_json, importances_from
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
    assert drawn(tmp_path, study, parse_space(ROWS + TWO)) == {"history.html", "importances.html", FILE}
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
    assert importances(study, parse_space(ROWS)) == "no parameter differs between the trials"


def searched(number):
    """A study whose AUC hangs on the depth, and whose other objective on the prompts alone; the middle of the depth is
    best, so that no straight line tells it."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    chance = np.random.default_rng(0)
    for _ in range(number):
        depth, prompts, rate = int(chance.integers(1, 13)), int(chance.integers(1, 65)), float(chance.random())
        score = 0.9 - 0.01 * abs(depth - 6)
        study.add_trial(
            optuna.trial.create_trial(
                values=[score, float(prompts)],
                params={"depth": depth, "prompts": prompts, "rate": rate},
                distributions={
                    "depth": optuna.distributions.IntDistribution(1, 12),
                    "prompts": optuna.distributions.IntDistribution(1, 64),
                    "rate": optuna.distributions.FloatDistribution(0, 1),
                },
                user_attrs={"result": {"val_auc": score}},
            )
        )
    return study


def test_from_a_hundred_trials_on_the_best_tenth_tells_what_matters():
    few, many = importances(searched(99), parse_space(ROWS)), importances(searched(400), parse_space(ROWS))
    assert isinstance(few, Importances)
    assert isinstance(many, Importances)
    assert "fANOVA" in few.title
    assert list(few.shares) == ["val_auc"]
    assert "best 40 trials (PED-ANOVA)" in many.title
    score, front = many.shares.values()
    assert list(many.shares) == ["val_auc", "the front"]
    assert importances_from(as_json(many)) == many
    assert max(score, key=score.get) == "depth"
    assert score["depth"] > 0.8
    assert front["prompts"] > 0.3 > score["prompts"]
    assert sum(front.values()) == pytest.approx(1)


def test_the_best_tenth_is_a_hundred_trials_at_most():
    assert "best 100 trials" in importances(searched(1200), parse_space(ROWS)).title


def test_a_trial_that_breaks_a_constraint_adds_no_volume():
    study = study_of([(0.5, 2.0), (0.6, 4.0), (0.6, 1.0)])
    for excess in (0.1, -0.1):
        trial = study.ask()
        trial.set_constraint("memory_ratio", excess)
        study.tell(trial, [0.9, 1.0])
    figure = history(study, parse_space(ROWS + TWO))
    assert list(figure.data[0].y) == pytest.approx([0, 0, 0.1 * 3, 0.1 * 3, 0.4 * 3])


def test_with_four_objectives_the_volume_is_called_estimated():
    study = study_of([(0.5, 2.0, 1.0, 3.0), (0.6, 1.0, 0.5, 2.0)], directions=("maximize", *["minimize"] * 3))
    four = "objectives: {val_auc: max, param_ratio: min, memory_ratio: min, train_seconds: min}\n"
    figure = history(study, parse_space(ROWS + four))
    assert "estimated" in figure.layout.title.text
    assert figure.data[0].y[1] == pytest.approx(0.1 * 1 * 0.5 * 1)
