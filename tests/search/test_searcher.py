"""The searcher is driven by hand, as Tune drives it, against Optuna's own view of the study; no cluster."""

import math

import pytest
from optuna.trial import TrialState
from ray import cloudpickle
from ray.tune.search import Searcher

from fpt_ray.config.space_yaml import parse_space
from fpt_ray.config.trial import TrialConfig
from fpt_ray.errors import ConfigError
from fpt_ray.search.attributes import confirmations_waiting, finished_trials, reason_of
from fpt_ray.search.messages import (
    DIED,
    NEVER_RAN,
    TrialFailure,
    pack_messages,
    unpack_message,
    unpack_proposal,
    unpack_proposals,
    why_incomplete,
)
from fpt_ray.search.optuna_study import open_study
from fpt_ray.search.queue import (
    enqueue_chosen,
    enqueue_confirmed,
    enqueue_front,
    paper_point,
)
from fpt_ray.search.searcher import StudySearcher
from fpt_ray.storage.errors import FullError
from fpt_ray.tune.ends_told import EndsTold
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.preparation import storage_location
from tests.messages import report

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
    return StudySearcher(space, open_study(space, "s", str(tmp_path / "optuna.log"), resume=resume))


def result(auc, ratio=0.01):
    return report(val_auc=auc, param_ratio=ratio)


def test_an_end_that_could_not_be_told_ends_the_search(tmp_path, monkeypatch):
    """Tune takes what is raised here for the trial's failure, and has it run and end once more."""
    search = searcher(tmp_path)
    search.suggest("a")
    ends = EndsTold(search)
    ends.on_step_begin(0, [])

    def full(*_, **__):
        raise FullError("no room")

    monkeypatch.setattr(search.study, "tell", full)
    with pytest.raises(FullError):
        search.on_trial_complete("a", result(0.8))
    search.on_trial_complete("a", result(0.8))
    with pytest.raises(FullError, match="no room"):
        ends.on_step_begin(1, [])


def test_what_confirms_does_not_wait_for_points_that_are_left_to_another_session(tmp_path):
    """Of a grid of twenty three are run; the confirmation is enqueued behind the others."""
    text = "space: {side.num_prompts: {low: 1, high: 20}}\nsampler: grid"
    search = searcher(tmp_path, text)
    search = StudySearcher(search.space, search.study, num_trials=3)
    for number in range(3):
        search.suggest(str(number))
        search.on_trial_complete(str(number), result(0.5 + number / 10))
    enqueue_confirmed(search.space, search.study, 1, 2)
    search = StudySearcher(search.space, search.study, num_trials=3)
    assert suggested(search, "c").stage == "confirm"
    waiting = [trial for trial in search.study.trials if trial.state == TrialState.WAITING]
    assert len(waiting) == 17


def suggested(search, trial_id):
    """The proposal that Tune is given for a trial."""
    return unpack_proposal(search.suggest(trial_id))


def test_a_trial_whose_worker_was_dead_before_is_asked_again(tmp_path, capsys):
    """No point is infeasible for it, and it counts for none of the search's trials."""
    search, disowned = searcher(tmp_path), {}
    search.never_ran, search.disowned = {"b"}.__contains__, disowned.__setitem__
    suggested(search, "a")
    lost = suggested(search, "b")
    search.on_trial_complete("b", error=True)
    assert disowned == {lost.number: NEVER_RAN}
    assert f"trial 1: {NEVER_RAN}" in capsys.readouterr().err
    again = suggested(search, "c")
    assert (again.values, again.number) == (lost.values, 2)
    search.on_trial_complete("a", error=True)
    search.on_trial_complete("c", result(0.8))
    states = [trial.state for trial in search.study.trials]
    assert states == [TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE]
    assert finished_trials(search.study) == 2


def test_a_trial_that_is_not_ready_ends_tunes_run_and_is_the_first_of_the_next(tmp_path):
    """Meanwhile it runs: it has its heartbeat, no other is asked in its place, and the search is not at its end."""
    search, ready = searcher(tmp_path), {16}
    search.asking.num_trials, search.is_ready = 2, lambda trial: trial.side.num_prompts in ready
    search.study.enqueue_trial({"side.num_prompts": 4})
    assert suggested(search, "a").values["side.num_prompts"] == 16
    assert search.suggest("b") == Searcher.FINISHED
    ((trial, values),) = search.held
    assert values["side.num_prompts"] == 4
    assert search._running_ids() == [other._trial_id for other in search.study.trials]
    search.on_trial_complete("a", result(0.8))
    search.asking.exhausted = True
    assert not search.is_done()
    assert search.suggest("c") == Searcher.FINISHED
    ready.add(4)
    assert suggested(search, "d").number == trial.number == 1
    assert (search.held, len(search.study.trials)) == ([], 2)
    search.on_trial_complete("d", result(0.9))
    assert search.is_done()


# --- trials of one shape ------------------------------------------------------------------------------------------

LAST = """
space:
  method: {choices: [probe, layer_fusion]}
  side.depth: {choices: [1, 2], when: {method: [probe]}}
  training.learning_rate: LEARNING_RATE
  training.weight_decay: {choices: [0.0, 0.1]}
objectives: {val_auc: max}
SAMPLER
"""


def groups(tmp_path, rate, sampler, most=4, number=None, text=LAST):
    """What Tune is given, trial by trial, until nothing follows: the numbers and values of each."""
    search = searcher(tmp_path, text.replace("LEARNING_RATE", rate).replace("SAMPLER", sampler))
    search.asking.num_trials, search.together = number, lambda proposal, left: min(most, left)
    found = []
    while (config := search.suggest(str(len(found)))) != Searcher.FINISHED:
        found.append([(one.number, dict(one.values)) for one in unpack_proposals(config)])
        messages = (result(one.number / 100) for one in unpack_proposals(config))
        packed = pack_messages(*map(unpack_message, messages))
        search.on_trial_complete(str(len(found) - 1), packed)
    return search, found


def shapes(group):
    return {(values["method"], values.get("side.depth")) for _, values in group}


@pytest.mark.parametrize("rows_first", [False, True])
def test_of_a_grid_trials_of_one_shape_are_one_of_tunes_wherever_they_stand(tmp_path, rows_first):
    """And so many that each of four that run at once has one."""
    text = LAST.splitlines()
    moved = [*text[:2], *text[4:6], *text[2:4], *text[6:]] if rows_first else text
    search, found = groups(
        tmp_path, "{choices: [1.0e-3, 1.0e-2, 2.0e-2]}", "sampler: grid", text="\n".join(moved), number=18
    )
    assert [len(shapes(group)) for group in found] == [1] * len(found)
    assert sorted(len(group) for group in found) == [2, 2, 2, 4, 4, 4]  # six of each shape
    values = [tuple(sorted(map(str, one.items()))) for group in found for _, one in group]
    assert (len(values), len(set(values))) == (18, 18)
    assert finished_trials(search.study) == 18
    for group in found:
        for number, _ in group:
            assert search.study.trials[number].values == [number / 100]


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_a_sampler_proposes_what_leaves_a_shape_as_often_as_it_is_asked(tmp_path, sampler):
    search, found = groups(tmp_path, "{low: 1.0e-4, high: 1.0e-2, log: true}", f"sampler: {sampler}", number=14)
    assert [len(group) for group in found[:3]] == [4, 4, 4]
    assert all(len(shapes(group)) == 1 for group in found)
    assert finished_trials(search.study) == 14
    rates = {values["training.learning_rate"] for group in found for _, values in group}
    assert len(rates) > 10  # NSGA-II takes some over


def test_a_shape_whose_points_are_used_up_brings_no_more(tmp_path):
    _, found = groups(tmp_path, "{choices: [1.0e-3]}", "sampler: tpe", number=4)
    assert sum(len(group) for group in found) == 4
    assert max(len(group) for group in found) == 2


def test_how_many_are_left_is_known(tmp_path):
    rate = "{choices: [1.0e-3, 1.0e-2]}"
    search = searcher(tmp_path, LAST.replace("LEARNING_RATE", rate).replace("SAMPLER", "sampler: grid"))
    told = []
    search.together, search.asking.num_trials = lambda proposal, left: told.append(left) or 1, 5
    for number in range(5):
        search.suggest(str(number))
    assert told == [5, 4, 3, 2, 1]  # of twelve in the grid


def test_a_space_that_searches_shapes_alone_is_asked_one_by_one(tmp_path):
    space = SPACE.replace("side.prompt_dropout: {low: 0.0, high: 0.5", "side.depth: {low: 1, high: 6")
    search = searcher(tmp_path, space)
    search.together = lambda proposal, left: 4
    assert len(unpack_proposals(search.suggest("a"))) == 1


def test_trials_that_wait_for_others_of_their_shape_run_and_none_is_lost(tmp_path):
    """Asked while those of another shape were looked for, they have heartbeats, and the search is not at its end."""
    text = LAST.replace("LEARNING_RATE", "{choices: [1.0e-3]}").replace("SAMPLER", "sampler: grid")
    search = searcher(tmp_path, text)
    search.together, ask, alive = lambda proposal, left: 3, search.asking.next, []

    def running():
        trials = search.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return sorted(trial._trial_id for trial in trials)

    def next_one(fixed=None):
        alive.append((sorted(search._running_ids()), running()))
        return ask(fixed)

    search.asking.next = next_one
    first = unpack_proposals(search.suggest("a"))
    assert [one.number for one in first] == [0, 1]
    assert [trial.number for trial, _ in search.held] == [2]
    assert [len(beating) for beating, _ in alive] == [0, 1, 2], "while the next is asked, those before have heartbeats"
    assert all(beating == known for beating, known in alive)
    assert sorted(search._running_ids()) == running()
    again = searcher(tmp_path, text, resume=True)  # its driver died
    again.together = search.together
    seen = [one.values for name in "bcde" for one in unpack_proposals(again.suggest(name))]
    assert len({str(values) for values in seen}) == 6


def test_why_one_of_several_failed_is_its_own(tmp_path):
    text = LAST.replace("LEARNING_RATE", "{choices: [1.0e-3]}").replace("SAMPLER", "sampler: grid")
    search = searcher(tmp_path, text)
    search.together = lambda proposal, left: 2
    search.suggest("a")
    search.on_trial_complete("a", pack_messages(TrialFailure(reason="lost"), unpack_message(result(0.8))))
    assert [trial.state for trial in search.study.trials[:2]] == [TrialState.PRUNED, TrialState.COMPLETE]
    assert [reason_of(trial) for trial in search.study.trials[:2]] == ["lost", None]
    search.suggest("b")
    search.on_trial_complete("b", None, error=True)
    assert [reason_of(trial) for trial in search.study.trials[2:4]] == [DIED, DIED]


def test_the_first_trial_is_the_papers(tmp_path):
    first = suggested(searcher(tmp_path), "a")
    paper = TrialConfig()
    assert first.values["side.num_prompts"] == paper.side.num_prompts
    assert first.values["features.token_ratio"] == pytest.approx(paper.features.token_ratio)
    assert first.values["side.prompt_dropout"] == paper.side.prompt_dropout
    assert first.number == 0


def test_what_the_paper_has_outside_the_space_moves_to_the_nearest():
    space = parse_space("space: {side.resolution: {choices: [70, 126, 196]}, side.depth: {low: 8, high: 12}}")
    assert paper_point(space) == {"side.resolution": 126, "side.depth": 8}
    assert paper_point(parse_space("space: {side.depth: {low: 1, high: 4}}")) == {"side.depth": 4}
    for low, high, nearest in ((1.0e-3, 1.0e-2, 1e-3), (1.0e-5, 1.0e-4, 1e-4), (1.0e-5, 1.0e-2, 5e-4)):
        space = parse_space(f"space: {{training.learning_rate: {{low: {low}, high: {high}}}}}")
        assert paper_point(space) == {"training.learning_rate": nearest}


def test_conditional_rows_are_left_out_where_they_do_not_hold(tmp_path):
    search = searcher(tmp_path)
    proposals = [suggested(search, str(number)).values for number in range(12)]
    for proposal in proposals:
        assert ("side.prompt_dropout" in proposal) == (proposal["side.num_prompts"] != 4)
    assert {proposal["side.num_prompts"] for proposal in proposals} == {4, 16, 64}


def test_what_became_of_trials(tmp_path):
    search = searcher(tmp_path)
    outcomes = {
        "good": (result(0.9), False),
        "nan": (result(math.nan), False),
        "missing": (report(param_ratio=0.1), False),
        "crashed": (None, True),
        "stopped": (report(val_auc=0.8, param_ratio=0.02, finished=False), False),
    }
    for name, (last, error) in outcomes.items():
        search.suggest(name)
        search.on_trial_complete(name, last, error)
    trials = search.study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] + [TrialState.PRUNED] * 4
    assert trials[0].values == [0.9, 0.01]
    reasons = [trial.user_attrs["reason"] for trial in trials[1:]]
    assert reasons == ["val_auc is nan", "val_auc is None", DIED, "stopped before its last epoch"]
    assert trials[3].constraints["deaths"] > 0  # so that it is infeasible, not only bad
    assert trials[4].user_attrs["result"]["val_auc"] == 0.8
    assert [trial.number for trial in search.study.best_trials] == [0]
    assert finished_trials(search.study) == 5


def test_a_dead_drivers_trials_are_asked_again_and_nothing_else(tmp_path):
    search = searcher(tmp_path)
    search.suggest("done")
    search.on_trial_complete("done", result(0.9))
    lost = suggested(search, "lost")
    again = searcher(tmp_path, resume=True)
    assert finished_trials(again.study) == 1
    assert suggested(again, "new").values == lost.values
    states = [trial.state for trial in again.study.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]


def test_a_study_is_not_overwritten_and_not_resumed_out_of_nothing(tmp_path):
    with pytest.raises(ConfigError, match="is not there"):
        searcher(tmp_path, resume=True)
    searcher(tmp_path)
    with pytest.raises(ConfigError, match=r"exists .*; resume it"):
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
        depth = suggested(search, str(number)).values["side.depth"]
        crashes += depth > 6
        if depth > 6 and told_as_failed:
            search.study.tell(search.trials.pop(str(number))[0], state=TrialState.FAIL)
        else:
            search.on_trial_complete(str(number), None if depth > 6 else result(depth / 12), depth > 6)
    return crashes


@pytest.mark.slow
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
        proposal = suggested(search, str(number)).values
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
        proposal = suggested(search, str(number))
        assert (proposal.seeds, proposal.stage) == (1, "choose")
        seen.append(tuple(proposal.values.values()))
        crashed = seen[-1][:2] == ("A", 4)
        auc = {1e-4: 0.6, 1e-3: 0.9, 1e-2: 0.5}[seen[-1][2]]
        search.on_trial_complete(str(number), None if crashed else report(val_auc=auc), crashed)
    assert sorted(seen) == sorted((p, d, rate) for p in "AB" for d in (2, 4) for rate in (1e-4, 1e-3, 1e-2))
    assert enqueue_chosen(search.space, search.study) == 4
    assert enqueue_chosen(search.space, search.study) == 4  # nothing is enqueued twice
    again = searcher(tmp_path, GRID, resume=True)
    chosen = [suggested(again, f"r{number}") for number in range(4)]
    assert all((one.seeds, one.stage) == (3, "final") for one in chosen)
    points = [one.values for one in chosen]
    rates = {(one["point"], one["side.depth"]): one["training.learning_rate"] for one in points}
    assert rates == {("A", 2): 1e-3, ("A", 4): 1e-4, ("B", 2): 1e-3, ("B", 4): 1e-3}


# --- constraints --------------------------------------------------------------------------------------------------

CONSTRAINED = """
space: {side.depth: {low: 1, high: 12}, side.reduction: {choices: [4, 8]}}
objectives: {val_auc: max, param_ratio: min}
constraints: {param_ratio: {max: 0.5}, val_auc: {min: 0.2}}
num_trials: 20
"""


def test_what_breaks_a_constraint_is_not_trained_but_told(tmp_path):
    space = parse_space(CONSTRAINED)
    study = open_study(space, "s", str(tmp_path / "optuna.log"), resume=False)
    refused = []
    search = StudySearcher(
        space, study, lambda trial: {"param_ratio": trial.side.depth / 12}, lambda *told: refused.append(told)
    )
    for number in range(8):
        proposal = suggested(search, str(number)).values
        assert proposal["side.depth"] <= 6
        search.on_trial_complete(str(number), result(0.1 if number == 3 else 0.8, proposal["side.depth"] / 12))
    assert finished_trials(study) == 8
    assert refused
    for number, values, costs, reason in refused:
        trial = study.get_trials()[number]
        assert trial.state == TrialState.PRUNED
        assert trial.constraints == {"param_ratio": pytest.approx((values["side.depth"] / 12 - 0.5) / 0.5)}
        assert costs["param_ratio"] > 0.5
        assert "param_ratio is" in reason
    low = [trial for trial in study.get_trials() if trial.constraints.get("val_auc", 0) > 0]
    assert [trial.values[0] for trial in low] == [0.1]
    assert all(trial.number != low[0].number for trial in study.best_trials)


def test_memory_that_ran_out_is_a_broken_limit(tmp_path):
    search = searcher(tmp_path)
    number = suggested(search, "a").number
    failure = TrialFailure(reason="OutOfMemoryError", out_of_memory_bytes=5_000_000_000)
    search.on_trial_complete("a", pack_messages(failure))
    trial = search.study.get_trials()[number]
    assert (trial.state, trial.constraints) == (TrialState.PRUNED, {"out_of_memory_bytes": 5e9})


def test_a_proposal_says_what_it_costs(tmp_path):
    space = parse_space(CONSTRAINED)
    study = open_study(space, "s", str(tmp_path / "optuna.log"), resume=False)
    search = StudySearcher(space, study, lambda trial: {"param_ratio": trial.side.depth / 100, "seconds": 3.0})
    proposal = unpack_proposal(search.suggest("a"))
    assert proposal.costs == {"param_ratio": proposal.trial(space).side.depth / 100, "seconds": 3.0}


def test_a_search_without_a_feasible_point_ends(tmp_path, capsys):
    space = parse_space(CONSTRAINED.replace("0.5", "0.01"))
    study = open_study(space, "s", str(tmp_path / "optuna.log"), resume=False)
    search = StudySearcher(space, study, lambda trial: {"param_ratio": trial.side.depth / 12})
    assert search.suggest("a") == Searcher.FINISHED
    assert "no further point keeps to the constraints" in capsys.readouterr().err


# --- sharing and resuming -----------------------------------------------------------------------------------------


def test_the_same_state_proposes_the_same_whoever_asks(tmp_path):
    one, two = searcher(tmp_path / "a"), searcher(tmp_path / "b")
    for number in range(8):
        for search in (one, two):
            search.suggest(str(number))
            search.on_trial_complete(str(number), result(0.5 + 0.04 * number))
        if number == 4:  # a new driver takes over one of the two
            two = searcher(tmp_path / "b", resume=True)
    assert [trial.params for trial in one.study.get_trials()] == [trial.params for trial in two.study.get_trials()]


def test_two_drivers_on_one_database_do_not_repeat_each_other(tmp_path):
    space, url = parse_space(SPACE), f"sqlite:///{tmp_path}/optuna.db"
    drivers = [StudySearcher(space, open_study(space, "s", url, resume=resume)) for resume in (False, True)]
    points = []
    for number in range(6):
        for at, driver in enumerate(drivers):
            points.append(tuple(sorted(suggested(driver, f"{at}-{number}").values.items())))
        for at, driver in enumerate(drivers):
            driver.on_trial_complete(f"{at}-{number}", result(0.5 + 0.01 * len(points)))
    assert len(set(points)) == len(points) == 12
    assert finished_trials(drivers[0].study) == 12
    others = [trial for trial in drivers[1].study.get_trials() if trial.state != TrialState.COMPLETE]
    assert all("the same as trial" in trial.user_attrs["reason"] for trial in others)


def test_a_front_is_tried_first_by_a_later_study(tmp_path):
    search = searcher(tmp_path)
    for number in range(5):
        search.suggest(str(number))
        search.on_trial_complete(str(number), result(0.5 + 0.1 * number, 0.01 * (number + 1)))
    space = parse_space(SPACE)
    other = open_study(space, "t", str(tmp_path / "t.log"), resume=False)
    front = [trial.params for trial in search.study.best_trials]
    assert {"side.prompt_dropout" in point for point in front} == {True, False}  # a row that is not active has no value
    assert enqueue_front(space, other, search.study) == len(front) > 0
    later = StudySearcher(space, other)
    first = [suggested(later, str(number)).values for number in range(1 + len(front))]
    assert all(point in first for point in front)


def test_storages_that_cannot_be_opened_are_said_without_their_password(tmp_path):
    with pytest.raises(ConfigError, match=r"the database at postgresql://\*\*\*@nowhere:1/x cannot be opened") as error:
        open_study(parse_space(SPACE), "s", "postgresql://user:secret@nowhere:1/x", resume=False)
    assert "secret" not in str(error.value)


def test_why_incomplete():
    space = parse_space(SPACE)
    good, infinite = (unpack_message(result(auc)) for auc in (0.9, math.inf))
    assert why_incomplete(good, False, space) is None
    assert why_incomplete(good, True, space) == DIED
    assert why_incomplete(infinite, False, space) == "val_auc is inf"


# --- confirming ---------------------------------------------------------------------------------------------------


def test_the_best_of_the_front_are_confirmed_once_with_new_seeds(tmp_path):
    """AUC and cost grow together, so that all are of the front but the last, which trial 2 dominates."""
    text = SPACE + "repeats: 2\n"
    search = searcher(tmp_path, text)
    points = [(0.6, 0.01), (0.7, 0.02), (0.9, 0.03), (0.8, 0.025), (0.85, 0.04)]
    proposals = [suggested(search, str(number)) for number in range(5)]
    for number, (auc, ratio) in enumerate(points):
        search.on_trial_complete(str(number), result(auc, ratio))
    assert [(one.seeds, one.first_seed, one.confirms) for one in proposals] == [(2, 0, None)] * 5
    assert enqueue_confirmed(search.space, search.study, 2, 4) == [2, 3]
    assert enqueue_confirmed(search.space, search.study, 2, 4) == []
    assert confirmations_waiting(search.study) == 2
    first = suggested(search, "c0")
    assert (first.stage, first.seeds, first.first_seed, first.confirms) == ("confirm", 4, 2, 2)
    assert first.values == proposals[2].values
    assert first.trial(search.space).training.seed == search.space.base().training.seed + 2
    search.on_trial_complete("c0", result(0.95, 0.001))
    search.suggest("lost")
    again = searcher(tmp_path, text, resume=True)  # the driver died while the second was confirmed
    assert enqueue_confirmed(again.space, again.study, 2, 4) == []
    assert (confirmations_waiting(again.study), finished_trials(again.study)) == (1, 5)
    second = suggested(again, "c1")
    assert (second.stage, second.seeds, second.confirms) == ("confirm", 4, 3)
    again.on_trial_complete("c1", result(0.5, 0.1))
    assert enqueue_confirmed(again.space, again.study, 3, 4) == [1]
    assert finished_trials(again.study) == 5


def test_with_one_objective_the_best_are_confirmed(tmp_path):
    search = searcher(tmp_path, SPACE.replace(", param_ratio: min", ""))
    for number in range(4):
        search.suggest(str(number))
        search.on_trial_complete(str(number), result(0.6 + 0.1 * number))
    assert enqueue_confirmed(search.space, search.study, 2, 5) == [3, 2]


def test_what_was_stopped_or_breaks_a_constraint_is_not_confirmed(tmp_path):
    text = SPACE.replace(", param_ratio: min", "") + "constraints: {val_auc: {min: 0.65}}\n"
    search = searcher(tmp_path, text)
    for number in range(4):
        search.suggest(str(number))
        search.on_trial_complete(str(number), result(0.6 + 0.1 * number))
    search.suggest("stopped")
    search.on_trial_complete("stopped", report(val_auc=0.99, param_ratio=0.01, finished=False))
    assert enqueue_confirmed(search.space, search.study, 9, 5) == [3, 2, 1]


def test_a_storages_password_comes_from_the_environment_and_stays_out_of_snapshots(tmp_path, monkeypatch):
    """Tune pickles its searcher into the study's folder."""
    url = f"sqlite:///{tmp_path}/s.db"
    monkeypatch.setenv("FPT_RAY_STORAGE", url)
    location = storage_location(StudyOptions(space="s.yaml", images="i"), str(tmp_path), "s")
    assert location == url
    assert storage_location(StudyOptions(space="s.yaml", images="i", storage="other"), str(tmp_path), "s") == "other"
    space = parse_space(SPACE)
    search = StudySearcher(space, open_study(space, "s", location, resume=False))
    assert b"sqlite" not in cloudpickle.dumps(search)


def test_what_breaks_a_constraint_is_neither_confirmed_nor_chosen(tmp_path):
    limited = SPACE.replace(", param_ratio: min}", "}\nconstraints: {train_seconds: {max: 10}}")
    search = searcher(tmp_path, limited)
    for number in range(4):
        search.suggest(str(number))
        told = report(val_auc=0.6 + 0.1 * number, param_ratio=0.01, train_seconds=5.0 * number)
        search.on_trial_complete(str(number), told)
    assert enqueue_confirmed(search.space, search.study, 2, 5) == [2, 1]
    (tmp_path / "grid").mkdir()
    search = searcher(tmp_path / "grid", GRID + "constraints: {train_seconds: {max: 10}}\n")
    for number in range(12):
        rate = suggested(search, str(number)).values["training.learning_rate"]
        told = report(val_auc=0.9 if rate == 1e-2 else 0.8 - rate, train_seconds=99.0 if rate == 1e-2 else 1.0)
        search.on_trial_complete(str(number), told)
    assert enqueue_chosen(search.space, search.study) == 4
    assert {suggested(search, f"r{n}").values["training.learning_rate"] for n in range(4)} == {1e-4}
