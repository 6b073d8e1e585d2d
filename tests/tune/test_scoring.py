"""Which calls scoring hands to workers, and with which share of a host; ``test_searches.py`` has the scores."""

import json

from fpt_ray.config.space_yaml import load_space
from fpt_ray.features.serving import Stores
from fpt_ray.models.hardware import Hardware
from fpt_ray.reading.places import Reading
from fpt_ray.tracking import records as tracking
from fpt_ray.tracking.records import TrialRecord
from fpt_ray.tune import scoring
from fpt_ray.tune.resources import Packing
from fpt_ray.tune.scoring import TrialScores, score_shown
from fpt_ray.tune.worker import Shared
from tests.conftest import SMOKE

GPU = Hardware(device="cuda", name="a card", has_bfloat16=True, memory_bytes=100)


def record(number, **metrics):
    tags = {tracking._PROPOSAL: json.dumps({"side.num_prompts": 2 + number})}
    return TrialRecord(
        number=number,
        run_id=f"r{number}",
        params={"training.seed": "5"},
        metrics=metrics,
        tags=tags,
        status="FINISHED",
        reason="",
    )


def test_trials_without_a_test_score_are_scored_on_workers_at_once(monkeypatch):
    packing = Packing(workers=1, cpus=2.0, gpus=None, node_cpus=8, hardware=GPU)
    folder = {"study_uri": "s", "weights_root": "/driver"}
    stores = Stores(stores=(), weights={}, hardware=GPU)
    shared = Shared(space=load_space(SMOKE), stores=stores, reading=Reading(), packing=packing, **folder)
    handed = {}

    def run_on_workers(calls, shares):
        handed.update(shares)
        assert {call.args[0] for call in calls.values()} == {scoring._scores}
        assert {call.args[2].training.seed for call in calls.values()} == {5}  # the trial's, whatever the space has
        return iter([(name, TrialScores(run_id=name, metrics={}, seed_aucs=())) for name in reversed(calls)])

    monkeypatch.setattr(scoring, "run_on_workers", run_on_workers)
    monkeypatch.setattr(scoring, "shown_trials", lambda records, _: list(records))
    monkeypatch.setattr(scoring, "store_for", lambda *_: None)
    monkeypatch.setattr(scoring, "trial_identity", lambda *_: {})
    monkeypatch.setattr(Shared, "costs", lambda _, trial: {"peak_memory_bytes": 10.0 * trial.side.num_prompts})
    found = score_shown([record(0), record(1, test_auc=0.9), record(2)], shared)
    assert [one.run_id for one in found] == ["r2", "r0"]
    assert handed == {"r0": {"CPU": 2.0, "GPU": 0.23}, "r2": {"CPU": 2.0, "GPU": 0.46}}
