"""What a study asks first, of spaces whose rows depend on others, stand under points, or are seeds."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from fpt_ray.config.space_yaml import parse_space
from fpt_ray.errors import ConfigError
from fpt_ray.search.optuna_study import open_study
from fpt_ray.search.queue import enqueue_confirmed, enqueue_front
from fpt_ray.search.searcher import StudySearcher
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.preparation import check_options, check_points
from tests.messages import report
from tests.search.test_searcher import suggested

OBJECTIVES = "objectives: {val_auc: max, param_ratio: min}\n"


def ended(*points):
    """A study whose front are these points."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    for number, params in enumerate(points):
        kinds = {name: CategoricalDistribution([value]) for name, value in params.items()}
        study.add_trial(create_trial(params=params, distributions=kinds, values=[0.5 + 0.1 * number, 0.1 * number]))
    return study


def enqueued(tmp_path, text, *points):
    """The points of an earlier front that a study of this space is given first."""
    space = parse_space(text + OBJECTIVES)
    study = open_study(space, "s", str(tmp_path / "s.log"), resume=False)
    number = enqueue_front(space, study, ended(*points))
    _, *waiting = [trial.system_attrs["fixed_params"] for trial in study.get_trials()]  # the paper's comes before them
    assert len(waiting) == number
    return waiting


def test_a_front_of_a_space_whose_rows_exclude_each_other_is_taken_whole(tmp_path):
    text = """
space:
  method: {choices: [fpt+, knn]}
  side.num_prompts: {choices: [4, 16], when: {method: [fpt+]}}
  knn.neighbours: {choices: [5, 10], when: {method: [knn]}}
"""
    side = {"method": "fpt+", "side.num_prompts": 4}
    neighbours = {"method": "knn", "knn.neighbours": 10}
    others = [{"method": "knn", "knn.neighbours": 7}, {"method": "fpt+"}, {"method": "probe"}]
    assert enqueued(tmp_path, text, side, neighbours, *others) == [side, neighbours]


def test_a_front_keeps_the_points_it_was_found_under(tmp_path):
    text = """
points: {few: {side.num_prompts: 4}, many: {side.num_prompts: 64}}
space: {training.learning_rate: {choices: [0.001, 0.002]}}
"""
    found = {"point": "many", "training.learning_rate": 0.002}
    assert enqueued(tmp_path, text, found, {**found, "point": "none"}, {"training.learning_rate": 0.002}) == [found]


@pytest.mark.parametrize(
    "seeds",
    [
        "space: {training.learning_rate: {choices: [0.001, 0.002]}, training.seed: {choices: [0, 1, 4]}}\n",
        "points: {a: {training.seed: 4}, b: {training.seed: 1}}\nspace: {training.learning_rate: {choices: [0.001]}}\n",
    ],
)
def test_what_is_confirmed_has_seeds_that_no_trial_of_the_search_had(tmp_path, seeds):
    space = parse_space(seeds + "objectives: {val_auc: max}\nsampler: grid\n")
    search = StudySearcher(space, open_study(space, "s", str(tmp_path / "s.log"), resume=False))
    for number in range(len(space.grid())):
        suggested(search, str(number))
        search.on_trial_complete(str(number), report(val_auc=0.5 + 0.01 * number, param_ratio=0.1))
    confirmed = enqueue_confirmed(space, search.study, 2, 3)
    trials = search.study.get_trials()
    for number, one in enumerate(confirmed):
        proposal = suggested(search, f"c{number}")
        assert proposal.trial(space).training.seed == 5
        assert (proposal.confirms, proposal.seeds) == (one, 3)
    but_seeds = [{**trials[one].params, "training.seed": None} for one in confirmed]
    assert len(but_seeds) == len({str(one) for one in but_seeds}) == 2


# --- whether all that a space may propose can be built -----------------------------------------------------------


TWO_PATCHES = """
space:
  backbone.name: {choices: [vit_small_patch16_224, vit_small_patch14_dinov2]}
  features.resolution: {choices: [392, 518], when: {backbone.name: [vit_small_patch14_dinov2]}}
fixed: {backbone.weights: random, side.resolution: 112}
"""
DEPTH_OF_BLOCKS = """
space:
  side.depth: {choices: [3, 6]}
  side.blocks: {choices: ["5,8,11", "9,10,11"], when: {side.depth: 3}}
fixed: {backbone.name: vit_small_patch16_224, backbone.weights: random}
"""


@pytest.mark.parametrize("text", [TWO_PATCHES, DEPTH_OF_BLOCKS])
def test_values_that_no_proposal_has_together_are_no_fault(text):
    space = parse_space(text + OBJECTIVES)
    check_points(space)


def test_stores_are_those_of_values_that_occur_together():
    needs = parse_space(TWO_PATCHES + OBJECTIVES).stores()
    found = {(need.trial.backbone.name, need.trial.features.resolution) for need in needs}
    small, dino = "vit_small_patch16_224", "vit_small_patch14_dinov2"
    assert found == {(small, 512), (dino, 392), (dino, 518)}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (TWO_PATCHES.replace("518", "520"), "features.resolution is 520"),
        (DEPTH_OF_BLOCKS.replace("9,10,11", "9,10"), "side.blocks is '9,10'"),
        (
            "points: {a: {side.depth: 3}, b: {side.depth: 40}}\nspace: {side.num_prompts: {choices: [4]}}\n",
            "side.depth",
        ),
    ],
)
def test_a_value_that_cannot_be_built_where_it_is_proposed_is_refused(text, wrong):
    with pytest.raises(ConfigError, match=wrong):
        check_points(parse_space(text + OBJECTIVES))


@pytest.mark.parametrize(
    ("name", "value"),
    [("workers_per_trial", 0), ("workers_per_trial", -1), ("cpus_per_worker", 0.0), ("gpus_per_worker", -0.5)],
)
def test_workers_that_cannot_be_are_refused_by_name(name, value):
    options = StudyOptions(space="s.yaml", images="i", **{name: value})
    with pytest.raises(ConfigError, match=rf"{name} is {value:g}; give"):
        check_options(options, parse_space(OBJECTIVES + "space: {side.num_prompts: {choices: [4]}}"))
