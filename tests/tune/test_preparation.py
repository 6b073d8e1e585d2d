"""What is refused before a study begins, and how it is begun from an earlier one."""

from pathlib import Path

import pytest

from fpt_ray.config.space_yaml import parse_space
from fpt_ray.errors import ConfigError
from fpt_ray.search.optuna_study import open_study
from fpt_ray.search.searcher import StudySearcher
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.preparation import check_options, earlier_study, storage_location, warm_start
from fpt_ray.tune.study import run_study
from tests.conftest import SMOKE
from tests.messages import report
from tests.search.test_searcher import searcher

SPACE = parse_space("space: {side.num_prompts: {choices: [4, 16]}}\nobjectives: {val_auc: max}\nnum_trials: 2")


def options(**changes):
    return StudyOptions(space="smoke", images="images", **changes)


@pytest.mark.parametrize("number", [0, -3])
def test_a_number_of_trials_that_is_none_is_refused(number):
    with pytest.raises(ConfigError, match=f"num_trials is {number}; give 1 or more"):
        check_options(options(num_trials=number), SPACE)


def test_workers_that_cannot_share_every_batch_of_a_space_are_refused_before_preloading():
    check_options(options(workers_per_trial=4), SPACE)
    with pytest.raises(ConfigError, match="workers_per_trial is 3, which cannot share a batch of 16 equally; give a "):
        check_options(options(workers_per_trial=3), SPACE)
    searched = parse_space("space: {training.batch_size: {choices: [12, 16]}}\nobjectives: {val_auc: max}")
    pointed = parse_space("points: {A: {method: lora}, B: {training.batch_size: 20}}\nobjectives: {val_auc: max}")
    for space, workers, batch in ((searched, 8, 12), (pointed, 8, 20)):
        check_options(options(workers_per_trial=2), space)
        with pytest.raises(ConfigError, match=f"is {workers}, which cannot share a batch of {batch} equally"):
            check_options(options(workers_per_trial=workers), space)


def test_an_earlier_study_that_is_not_there_is_refused_before_images_are_looked_for(tmp_path):
    asked = StudyOptions(space=str(SMOKE), images=f"{tmp_path}/none", workdir=str(tmp_path), warm_start="odl")
    with pytest.raises(ConfigError, match="study 'odl' is not there"):
        run_study(asked)
    assert not list(tmp_path.iterdir())


def test_a_resumed_study_is_begun_from_the_earlier_one_unless_it_has_begun(tmp_path, capsys):
    asked = options(warm_start="old", resume=True)
    with pytest.raises(ConfigError, match="study 'old' is not there"):
        earlier_study(asked, str(tmp_path))
    location = storage_location(asked, str(tmp_path), "old")
    Path(location).parent.mkdir(parents=True)
    search = searcher(tmp_path)
    old = StudySearcher(search.space, open_study(search.space, "old", location, resume=False))
    old.suggest("a")
    old.on_trial_complete("a", report(val_auc=0.8, param_ratio=0.01))
    warm_start(asked, search.space, search.study, str(tmp_path))
    assert "warm start: " in (said := capsys.readouterr().err)
    assert "of the front of old lie in this space" in said
    search.suggest("a")
    search.on_trial_complete("a", report(val_auc=0.8, param_ratio=0.01))
    before = len(search.study.trials)
    warm_start(asked, search.space, search.study, str(tmp_path))
    assert "the study has begun, so that no points of old are added" in capsys.readouterr().err
    assert len(search.study.trials) == before
