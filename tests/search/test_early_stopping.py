"""Stopping is compared with the rules by hand, and by its effect: on synthetic learning curves whose front is known,
ASHA on the score alone loses the small end of the front, the rule here keeps it."""

from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler

from fpt_ray.bench.stopping import Curve, trained_to_the_end
from fpt_ray.config.space_yaml import parse_space
from fpt_ray.search.early_stopping import FairStopping, falls_behind, rungs
from fpt_ray.search.messages import Proposal, pack_proposals
from tests import messages
from tests.messages import of_seeds

SPACE = """
space: {{side.depth: {{low: 1, high: 8}}}}
fixed: {{training.epochs: 20}}
objectives: {}
early_stopping: {}
grace_epochs: 2
"""


def test_rungs():
    assert list(rungs("asha", 2, 20)) == [2, 6, 18]
    assert list(rungs("median", 17, 20)) == [17, 18, 19]
    assert list(rungs("asha", 20, 20)) == []


@pytest.mark.parametrize(
    ("kind", "score", "costs", "stops"),
    [
        ("asha", 0.75, (5,), True),  # of 0.6 0.7 0.75 0.8 0.9 the upper third begins at 0.7833
        ("asha", 0.81, (5,), False),  # of 0.6 0.7 0.8 0.81 0.9 at 0.8067
        ("median", 0.74, (5,), True),  # the others' median is 0.75
        ("median", 0.76, (5,), False),
        ("asha", 0.1, (2,), False),  # only two trials cost no more
        ("asha", 0.1, (), True),
    ],
)
def test_falls_behind_by_hand(kind, score, costs, stops):
    others = [(0.6, (1,)), (0.7, (2,)), (0.8, (3,)), (0.9, (4,))]
    others = others if costs else [(one, ()) for one, _ in others]
    assert falls_behind(kind, score, costs, others) == stops


def report(**told):
    """An epoch before a trial's last."""
    return messages.report(finished=False, **told)


TRIAL = SimpleNamespace(config=pack_proposals(Proposal(number=0, values={})))
CONFIRMING = SimpleNamespace(config=pack_proposals(Proposal(number=1, values={}, stage="confirm")))


def curve(size, epoch):
    """Larger networks end higher; all learn at the same pace."""
    return 0.5 + (0.2 + 0.2 * size) * (1 - np.exp(-epoch / 4))


def run(objectives, kind, sizes):
    """Sizes that were allowed to finish."""
    curves = [
        Curve(val_score=tuple(curve(size, epoch) for epoch in range(1, 21)), costs={"param_ratio": size})
        for size in sizes
    ]
    return [sizes[i] for i in trained_to_the_end(parse_space(SPACE.format(objectives, kind)), curves)[0]]


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_small_networks_are_not_stopped_for_being_small(kind):
    sizes = list(np.random.default_rng(0).permutation(np.linspace(0.1, 1, 30)))
    alone = run("{val_auc: max}", kind, sizes)
    fair = run("{val_auc: max, param_ratio: min}", kind, sizes)
    assert fair == sizes  # every one of them is on the front
    assert 0.1 not in alone[3:]
    assert len(alone) < len(sizes) / 2


def test_what_is_worse_at_the_same_cost_is_stopped():
    scheduler = FairStopping(parse_space(SPACE.format("{val_auc: max, param_ratio: min}", "asha")))
    for score in (0.8, 0.81, 0.82):
        scheduler.on_trial_result(None, TRIAL, report(epochs=2, val_auc=score, param_ratio=0.01))
    worse = report(epochs=2, val_auc=0.6, param_ratio=0.01)
    assert scheduler.on_trial_result(None, CONFIRMING, worse) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, TRIAL, worse) == TrialScheduler.STOP
    smaller = report(epochs=2, val_auc=0.6, param_ratio=0.009)
    assert scheduler.on_trial_result(None, TRIAL, smaller) == TrialScheduler.CONTINUE


def test_what_has_ended_is_no_one_to_compare_with():
    """A trial of one epoch, whose score is final, beside the first epochs of others."""
    scheduler = FairStopping(parse_space(SPACE.format("{val_auc: max}", "asha")))
    for _ in range(3):
        scheduler.on_trial_result(None, TRIAL, of_seeds(2, (0.9, 0.1), finished=True))
    assert scheduler.on_trial_result(None, TRIAL, of_seeds(2, (0.6, 0.1))) == TrialScheduler.CONTINUE


def test_the_first_seed_is_compared_whether_the_others_train_after_it_or_with_it():
    scheduler = FairStopping(parse_space(SPACE.format("{val_auc: max}", "asha")))
    for score in (0.8, 0.81, 0.82):
        scheduler.on_trial_result(None, TRIAL, of_seeds(2, (score, 0.1)))
    assert scheduler.on_trial_result(None, TRIAL, of_seeds(2, (0.6, 0.2), first=1)) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, TRIAL, of_seeds(2, (0.9, 0.2))) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, TRIAL, of_seeds(2, (0.6, 1.0))) == TrialScheduler.STOP


def test_who_breaks_a_limit_of_costs_stops_nobody():
    """A limit of the score may still be met later, and a trial below it is compared as all others."""
    text = SPACE.format("{val_auc: max}", "asha") + "constraints: {train_seconds: {max: 10}, val_auc: {min: 0.9}}"
    scheduler = FairStopping(parse_space(text))
    for score in (0.8, 0.81, 0.82):
        scheduler.on_trial_result(None, TRIAL, report(epochs=2, val_auc=score, train_seconds=99.0))
    worse = report(epochs=2, val_auc=0.6, train_seconds=1.0)
    assert scheduler.on_trial_result(None, TRIAL, worse) == TrialScheduler.CONTINUE
    for score in (0.8, 0.81, 0.82):
        scheduler.on_trial_result(None, TRIAL, report(epochs=2, val_auc=score, train_seconds=1.0))
    assert scheduler.on_trial_result(None, TRIAL, worse) == TrialScheduler.STOP
