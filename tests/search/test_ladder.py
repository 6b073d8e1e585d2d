"""A search in rungs, driven by hand against a made surface, on which the best values of each method are known."""

import math

import pytest
from optuna.trial import FixedTrial, TrialState

from fpt_ray.config.space_yaml import load_space, parse_space
from fpt_ray.errors import ConfigError
from fpt_ray.search.attributes import rung_of
from fpt_ray.search.ladder import best_below, narrowed
from fpt_ray.search.messages import unpack_proposal
from fpt_ray.search.optuna_study import open_study, propose, proposed_before
from fpt_ray.search.searcher import StudySearcher
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.preparation import check_options
from tests.messages import report

SPACE = """
space:
  method: {choices: [stored_linear_probe, probe, fpt+]}
  side.blocks: {choices: [last, two_thirds, middle], when: {method: [probe, fpt+]}}
  features.token_ratio: {choices: [0.02, 0.05, 0.1, 0.2], when: {method: [probe, fpt+]}}
  side.num_prompts: {choices: [4, 16], when: {method: [fpt+]}}
  training.learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}
rungs:
  - {num_trials: 2, fixed: {method: stored_linear_probe}}
  - {num_trials: 7, fixed: {method: probe}}
  - {num_trials: 4, fixed: {method: fpt+}, narrow: [side.blocks, features.token_ratio], best: 2}
"""
METHODS = ["stored_linear_probe"] * 2 + ["probe"] * 7 + ["fpt+"] * 4


def searcher(tmp_path, text=SPACE, resume=False):
    space = parse_space(text)
    study = open_study(space, "s", str(tmp_path / "optuna.log"), resume=resume)
    return StudySearcher(space, study, num_trials=space.num_trials)


def auc(values):
    """Made so that a probe's best rate is 1e-1, a side network's 1e-4, and blocks and ratios are good for both."""
    best_rate = {"probe": -1.0, "fpt+": -4.0}.get(values["method"], -2.5)
    blocks = {"last": 0.0, "two_thirds": 0.1, "middle": 0.05}.get(values.get("side.blocks"), 0.0)
    ratio = abs(values.get("features.token_ratio", 0.0) - 0.05)
    return 0.8 + blocks - ratio - 0.02 * abs(math.log10(values["training.learning_rate"]) - best_rate)


def climbed(search, name):
    """Asks one trial, ends it, and returns its values."""
    values = unpack_proposal(search.suggest(name)).values
    search.on_trial_complete(name, report(val_auc=auc(values)))
    return values


def test_each_rung_keeps_to_its_method_and_the_last_to_what_was_best(tmp_path, capsys):
    search = searcher(tmp_path)
    asked = [climbed(search, str(number)) for number in range(13)]
    assert [values["method"] for values in asked] == METHODS
    assert search.suggest("more") == StudySearcher.FINISHED
    probes = sorted(asked[2:9], key=auc, reverse=True)
    best = list(dict.fromkeys((one["side.blocks"], one["features.token_ratio"]) for one in probes))[:2]
    combinations = [(one["side.blocks"], one["features.token_ratio"]) for one in asked[9:]]
    assert combinations[:2] == best  # its first points, with the paper's values for what the probes have not
    assert [one["side.num_prompts"] for one in asked[9:11]] == [16, 16]
    assert [one["training.learning_rate"] for one in asked[9:11]] == [5e-4, 5e-4]
    for blocks, ratio in combinations:
        assert blocks in {one[0] for one in best}
        assert ratio in {one[1] for one in best}
    assert all("side.num_prompts" not in one for one in asked[:9])
    told = capsys.readouterr().err
    assert "rung 2 of 3: method probe; 7 trials" in told
    assert f"side.blocks {best[0][0]}, features.token_ratio {best[0][1]}" in told


def test_a_rung_begins_when_the_one_below_it_has_ended(tmp_path):
    search = searcher(tmp_path)
    first, second = (unpack_proposal(search.suggest(name)).values for name in "ab")
    assert search.suggest("c") is None
    search.on_trial_complete("a", report(val_auc=auc(first)))
    assert search.suggest("c") is None
    search.on_trial_complete("b", report(val_auc=auc(second)))
    assert unpack_proposal(search.suggest("c")).values["method"] == "probe"


def test_the_sampler_learns_from_trials_of_its_rung_alone(tmp_path):
    """With three times as many trials a rung's rates gather where its own method is best, not another's."""
    text = SPACE.replace("num_trials: 7", "num_trials: 30").replace("num_trials: 4", "num_trials: 30")
    search = searcher(tmp_path, text)
    asked = [climbed(search, str(number)) for number in range(62)]
    rates = [math.log10(one["training.learning_rate"]) for one in asked]
    assert sum(rates[22:32]) / 10 > -2.0
    assert sum(rates[52:62]) / 10 < -3.0


def test_what_a_dead_driver_ran_keeps_its_rung(tmp_path):
    search = searcher(tmp_path)
    climbed(search, "a")
    lost = unpack_proposal(search.suggest("lost")).values
    again = searcher(tmp_path, resume=True)
    asked = [climbed(again, str(number)) for number in range(12)]
    assert asked[0] == lost
    assert [values["method"] for values in asked] == METHODS[1:]
    rungs = [rung_of(trial) for trial in again.study.trials if trial.state == TrialState.COMPLETE]
    assert rungs == [0] * 2 + [1] * 7 + [2] * 4


def test_more_trials_go_to_the_last_rung(tmp_path):
    search = searcher(tmp_path)
    for number in range(13):
        climbed(search, str(number))
    search.asking.num_trials = 15
    assert [climbed(search, name)["method"] for name in "xy"] == ["fpt+", "fpt+"]


def test_where_nothing_below_came_to_a_result_nothing_is_narrowed(tmp_path, capsys):
    search = searcher(tmp_path)
    for number in range(9):
        search.suggest(str(number))
        search.on_trial_complete(str(number), report(val_auc=math.nan))
    for name in "ab":
        assert climbed(search, name)["method"] == "fpt+"
    assert "no trial below it has side.blocks, features.token_ratio and a result" in capsys.readouterr().err
    rung = search.space.rungs[2]
    assert narrowed(search.space, rung, {}).rows[1] == search.space.rows[1]
    assert best_below(search.space, search.study, 2) == {}


def test_proposals_that_break_a_limit_are_refused_within_the_rung(tmp_path):
    space = parse_space(SPACE + "constraints: {learnable_parameters: {max: 10}}\n")
    study = open_study(space, "s", str(tmp_path / "optuna.log"), resume=False)
    refused = []
    search = StudySearcher(
        space,
        study,
        lambda trial: {"learnable_parameters": 20.0 if trial.side.blocks == "two_thirds" else 5.0},
        lambda number, values, costs, reason: refused.append(values["side.blocks"]),
        space.num_trials,
    )
    asked = [climbed(search, str(number)) for number in range(13)]
    assert [values["method"] for values in asked] == METHODS
    assert refused
    assert set(refused) == {"two_thirds"}
    assert "two_thirds" not in {values.get("side.blocks") for values in asked}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("num_trials: 2, ", "", r"rungs\[0\] is .*num_trials"),
        ("method: probe}}", "method: lora}}", r"rungs\[1\].fixed: method 'lora' is no value of a row"),
        ("narrow: [side.blocks,", "narrow: [training.learning_rate,", r"rungs\[2\].narrow: 'training.learning_rate'"),
        ("best: 2", "best: 0", r"rungs\[2\]: num_trials is 4, best 0"),
        ("best: 2", "most: 2", r"unknown key 'most'"),
        ("rungs:", "num_trials: 12\nrungs:", "num_trials goes without them"),
        ("rungs:", "sampler: grid\nrungs:", "a grid has none"),
    ],
)
def test_rungs_that_say_nothing_are_refused(old, new, problem):
    with pytest.raises(ConfigError, match=problem):
        parse_space(SPACE.replace(old, new, 1))


def test_rungs_are_part_of_what_a_study_answers(tmp_path):
    search = searcher(tmp_path)
    climbed(search, "a")
    with pytest.raises(ConfigError, match=r"rungs\.1"):
        searcher(tmp_path, SPACE.replace("num_trials: 7", "num_trials: 8"), resume=True)


def test_an_earlier_studys_front_is_refused():
    options = StudyOptions(space="ladder", images="images", warm_start="old")
    with pytest.raises(ConfigError, match="warm_start is old, but the rungs"):
        check_options(options, load_space("ladder"))
    check_options(options, load_space("bccd"))


def test_the_ladder_is_a_space():
    space = load_space("ladder")
    assert space.num_trials == sum(rung.num_trials for rung in space.rungs)
    assert [rung.fixed["method"] for rung in space.rungs] == list(space.rows[0].values())


def test_what_a_rung_knows_of_its_trials_is_what_was_proposed(tmp_path):
    search = searcher(tmp_path)
    for number in range(13):
        climbed(search, str(number))
    space, trials = search.space, search.study.get_trials()
    assert {len(trial.params) for trial in trials} == {2, 4, 5}
    for trial in trials:
        number = rung_of(trial)
        part = narrowed(space, space.rungs[number], best_below(space, search.study, number))
        known, again = proposed_before(part, trial.params), FixedTrial(trial.params)
        assert propose(part, again) == known.params == trial.params
        assert known.distributions == again.distributions


def test_a_point_is_among_what_was_proposed():
    space = parse_space("space:\n  training.learning_rate: {choices: [0.1, 0.2]}\npoints: {a: {method: knn}, b: {}}\n")
    values = {"point": "a", "training.learning_rate": 0.2}
    known, again = proposed_before(space, values), FixedTrial(values)
    assert propose(space, again) == known.params == values
    assert known.distributions == again.distributions
