"""fpt_ray.prediction against the paper's Table 4 and Figure 7: parameters exactly, memory (MB as nvidia-smi prints
them, of an RTX A6000) closely. The paper's runs are independent of everything here; ``test_cost.py`` has its tables.
"""

import pytest
import timm
import torch

from fpt_ray.config.trial import TrialConfig, override, trial_from
from fpt_ray.cost import prediction
from fpt_ray.cost.execution import PAPER_FPT, Execution
from fpt_ray.cost.prediction import (
    count_parameters,
    fine_tuning_memory,
    learnable_parameters,
    network_memory,
    param_ratio,
    published_parameters,
    training_memory,
    trial_costs,
)
from fpt_ray.display.units import MIB
from fpt_ray.errors import ConfigError
from fpt_ray.models import lpm_attention
from fpt_ray.models.hardware import Hardware
from fpt_ray.paper.numbers import FPT_AS_RUN

VIT_B = "vit_base_patch16_384.augreg_in21k_ft_in1k"
PARTS = ("weights", "gradients", "optimizer", "activations", "batch", "transient")
LAYER_FIRST = Execution(precision="float32", fused_attention=False, optimizer_copies=2, whole_blocks=True)
"""The paper's setting but for the layout of keys and values."""
CPU = Hardware(device="cpu", name="cpu", has_bfloat16=True)
GPU = Hardware(device="cuda", name="of a worker", has_bfloat16=True, memory_bytes=24 * 2**30)
OLD_GPU = Hardware(device="cuda", name="of a worker", has_bfloat16=False, memory_bytes=24 * 2**30)


# --- parameters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "learnable", "percent"),
    [  # Table 4, then FPT of Table 1
        ({"side.num_prompts": 4}, 845_669, "0.96"),
        ({"side.num_prompts": 8}, 864_101, "0.99"),
        ({"side.num_prompts": 16}, 900_965, "1.03"),
        ({"side.num_prompts": 32}, 974_693, "1.11"),
        ({"side.num_prompts": 64}, 1_122_149, "1.28"),
        ({"side.num_prompts": 128}, 1_417_061, "1.61"),
        (FPT_AS_RUN, 1_602_341, "1.81"),
    ],
)
def test_learnable_parameters_and_their_share_are_the_papers(overrides, learnable, percent):
    trial = trial_from(overrides)
    assert learnable_parameters(trial, 5) == learnable
    assert f"{100 * param_ratio(trial, 5):.2f}" == percent


def test_the_frozen_backbone_counts_with_its_published_head():
    assert published_parameters(VIT_B) == 86_859_496


# --- the paper's figures ------------------------------------------------------------------------------------------


def test_the_side_network_alone_takes_what_figure_7_says():
    trial = trial_from({"side.num_prompts": 0, "side.resolution": 512})
    memory = network_memory(trial, 5, PAPER_FPT)
    assert memory.process_bytes / MIB == pytest.approx(8_214, rel=0.005)


@pytest.mark.parametrize(
    ("overrides", "paper_mb"),
    [
        ({}, 736),
        ({"side.resolution": 512}, 8_704),
        ({"side.num_prompts": 128}, 1_388),
    ],
)
def test_layer_first_features_take_less_than_the_paper(overrides, paper_mb):
    assert network_memory(trial_from(overrides), 5, LAYER_FIRST).process_bytes / MIB < paper_mb


def test_layer_first_features_in_their_stored_type_save_a_copy_of_keys_and_values_and_half_of_the_other():
    num_bytes = 2 * 6 * 16 * 12 * 205 * 64 * 4  # two of L B H T E, in float32
    theirs, ours = (network_memory(TrialConfig(), 5, how).allocated_bytes for how in (PAPER_FPT, LAYER_FIRST))
    assert theirs - ours == pytest.approx(1.5 * num_bytes, rel=0.05)


# --- this system --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_parts_add_up_and_stand_in_order(precision):
    memory = training_memory(TrialConfig(), 5, precision=precision)
    assert sum(getattr(memory, part) for part in PARTS) == memory.allocated_bytes
    assert memory.allocated_bytes <= memory.reserved_bytes < memory.process_bytes
    assert 900_965 * 4 <= memory.weights <= 900_965 * 4 + 512 * 100
    assert 2 * 900_965 * 4 <= memory.optimizer <= 2 * 900_965 * 4 + 2 * 512 * 100


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_the_batch_is_mostly_keys_and_values_in_their_stored_type(precision):
    num_bytes = 2 * 6 * 16 * 12 * 205 * 64 * 2
    batch = training_memory(TrialConfig(), 5, precision=precision).batch
    assert num_bytes < batch < 1.1 * num_bytes


def test_maps_keep_sixteen_bits_for_the_gradient():
    """At the paper's setting 126 MiB are allocated; kept in float32 beside their copies, they would make it 133."""
    memory = training_memory(TrialConfig(), 5, precision="bfloat16")
    assert memory.allocated_bytes <= 128 * MIB


def test_bfloat16_and_fused_attention_each_save_memory():
    ours = training_memory(TrialConfig(), 5, precision="bfloat16").allocated_bytes
    float32 = training_memory(TrialConfig(), 5, precision="float32").allocated_bytes
    assert ours < 0.85 * float32 < 0.85 * network_memory(TrialConfig(), 5, LAYER_FIRST).allocated_bytes


def test_the_ratio_is_of_the_same_system_on_both_sides():
    trial = TrialConfig()
    training, fine_tuning = (
        predict(trial, 5, precision="bfloat16") for predict in (training_memory, fine_tuning_memory)
    )
    costs = trial_costs(override(trial, {"training.precision": "bfloat16"}), 5, CPU)
    ratio = costs["memory_ratio"]
    assert costs["peak_memory_bytes"] == training.process_bytes
    assert ratio == training.process_bytes / fine_tuning.process_bytes
    assert 0.06 < ratio < 0.08


@pytest.mark.parametrize(("hardware", "precision"), [(CPU, "float32"), (OLD_GPU, "float32"), (GPU, "bfloat16")])
def test_costs_are_those_of_the_workers_hardware_whatever_the_driver_has(hardware, precision):
    costs = trial_costs(TrialConfig(), 5, hardware)
    assert costs["peak_memory_bytes"] == training_memory(TrialConfig(), 5, precision=precision).process_bytes


def test_an_lpm_in_every_step_holds_as_many_scores_at_once_as_on_a_gpu(monkeypatch):
    """4097 tokens of 2 images in 3 heads: in a GPU's 256 MiB are the scores of 2730 queries, in a CPU's 4 MiB of 42."""
    small = {"backbone.name": "vit_tiny_patch16_224", "features.resolution": 1024, "training.batch_size": 2}
    trial = trial_from({"features.preloaded": False, "side.depth": 1, "side.resolution": 32, **small})
    few, many = (
        network_memory(trial, 3, Execution(precision="float32", score_bytes=size * MIB)).allocated_bytes
        for size in (4, 256)
    )
    assert many - few > 200 * MIB
    monkeypatch.setitem(lpm_attention.SCORE_BYTES, "cpu", 64 * MIB)
    prediction._network_memory.cache_clear()
    assert training_memory(trial, 3, precision="float32").allocated_bytes == many


@pytest.mark.parametrize("name", ["training.batch_size", "side.num_prompts", "side.depth", "side.resolution"])
def test_more_of_anything_takes_more(name):
    small, large = {"training.batch_size": (8, 32), "side.depth": (1, 4)}.get(name, (64, 256))
    trials = [trial_from({"side.depth": 2, name: value}) for value in (small, large)]
    few, many = (training_memory(trial, 5, precision="bfloat16") for trial in trials)
    assert few.allocated_bytes < many.allocated_bytes
    assert few.reserved_bytes < many.reserved_bytes


def test_a_larger_workspace_is_taken_twice():
    small, large = (
        network_memory(TrialConfig(), 5, Execution(precision="bfloat16", workspace_bytes=size * MIB)).allocated_bytes
        for size in (8, 32)
    )
    assert large - small == pytest.approx(2 * 24 * MIB, rel=0.05)  # blocks are not cut to the byte


def test_what_memory_does_not_depend_on_is_predicted_once():
    other = trial_from({"training.learning_rate": 0.01, "training.epochs": 3, "training.seed": 7})
    assert training_memory(other, 5, precision="bfloat16") is training_memory(TrialConfig(), 5, precision="bfloat16")
    narrow = trial_from({"side.num_prompts": 4, "side.depth": 3})
    assert fine_tuning_memory(narrow, 5, precision="bfloat16") is fine_tuning_memory(other, 5, precision="bfloat16")


def test_a_backbone_with_registers_and_layer_scale_is_traced_too():
    name = "vit_small_patch14_reg4_dinov2"
    trial = trial_from({"backbone.name": name, "features.resolution": 112, "training.batch_size": 2})
    memory = fine_tuning_memory(trial, 3, precision="bfloat16")
    with torch.device("meta"):
        model = timm.create_model(name, img_size=112, num_classes=3)
    assert memory.weights == pytest.approx(4 * count_parameters(model), rel=0.01)


def test_a_resolution_that_the_patches_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match=r"features.resolution is 500.*496 or 512"):
        fine_tuning_memory(trial_from({"features.resolution": 500}), 5, precision="bfloat16")


def test_operations_of_trials_that_differ_in_dropout_alone_are_counted_once():
    prediction._step_flops.cache_clear()
    found = {
        prediction.step_flops(override(TrialConfig(), {"side.prompt_dropout": rate}), 2) for rate in (0.0, 0.1, 0.3)
    }
    assert len(found) == 1
    assert prediction._step_flops.cache_info().misses == 1
