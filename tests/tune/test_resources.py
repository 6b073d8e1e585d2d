"""Shares of a GPU by hand, for the memory that FPT+ and full fine-tuning are predicted to take on a 24 GiB card."""

from dataclasses import replace

import pytest

from fpt_ray.config.space_yaml import parse_space
from fpt_ray.config.trial import trial_from
from fpt_ray.features.serving import Stores
from fpt_ray.models.hardware import Hardware
from fpt_ray.reading.places import Reading
from fpt_ray.search.messages import Proposal, pack_proposals
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.preparation import crowd_of
from fpt_ray.tune.resources import Crowd, Packing, gpu_share
from fpt_ray.tune.worker import Shared

GIB = 2**30
GPU = Hardware(device="cuda", name="a card", has_bfloat16=True, memory_bytes=24 * GIB)
CPU = Hardware(device="cpu", name="cpu", has_bfloat16=False)


def packing(**options):
    return Packing(**({"workers": 1, "cpus": None, "gpus": None, "node_cpus": 8, "hardware": GPU} | options))


@pytest.mark.parametrize(
    ("gib", "share"),
    [(0.6, 0.03), (0.1, 0.02), (2.0, 0.1), (7.4, 0.36), (11.0, 1.0), (40.0, 1.0)],  # 1.15 x GiB / 24, rounded up
)
def test_a_gpu_is_shared_by_predicted_memory(gib, share):
    assert gpu_share(gib * GIB, 24 * GIB) == pytest.approx(share)


def test_side_networks_share_and_a_large_model_is_alone():
    side, full = trial_from({}), trial_from({"method": "full_fine_tuning"})
    assert packing().trial(side, 0.6 * GIB) == {"CPU": 1.0, "GPU": pytest.approx(0.03)}
    assert packing().trial(full, 23 * GIB)["GPU"] == 1.0
    assert packing(gpus=0.25).trial(side, 0.6 * GIB)["GPU"] == 0.25


def test_on_cpus_the_lpm_takes_all_cores():
    cores = packing(hardware=CPU)
    assert cores.trial(trial_from({}), GIB) == {"CPU": 1.0}
    assert cores.trial(trial_from({"method": "lora"}), GIB) == {"CPU": 8.0}
    assert packing(hardware=CPU, cpus=2.0).trial(trial_from({"method": "lora"}), GIB) == {"CPU": 2.0}


def test_a_trial_with_workers_of_its_own_only_waits():
    own = packing(workers=2, hardware=CPU)
    assert own.trial(trial_from({}), GIB) == {"CPU": 0.01}
    assert own.worker(trial_from({}), GIB) == {"CPU": pytest.approx(0.99)}


# --- seeds that train together ------------------------------------------------------------------------------------


def shared_of(monkeypatch, seeds=5, gib=0.6, ask="", method="fpt+", feature_bytes=1e4, values=(), held=0, **options):
    """What a study's trials share, and one of its proposals."""
    monkeypatch.setattr("fpt_ray.tune.worker.store_for", lambda *_: None)
    monkeypatch.setattr(Reading, "gpu_bytes", lambda *_: held * GIB)
    space = parse_space(f"space: {{side.num_prompts: {{low: 1, high: 64}}}}\nfixed: {{method: {method}}}\n{ask}")
    own = packing(**options)
    stores = Stores(stores=(), weights={}, hardware=own.hardware)
    folders = {"study_uri": "s", "weights_root": "/driver"}
    shared = Shared(space=space, stores=stores, reading=Reading(), packing=own, **folders)
    proposal = Proposal(
        number=0,
        values=dict(values),
        seeds=seeds,
        costs={"peak_memory_bytes": gib * GIB, "feature_bytes": feature_bytes},
    )
    return shared, proposal


def share_of(monkeypatch, **options):
    """(whether a proposal's seeds train together, what it asks of Ray)."""
    shared, proposal = shared_of(monkeypatch, **options)
    return shared.together(proposal), shared.resources(pack_proposals(proposal))


def test_seeds_that_train_together_take_a_gpus_memory_together(monkeypatch):
    together = (True, {"CPU": 1.0, "GPU": pytest.approx(0.15)})  # 1.15 x 5 x 0.6 / 24, rounded up
    alone = (False, {"CPU": 1.0, "GPU": pytest.approx(0.03)})
    assert share_of(monkeypatch) == together
    assert share_of(monkeypatch, seeds=1) == alone
    assert share_of(monkeypatch, ask="constraints: {train_seconds: {max: 9}}") == alone
    assert share_of(monkeypatch, ask="objectives: {val_auc: max, train_seconds: min}") == alone
    assert share_of(monkeypatch, method="lora") == alone
    assert share_of(monkeypatch, workers=2)[0] is False
    assert share_of(monkeypatch, gib=4.2) == (False, {"CPU": 1.0, "GPU": pytest.approx(0.21)})  # 5 would take 24.15
    assert share_of(monkeypatch, gpus=0.1) == (False, {"CPU": 1.0, "GPU": 0.1})


def test_on_cpus_probes_alone_train_together(monkeypatch):
    assert [share_of(monkeypatch, method=one, hardware=CPU)[0] for one in ("probe", "fpt+")] == [True, False]


def most_together(monkeypatch, most=8, seeds=1, **options):
    """How many trials of a shape one worker takes, and what it asks of Ray for two of them."""
    own, proposal = shared_of(monkeypatch, seeds=seeds, **options)
    return own.most_together(proposal, most), own.resources(pack_proposals(proposal, proposal))


def test_trials_of_a_shape_train_as_one_model_as_far_as_there_is_room(monkeypatch):
    two = {"CPU": 1.0, "GPU": pytest.approx(0.06)}  # 1.15 x 2 x 0.6 / 24, rounded up
    assert most_together(monkeypatch) == (8, two)
    assert most_together(monkeypatch, gib=5)[0] == 4  # 1.15 x 4 x 5 GiB fit into 24
    assert most_together(monkeypatch, gib=5, seeds=2)[0] == 2
    assert most_together(monkeypatch, method="lora")[0] == 1
    assert most_together(monkeypatch, ask="early_stopping: asha")[0] == 1
    assert most_together(monkeypatch, ask="constraints: {train_seconds: {max: 9}}")[0] == 1
    assert most_together(monkeypatch, workers=2)[0] == 1
    assert most_together(monkeypatch, hardware=CPU, method="probe")[0] == 8
    assert most_together(monkeypatch, hardware=CPU)[0] == 1
    large = {"feature_bytes": 4 * 2**20}  # 64 MiB for a batch of 16, of which four fit into 256
    assert most_together(monkeypatch, hardware=CPU, method="probe", **large)[0] == 4
    assert most_together(monkeypatch, hardware=CPU, method="probe", seeds=2, **large)[0] == 2
    assert most_together(monkeypatch, **large)[0] == 8


def test_features_on_a_gpu_count_once_for_trials_that_read_the_same_blocks(monkeypatch):
    """4 GiB of features and 0.6 GiB for each trial's training, of 24 GiB."""
    same, other = (("side.blocks", blocks) for blocks in ("last", "even"))
    assert most_together(monkeypatch, held=4) == (8, {"CPU": 1.0, "GPU": pytest.approx(0.25)})  # 1.15 x 5.2 / 24
    assert most_together(monkeypatch, held=4, values=(same,))[0] == 4  # of which each may read its own
    own, proposal = shared_of(monkeypatch, held=4, seeds=1, values=(same,))
    for values, share in ((same, 0.25), (other, 0.45)):  # 1.15 x 9.2 / 24
        asked = own.resources(pack_proposals(proposal, replace(proposal, values=dict([values]))))
        assert asked["GPU"] == pytest.approx(share)


def test_each_of_tunes_trials_that_may_run_at_once_has_some():
    found = [Crowd(at_once=2, together=8, spread=True).most_together(left) for left in (1, 3, 9, 40)]
    assert found == [1, 2, 5, 8]
    assert Crowd(at_once=2, together=3).most_together(2) == 2
    options, grid = StudyOptions(space="", images=""), parse_space("space: {side.depth: {choices: [1]}}\nsampler: grid")
    asked = replace(options, together=5)
    assert crowd_of(options, grid, 4, "cpu") == Crowd(at_once=4, together=8, spread=True)
    assert crowd_of(options, grid, 4, "cuda") == Crowd(at_once=4, together=8)
    assert crowd_of(options, replace(grid, sampler="tpe"), 4, "cuda").together == 1
    assert crowd_of(asked, grid, 4, "cpu") == Crowd(at_once=4, together=5)
