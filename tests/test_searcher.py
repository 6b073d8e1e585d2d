"""The searcher is driven by hand, as Tune drives it, against Optuna's own view of the study; no cluster."""

import math

import pytest
from optuna.trial import TrialState

from fpt_ray.config import ConfigError, TrialConfig
from fpt_ray.searcher import (
    FINISHED,
    NUMBER,
    SEEDS,
    STAGE,
    StudySearcher,
    enqueue_chosen,
    finished_trials,
    open_study,
    paper_point,
    plain_values,
    why_not,
)
from fpt_ray.space_yaml import parse_space

SPACE = """
space:
  side.num_prompts: {choices: [4, 16, 64]}
  features.token_ratio: {low: 0.1, high: 0.5, step: 0.1}
  side.prompt_dropout: {low: 0.0, high: 0.5, when: {side.num_prompts: [16, 64]}}
objectives: {val_auc: max, param_ratio: min}
seed: 3
num_trials: 9
"""


def searcher(tmp_path, text=SPACE, resume=False):
    space = parse_space(text)
    return StudySearcher(space, open_study(space, "s", tmp_path / "optuna.log", resume=resume))


def result(auc, ratio=0.01, **more):
    return {"val_auc": auc, "param_ratio": ratio, FINISHED: True, **more}


def test_the_first_trial_is_the_papers(tmp_path):
    first = searcher(tmp_path).suggest("a")
    paper = TrialConfig()
    assert first["side.num_prompts"] == paper.side.num_prompts
    assert first["features.token_ratio"] == pytest.approx(paper.features.token_ratio)
    assert first["side.prompt_dropout"] == paper.side.prompt_dropout
    assert first[NUMBER] == 0


def test_what_the_paper_has_outside_the_space_moves_to_the_nearest():
    space = parse_space("space: {side.resolution: {choices: [70, 126, 196]}, side.depth: {low: 8, high: 12}}")
    assert paper_point(space) == {"side.resolution": 126, "side.depth": 8}


def test_conditional_rows_are_left_out_where_they_do_not_hold(tmp_path):
    search = searcher(tmp_path)
    proposals = [search.suggest(str(number)) for number in range(12)]
    for proposal in proposals:
        assert ("side.prompt_dropout" in proposal) == (proposal["side.num_prompts"] != 4)
    assert {proposal["side.num_prompts"] for proposal in proposals} == {4, 16, 64}


def test_what_became_of_trials(tmp_path):
    search = searcher(tmp_path)
    outcomes = {
        "good": (result(0.9), False),
        "nan": (result(math.nan), False),
        "missing": ({"param_ratio": 0.1, FINISHED: True}, False),
        "crashed": (None, True),
        "stopped": ({"val_auc": 0.8, "param_ratio": 0.02, FINISHED: False}, False),
    }
    for name, (last, error) in outcomes.items():
        search.suggest(name)
        search.on_trial_complete(name, last, error)
    trials = search.study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] + [TrialState.PRUNED] * 4
    assert trials[0].values == [0.9, 0.01]
    reasons = [trial.user_attrs["reason"] for trial in trials[1:]]
    assert reasons == ["val_auc is nan", "val_auc is None", "the trial failed", "stopped before its last epoch"]
    assert '"val_auc": 0.8' in trials[4].user_attrs["partial"]
    assert [trial.number for trial in search.study.best_trials] == [0]
    assert finished_trials(search.study) == 5


def test_a_dead_drivers_trials_are_asked_again_and_nothing_else(tmp_path):
    search = searcher(tmp_path)
    search.suggest("done")
    search.on_trial_complete("done", result(0.9))
    lost = search.suggest("lost")
    again = searcher(tmp_path, resume=True)
    assert finished_trials(again.study) == 1
    proposal = again.suggest("new")
    assert plain_values(proposal) == plain_values(lost)
    states = [trial.state for trial in again.study.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]


def test_a_study_is_not_overwritten_and_not_resumed_out_of_nothing(tmp_path):
    with pytest.raises(ConfigError, match="is not there"):
        searcher(tmp_path, resume=True)
    searcher(tmp_path)
    with pytest.raises(ConfigError, match="continue it with --resume"):
        searcher(tmp_path)


def test_the_same_seed_proposes_the_same(tmp_path):
    proposals = []
    for name in ("one", "two"):
        search = searcher(tmp_path / name)
        for number in range(6):
            proposals.append(search.suggest(str(number)))
            search.on_trial_complete(str(number), result(0.5 + 0.05 * number))
    assert proposals[:6] == proposals[6:]


def crashes_of(search, told_as_failed):
    """Crashes among 40 trials of a space of which half crashes, and whose best points stand beside the edge."""
    crashes = 0
    for number in range(40):
        depth = search.suggest(str(number))["side.depth"]
        crashes += depth > 6
        if depth > 6 and told_as_failed:
            search.study.tell(search.trials.pop(str(number)), state=TrialState.FAIL)
        else:
            search.on_trial_complete(str(number), None if depth > 6 else result(depth / 12), depth > 6)
    return crashes


def test_tpe_turns_away_from_what_crashes(tmp_path):
    """Compared with telling Optuna that they failed, which TPE ignores."""
    counts = {True: 0, False: 0}
    for failed in counts:
        for seed in range(3):
            text = "space: {side.depth: {low: 1, high: 12}, side.reduction: {choices: [4, 8]}}\nnum_trials: 40"
            search = searcher(tmp_path / f"{failed}{seed}", f"{text}\nseed: {seed}")
            counts[failed] += crashes_of(search, failed)
    assert counts[False] < 0.8 * counts[True]


def test_no_point_is_run_twice_until_the_space_is_used_up(tmp_path):
    text = "space: {side.depth: {low: 1, high: 4}, side.reduction: {choices: [4, 8, 12]}}\nnum_trials: 14"
    search = searcher(tmp_path, text)
    points = []
    for number in range(14):
        proposal = search.suggest(str(number))
        points.append((proposal["side.depth"], proposal["side.reduction"]))
        search.on_trial_complete(str(number), result(0.5 + 0.01 * proposal["side.depth"]))
    assert len(set(points[:12])) == 12
    assert finished_trials(search.study) == 14


GRID = """
points: {A: {method: lora}, B: {method: fpt+}}
space:
  side.depth: {choices: [2, 4]}
  training.learning_rate: {choices: [1.0e-4, 1.0e-3, 1.0e-2]}
choose: [training.learning_rate]
sampler: grid
repeats: 3
"""


def test_a_grid_is_run_once_and_its_best_are_repeated(tmp_path):
    """Against a by-hand product: 1e-3 is best everywhere but for A at depth 4, where every run crashes."""
    search = searcher(tmp_path, GRID)
    assert search.space.num_trials == 12
    seen = []
    for number in range(12):
        proposal = search.suggest(str(number))
        assert (proposal[SEEDS], proposal[STAGE]) == (1, "choose")
        seen.append(tuple(plain_values(proposal).values()))
        crashed = seen[-1][:2] == ("A", 4)
        auc = {1e-4: 0.6, 1e-3: 0.9, 1e-2: 0.5}[seen[-1][2]]
        search.on_trial_complete(str(number), None if crashed else {"val_auc": auc, FINISHED: True}, crashed)
    assert sorted(seen) == sorted((p, d, rate) for p in "AB" for d in (2, 4) for rate in (1e-4, 1e-3, 1e-2))
    assert enqueue_chosen(search.space, search.study) == 4
    assert enqueue_chosen(search.space, search.study) == 4  # nothing is enqueued twice
    again = searcher(tmp_path, GRID, resume=True)
    chosen = [again.suggest(f"r{number}") for number in range(4)]
    assert all((one[SEEDS], one[STAGE]) == (3, "final") for one in chosen)
    rates = {(one["point"], one["side.depth"]): one["training.learning_rate"] for one in chosen}
    assert rates == {("A", 2): 1e-3, ("A", 4): 1e-4, ("B", 2): 1e-3, ("B", 4): 1e-3}


def test_why_not():
    space = parse_space(SPACE)
    assert why_not(result(0.9), False, space) is None
    assert why_not(result(0.9), True, space) == "the trial failed"
    assert why_not(result(math.inf), False, space) == "val_auc is inf"
