"""Which calls scoring hands to workers, and with which share of a host; ``test_searches.py`` has the scores."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fpt_ray.config.space import need_of
from fpt_ray.config.space_yaml import load_space
from fpt_ray.config.trial import TrialConfig
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import Features, SplitRows
from fpt_ray.features.serving import Stores
from fpt_ray.features.spec import store_spec
from fpt_ray.metrics.intervals import bootstrap, interval
from fpt_ray.models.device import DeviceError
from fpt_ray.models.hardware import Hardware, hardware_here
from fpt_ray.reading.places import Reading
from fpt_ray.tracking import records as tracking
from fpt_ray.tracking.records import TrialRecord
from fpt_ray.train.checkpoint import Checkpoint
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


def test_a_checkpoint_that_is_gone_is_named(tmp_path):
    gone, none = record(7), record(8)
    gone.tags["checkpoint"] = f"{tmp_path}/gone"
    for one, said in (
        (gone, rf"trial 7: its checkpoint cannot be read \({tmp_path}/gone: "),
        (none, r"trial 8: .*\(nowhere"),
    ):
        with pytest.raises(ConfigError, match=said):
            scoring._of_saved((None,), one, TrialConfig(), (None,), "", hardware_here())


def test_a_trial_is_scored_in_the_type_that_it_was_trained_in_or_not_at_all(monkeypatch):
    """A worker without a GPU computes in float32 what was planned, and trained, by one that has bfloat16."""
    monkeypatch.setattr(scoring, "load_checkpoint", lambda _: pytest.fail("something was read"))
    monkeypatch.setattr(scoring, "hardware_here", lambda: replace(GPU, device="cpu", name="cpu"))
    with pytest.raises(DeviceError, match=r"is float32 on cpu of the host .*, and bfloat16 on a card"):
        scoring._of_saved((None,), record(7), TrialConfig(), (None,), "", GPU)


@pytest.fixture
def share(monkeypatch):
    """What the trials of a space share; no store is there."""
    monkeypatch.setattr(scoring, "shown_trials", lambda records, _: list(records))
    monkeypatch.setattr(scoring, "store_for", lambda *_: SimpleNamespace(uri="s"))
    monkeypatch.setattr(scoring.ray, "put", lambda one: one)
    monkeypatch.setattr(scoring, "trial_identity", lambda *_: {})
    monkeypatch.setattr(Shared, "costs", lambda _, trial: {"peak_memory_bytes": 10.0 * trial.side.num_prompts})
    packing = Packing(workers=1, cpus=2.0, gpus=None, node_cpus=8, hardware=GPU)
    folder = {"study_uri": "s", "weights_root": "/driver"}
    stores = Stores(stores=(), weights={}, hardware=GPU)
    return lambda space: Shared(space=load_space(space), stores=stores, reading=Reading(), packing=packing, **folder)


def test_rows_of_a_grid_have_intervals_over_images_and_seeds_and_differ_from_the_first(share, monkeypatch):
    """Of two rows of the same predictions, whose seeds lie apart: they differ by which seeds are drawn alone."""
    generator, labels = np.random.default_rng(0), np.arange(400) % 2
    logits = [generator.normal(size=400) + strength * labels for strength in (0.2, 1.0, 1.8)]
    seeds = [np.stack([1 - one, one], axis=1) for one in (1 / (1 + np.exp(-logit)) for logit in logits)]
    monkeypatch.setattr(scoring, "predictions_of_best", lambda *_: (seeds, labels))
    described = {"spec": store_spec(need_of(TrialConfig())), "table_digest": "", "data_note": ""}
    hashes = generator.integers(0, 256, (400, 32), np.uint8)
    tested = SplitRows(hashes=hashes, labels=labels, shards=np.zeros(400, np.int64), rows=np.arange(400))
    store = Features(uri="s", shards=(), classes=("no", "yes"), splits={"test": tested}, skipped=(), **described)

    def run_on_workers(calls, _):
        for run_id, call in calls.items():
            saved = Checkpoint(identity=f"{int(run_id[1:]):08x}", finished=(), current=())
            yield run_id, call.args[0][0](call.args[2], store, saved, run_id)

    monkeypatch.setattr(scoring, "run_on_workers", run_on_workers)
    first, second = score_shown([record(0), record(1)], share("bccd_methods"))
    assert (first.run_id, second.run_id) == ("r0", "r1")
    of_images = interval(bootstrap([seeds], labels)["auc"][0])
    for row in (first, second):
        width = row.metrics["test_auc_high"] - row.metrics["test_auc_low"]
        assert width > 2 * (of_images.high - of_images.low)
    assert "difference_low" not in first.metrics
    assert second.metrics["difference_low"] < -0.1
    assert second.metrics["difference_high"] > 0.1
    stored = json.loads(second.predictions)
    assert stored["images"] == [one.tobytes().hex() for one in hashes]
    assert stored["labels"] == labels.tolist()
    np.testing.assert_allclose(stored["said"], seeds, rtol=1e-5)


def test_rows_are_handed_on_as_soon_as_the_first_one_is_read(share, monkeypatch):
    """What they say of every test image is not kept until the last is read; the first is read though it is known."""
    handed, labels = [], np.arange(4) % 2

    def come(function, records, shared):
        order = [records[number] for number in (1, 0, 2)]
        for record in order:
            handed.append(record.run_id)
            scores = TrialScores(run_id=record.run_id, metrics={}, seed_scores=())
            yield (
                record.run_id,
                scoring._Resampled(scores=scores, samples=np.full(9, float(record.number)), labels=labels),
            )

    monkeypatch.setattr(scoring, "on_workers", come)
    found = score_shown([record(0, test_auc=0.9), record(1), record(2)], share("bccd_methods"))
    second = next(found)
    assert (second.run_id, second.metrics["difference_low"], handed) == ("r1", 1, ["r1", "r0"])
    assert [(one.run_id, one.metrics["difference_low"]) for one in found] == [("r2", 2)]


def test_trials_without_a_test_score_are_scored_on_workers_at_once(share, monkeypatch):
    handed = {}

    def run_on_workers(calls, shares):
        handed.update(shares)
        assert {call.args[0] for call in calls.values()} == {(scoring._scores,)}
        assert len({id(call.args[3]) for call in calls.values()}) == 1  # the store is put once
        assert {call.args[2].training.seed for call in calls.values()} == {5}  # the trial's, whatever the space has
        return iter([(name, TrialScores(run_id=name, metrics={}, seed_scores=())) for name in reversed(calls)])

    monkeypatch.setattr(scoring, "run_on_workers", run_on_workers)
    found = score_shown([record(0), record(1, test_auc=0.9), record(2)], share(SMOKE))
    assert [one.run_id for one in found] == ["r2", "r0"]
    assert handed == {"r0": {"CPU": 2.0, "GPU": 0.23}, "r2": {"CPU": 2.0, "GPU": 0.46}}
