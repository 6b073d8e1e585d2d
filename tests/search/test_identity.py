"""A study is resumed with the question that it was begun with; every other is refused by name and value."""

import optuna
import pytest

from fpt_ray.config.space_yaml import parse_space
from fpt_ray.errors import ConfigError
from fpt_ray.search.identity import study_id
from fpt_ray.search.optuna_study import open_storage, open_study

TEXT = "space: {side.num_prompts: {choices: [2, 4]}}\nobjectives: {val_auc: max, param_ratio: min}\nnum_trials: 4"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[2, 4]", "[2, 8]", r"space\.side\.num_prompts is .*\[2, 4\].* there, .*\[2, 8\].* is asked"),
        ("param_ratio", "memory_ratio", r"objectives is .*param_ratio.* there, .*memory_ratio.* is asked"),
        ("num_trials: 4", "fixed: {training.epochs: 3}", r"fixed\.training\.epochs is 20 there, 3 is asked"),
    ],
)
def test_another_question_is_refused_before_anything_is_written(old, new, said, tmp_path):
    location = str(tmp_path / "optuna.log")
    open_study(parse_space(TEXT), "s", location, resume=False)
    before = (tmp_path / "optuna.log").read_bytes()
    with pytest.raises(ConfigError, match=said) as refused:
        open_study(parse_space(TEXT.replace(old, new)), "s", location, resume=True)
    assert "--study NEW --warm_start s" in str(refused.value)
    assert (tmp_path / "optuna.log").read_bytes() == before


def test_more_trials_are_no_other_question(tmp_path):
    location = str(tmp_path / "optuna.log")
    first = open_study(parse_space(TEXT), "s", location, resume=False)
    again = open_study(parse_space(TEXT.replace("num_trials: 4", "num_trials: 40")), "s", location, resume=True)
    assert study_id(again) == study_id(first)


def test_other_features_are_another_question(tmp_path):
    space, location = parse_space(TEXT), str(tmp_path / "optuna.log")
    open_study(space, "s", location, resume=False, identity={"store.images_digest (0)": "x"})
    with pytest.raises(ConfigError, match=r'store\.images_digest \(0\) is "x" there, "y" is asked'):
        open_study(space, "s", location, resume=True, identity={"store.images_digest (0)": "y"})


def test_two_studies_of_one_name_have_ids_of_their_own(tmp_path):
    studies = [open_study(parse_space(TEXT), "s", str(tmp_path / name), resume=False) for name in "ab"]
    assert study_id(studies[0]) != study_id(studies[1])


def test_sigkill_between_a_study_and_its_identity(tmp_path):
    """It holds nothing yet and is begun when it is resumed; with trials, nobody knows what these answer."""
    location, space = str(tmp_path / "optuna.log"), parse_space(TEXT)
    bare = optuna.create_study(storage=open_storage(location), study_name="s", directions=["maximize", "minimize"])
    study = open_study(space, "s", location, resume=True)
    assert (len(study.trials), len(study_id(study))) == (1, 32)
    other = optuna.create_study(study_name="t", storage=bare._storage, directions=["maximize", "minimize"])
    other.enqueue_trial({})
    with pytest.raises(ConfigError, match="'t' does not say what it was begun with"):
        open_study(space, "t", location, resume=True)
