"""What of a configuration is not of a task is refused by name, value and remedy; what is asked of both is taken."""

import pytest

from fpt_ray.config.fitting import also_scored, check_batch, check_batches, fitted, fitted_space
from fpt_ray.config.space_yaml import parse_space
from fpt_ray.config.tasks import SCORES, Target
from fpt_ray.config.trial import trial_from
from fpt_ray.errors import ConfigError

ROWS = "space: {side.num_prompts: {choices: [2, 4]}}\n"


def target(task):
    return Target(task=task, classes=("a", "b", "c")[: {"binary": 2, "regression": 1}.get(task, 3)])


@pytest.mark.parametrize("task", SCORES)
def test_the_first_score_of_a_task_picks_unless_another_is_asked_for(task):
    assert fitted(trial_from({}), target(task)).training.select_by == SCORES[task][0]
    last = SCORES[task][1]
    assert fitted(trial_from({"training.select_by": last}), target(task)).training.select_by == last
    space = fitted_space(parse_space(ROWS), target(task))
    assert space.objectives == {f"val_{SCORES[task][0]}": "max"}
    assert space.score == f"val_{SCORES[task][0]}"
    assert (space.identity() == parse_space(ROWS).identity()) == (task != "regression")


@pytest.mark.parametrize(
    ("task", "values", "message"),
    [
        (
            "regression",
            {"training.select_by": "auc"},
            "'auc', no score of the task regression; take one of r2",
        ),
        ("multilabel", {"training.select_by": "kappa"}, "'kappa', no score of the task multilabel"),
        ("regression", {"loss.weights": "balanced"}, "loss.weights is 'balanced', which the task regression has not"),
        ("regression", {"loss.focal_gamma": 2.0}, "loss.focal_gamma is 2.0"),
        ("multilabel", {"training.sampling": "balanced"}, "training.sampling is 'balanced'.*take 'shuffled'"),
    ],
)
def test_what_a_task_has_not_is_refused(task, values, message):
    with pytest.raises(ConfigError, match=message):
        fitted(trial_from(values), target(task))
    rows = "space: {side.num_prompts: {choices: [2, 4]}}\npoints: {p: {method: fpt+}}\nfixed: {"
    text = rows + ", ".join(f"{name}: {value}" for name, value in values.items()) + "}"
    with pytest.raises(ConfigError, match=message):
        fitted_space(parse_space(text), target(task))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "objectives: {val_auc: max, ppe: max}\nfixed: {training.select_by: kappa}",
            "no ppe and pme of kappa, which",
        ),
        ("constraints: {pme: {min: 0.1}}\nfixed: {training.select_by: r2}", "there are no ppe and pme of r2"),
        ("points: {p: {training.select_by: f1}}", "training.select_by is the same for all trials"),
        ("fixed: {training.class_weights: true}", "it is now loss.weights, which is none or balanced"),
        ("objectives: {val_acc: max}", "did you mean 'val_"),
    ],
)
def test_spaces_that_no_task_has_are_refused_as_they_are_read(more, message):
    with pytest.raises(ConfigError, match=message):
        parse_space(ROWS + more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("objectives: {val_auc: max}", "objectives: val_auc is no score of the task regression; take one of val_r2"),
        ("constraints: {val_f1: {min: 0.1}}", "constraints: val_f1 is no score of the task regression"),
        ("objectives: {val_r2: max, ppe: max}", "^ppe: there are no ppe and pme of r2"),
        ("objectives: {val_r2: max}\nconstraints: {pme: {min: 0.1}}", "^pme: there are no ppe and pme of r2"),
        ("points: {p: {loss.weights: balanced}}", "loss.weights is 'balanced', which the task regression has not"),
    ],
)
def test_spaces_that_a_task_has_not_are_refused_once_it_is_known(more, message):
    space = parse_space(ROWS + more)
    with pytest.raises(ConfigError, match=message):
        fitted_space(space, target("regression"))


def test_rows_of_what_a_task_has_not_are_refused():
    space = parse_space("space: {loss.focal_gamma: {low: 0.0, high: 3.0}, loss.weights: {choices: [none, balanced]}}")
    assert fitted_space(space, target("ordinal")).rows == space.rows
    with pytest.raises(ConfigError, match=r"space\.loss\.focal_gamma: the task regression has it not"):
        fitted_space(space, target("regression"))


def test_scores_that_objectives_and_constraints_name_are_kept_beside_the_one_that_picks():
    text = (
        "objectives: {val_kappa: max, val_mae: min, ppe: max}\nconstraints: {val_auc: {min: 0.5}, val_f1: {min: 0.1}}"
    )
    assert also_scored(parse_space(ROWS + text)) == ("kappa", "mae", "f1")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("space: {side.depth: {choices: [3]}}\nfixed: {training.batch_size: 40}", 40),
        ("points: {a: {training.batch_size: 48}, b: {training.batch_size: 64}}\nfixed: {training.batch_size: 99}", 48),
        ("space: {training.batch_size: {choices: [8, 32]}}", 8),
        ("space: {method: {choices: [knn, probe]}}\nfixed: {training.batch_size: 40}", None),
        ("points: {a: {method: knn, training.batch_size: 64}, b: {training.batch_size: 64}}", None),
    ],
)
def test_a_space_whose_every_batch_is_larger_than_the_training_split_is_refused(text, size):
    """Some of its trials can be trained else, and neighbours take no step."""
    space = parse_space(text + "\nobjectives: {val_auc: max}")
    if size is None:
        check_batches(space, 1)
        return
    check_batches(space, size)
    with pytest.raises(ConfigError, match=rf"training.batch_size is {size}, but there are {size - 1} training images"):
        check_batches(space, size - 1)
    with pytest.raises(ConfigError, match="take no more than these"):
        check_batch(trial_from({"training.batch_size": size}), size - 1)
    check_batch(trial_from({"training.batch_size": size, "method": "knn"}), 1)
