"""The search against a synthetic problem whose front is known: the hyper-volume it reaches in 60 trials.

TPE with a constraint is compared with random proposals. AUC saturates in the logarithm of the parameters; nothing is
trained; the searcher is driven as Tune drives it. On 2026-11-21 TPE reached 0.953 on average (least 0.916), random
0.911 (least 0.862); ``pytest -s tests/search/test_search_quality.py`` prints both.
"""

import itertools
import math

import numpy as np
import optuna
import pytest

from fpt_ray.config.space_yaml import parse_space
from fpt_ray.metrics.pareto import pareto_front
from fpt_ray.search.messages import unpack_proposal
from fpt_ray.search.optuna_study import make_sampler
from fpt_ray.search.queue import paper_point
from fpt_ray.search.searcher import StudySearcher
from tests.messages import report

SPACE = """
space:
  side.depth: {low: 1, high: 12}
  side.num_prompts: {choices: [2, 4, 8, 16, 32, 64]}
  features.token_ratio: {low: 0.1, high: 1.0, step: 0.1}
  training.learning_rate: {low: 1.0e-5, high: 1.0e-1, log: true}
objectives: {val_auc: max, param_ratio: min}
constraints: {peak_memory_bytes: {max: 1.0e9}}
num_trials: 60
"""
TRIALS, SEEDS = 60, 10


def costs_of(trial):
    """Parameters grow with depth and prompts, memory with depth and tokens."""
    size = trial.side.depth * (2 + math.log2(trial.side.num_prompts))
    return {
        "param_ratio": 1e-3 * size,
        "peak_memory_bytes": 2.5e8 * (1 + trial.side.depth / 3 * trial.features.token_ratio),
    }


def auc_of(trial):
    """Saturates in the logarithm of the parameters; best at a learning rate of 1e-3 and with a third of the tokens."""
    gained = 1 - math.exp(-0.8 * math.log(1e3 * costs_of(trial)["param_ratio"]))
    rate = 0.2 * (math.log10(trial.training.learning_rate) + 3) ** 2
    tokens = 0.6 * (trial.features.token_ratio - 0.3) ** 2
    return 0.5 + 0.45 * gained - rate - tokens


def hypervolume(points):
    """Area between the front and the worst corner (AUC 0.5, 10 % parameters), by hand, over the whole rectangle's."""
    area, reached = 0.0, 0.5
    for auc, ratio in sorted(points, key=lambda point: (point[1], -point[0])):
        if ratio < 0.1 and auc > reached:
            area += (auc - reached) * (0.1 - ratio)
            reached = auc
    return area / (0.5 * 0.1)


def known_front(space):
    """Every size at the best rate and, within the memory, the best share of tokens."""
    points = []
    for depth, prompts, tenths in itertools.product(range(1, 13), space.rows[1].values(), range(1, 11)):
        values = {"side.depth": depth, "side.num_prompts": prompts, "features.token_ratio": tenths / 10}
        trial = space.trial({**values, "training.learning_rate": 1e-3})
        if costs_of(trial)["peak_memory_bytes"] <= 1e9:
            points.append((auc_of(trial), costs_of(trial)["param_ratio"]))
    found = np.array(points)
    return [tuple(point) for point in found[pareto_front(found, ("max", "min"))]]


def share_found(sampler, seed):
    space = parse_space(f"{SPACE}sampler: {sampler}\nseed: {seed}")
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=make_sampler(space, 0))
    study.enqueue_trial(dict(paper_point(space)))
    search = StudySearcher(space, study, costs_of)
    for number in range(TRIALS):
        trial = unpack_proposal(search.suggest(str(number))).trial(space)
        costs = costs_of(trial)
        assert costs["peak_memory_bytes"] <= 1e9
        search.on_trial_complete(str(number), report(val_auc=auc_of(trial), **costs))
    return hypervolume([trial.values for trial in study.best_trials]) / hypervolume(known_front(space))


@pytest.mark.slow
def test_tpe_finds_nine_tenths_of_the_known_front_and_more_than_random():
    shares = {name: [share_found(name, seed) for seed in range(SEEDS)] for name in ("tpe", "random")}
    said = {name: (round(float(np.mean(found)), 3), round(float(min(found)), 3)) for name, found in shares.items()}
    print("share of the known front's hyper-volume in 60 trials, (mean, minimum) over 10 seeds:", said)
    assert np.mean(shares["tpe"]) >= 0.9, said
    assert np.mean(shares["tpe"]) > np.mean(shares["random"]), said
