"""What learns is exactly what each method says: counts are Table 1's and by hand; what is frozen is compared bit for
bit with the loaded weights; saved-tensor hooks watch the LPM; LoRA's start is compared with the plain ViT."""

import dataclasses

import numpy as np
import pytest
import torch

from fpt_ray.config.trial import FeaturesConfig, PetlConfig, SideConfig, TrainingConfig, TrialConfig, trial_from
from fpt_ray.cost.prediction import count_parameters, learnable_parameters, param_ratio
from fpt_ray.features.rows import Batch
from fpt_ray.models.methods import AdaLora, learnable_state, load_learnable_state, make_model
from fpt_ray.models.weights import load_backbone
from fpt_ray.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fpt_ray.train.evaluation import Assignment
from fpt_ray.train.loop import fit
from tests.conftest import ABC, SMALL

CLASSES = ("a", "b", "c")
IMAGE_METHODS = (
    "full_fine_tuning",
    "linear_probing",
    "prompt_tuning",
    "attention_tuning",
    "adapter",
    "bitfit",
    "lora",
    "adalora",
    "mlp_transfer",
)
NEW_PARTS = {
    "linear_probing": ("head.",),
    "prompt_tuning": ("head.", "prompts"),
    "attention_tuning": ("head.", ".attn."),
    "adapter": ("head.", ".down.", ".up."),
    "bitfit": ("head.", "bias"),
    "lora": ("head.", "lora_"),
    "adalora": ("head.", "lora_A", "lora_B", "lora_E"),
    "mlp_transfer": ("side.",),
}


class ImageRows:
    """Images whose brightness tells the classes apart."""

    device_bytes = 0

    def __init__(self, num_rows, size=32):
        generator = torch.Generator().manual_seed(3)
        self.labels = np.arange(num_rows) % 3
        noise = torch.randint(0, 60, (num_rows, size, size, 3), generator=generator)
        self.images = (noise + 60 * torch.from_numpy(self.labels)[:, None, None, None]).to(torch.uint8)
        self.row_ids = np.arange(num_rows)

    def __len__(self):
        return len(self.row_ids)

    def take(self, row_ids, memory=None):
        at = torch.as_tensor(np.asarray(row_ids))
        return Batch(
            low_res=self.images[at],
            keys=None,
            values=None,
            labels=torch.as_tensor(self.labels[np.asarray(row_ids)]),
        )


def small(method, **training):
    options = {"epochs": 2, "batch_size": 4, "learning_rate": 2e-3, "precision": "float32"} | training
    return TrialConfig(
        method=method,
        backbone=trial_from({"backbone.name": SMALL, "backbone.weights": "random"}).backbone,
        features=FeaturesConfig(resolution=32),
        side=SideConfig(depth=2, num_prompts=3, reduction=4, resolution=32),
        petl=PetlConfig(num_prompts=4, bottleneck=8),
        training=TrainingConfig(**options),
    )


def assignment():
    options = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    return Assignment(device=torch.device("cpu"), target=ABC, num_train=12, **options)


def trained(trial, stop_after=None, resume=None):
    """(model, weights before, the last epoch)"""
    model = make_model(trial, 3)
    before = {name: value.clone() for name, value in model.named_parameters()}
    epoch = None
    for epoch in fit(model, ImageRows(12), ImageRows(6), trial, assignment(), resume):
        if epoch.number == stop_after:
            break
    return model, before, epoch


# --- what learns --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "count", "percent"),
    [  # by hand for ViT-B/16 at 512 px and 5 classes; the percentages are Table 1's but for the two that cannot be met
        ("full_fine_tuning", 86_438_405, "100.00"),
        ("linear_probing", 5 * 769, "0.00"),  # the paper: 0.01
        ("prompt_tuning", 12 * 16 * 768 + 5 * 769, "0.17"),
        ("attention_tuning", 12 * (4 * 768 * 768 + 4 * 768) + 5 * 769, "32.80"),  # the paper: 33.8
        ("adapter", 12 * 2 * (2 * 768 * 48 + 48 + 768) + 5 * 769, "2.03"),
        ("bitfit", 12 * 11 * 768 + 2 * 768 + 5 * 769, "0.12"),  # qkv 3, proj 1, fc1 4, fc2 1, norms 2; patch, last norm
        ("lora", 12 * 2 * 2 * 768 * 16 + 5 * 769, "0.68"),
        ("adalora", 12 * 2 * (2 * 768 * 12 + 12) + 5 * 769, "0.51"),  # the paper: 0.52
    ],
)
def test_learnable_parameters_are_the_methods_own(method, count, percent):
    trial = trial_from({"method": method})
    assert learnable_parameters(trial, 5) == count
    # AdaLoRA: peft counts one number a matrix, its rank, among the frozen ones
    assert f"{100 * param_ratio(trial, 5):.2f}" == percent


@pytest.mark.parametrize("method", IMAGE_METHODS)
def test_what_is_frozen_stays_and_what_learns_moves(method):
    model, before, _ = trained(small(method))
    learnable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if method != "full_fine_tuning":
        assert all(any(part in name for part in NEW_PARTS[method]) for name in learnable)
        assert len(learnable) < len(before)
    for name, parameter in model.named_parameters():
        same = torch.equal(parameter, before[name])
        assert same == (name not in learnable) or "lora_A" in name or "lora_E" in name or name.endswith("k.bias"), name


@pytest.mark.parametrize("method", ["adapter", "lora", "adalora"])
def test_before_training_the_vit_is_unchanged(method):
    trial = small(method)
    images = torch.randn(2, 3, 32, 32)
    plain, model = load_backbone(trial.backbone, 32), make_model(trial, 3).eval()
    vit = model.peft.base_model.model if method == "adalora" else getattr(model, "base_model", model)
    vit = getattr(vit, "model", vit)
    torch.testing.assert_close(vit.forward_features(images), plain.forward_features(images), atol=1e-5, rtol=1e-4)


def test_prompts_are_seen_and_dropped_in_every_layer():
    model = make_model(small("prompt_tuning"), 3)
    tokens = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, inputs, out: tokens.append((inputs[0].shape[1], out.shape[1])))
        block.block.attn.register_forward_hook(lambda _, inputs, out: tokens.append((inputs[0].shape[1],) * 2))
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert tokens == [(9, 9), (5, 5)] * 12
    assert all(block.prompts.grad.abs().sum() > 0 for block in model.blocks[:-1])


# --- AdaLoRA ------------------------------------------------------------------------------------------------------


def test_adaloras_ranks_change_and_end_at_its_budget():
    model, _, _ = trained(small("adalora", epochs=7))
    assert isinstance(model, AdaLora)
    ranks = model.ranks()
    assert len(ranks) == 24
    assert sum(ranks) <= 8 * len(ranks)  # two thirds of 12
    assert len(set(ranks)) > 1, "rank was not moved between matrices"


def test_without_allocation_all_ranks_stay(monkeypatch):
    monkeypatch.setattr(AdaLora, "allocate", lambda self, step: None)
    model, _, _ = trained(small("adalora", epochs=7))
    assert set(model.ranks()) == {12}


def test_adaloras_regulariser_is_by_hand_what_it_says():
    model = make_model(small("adalora"), 3)
    factors = [
        (name, value.detach()) for name, value in model.named_parameters() if "lora_A" in name or "lora_B" in name
    ]
    distances = []
    for name, factor in factors:
        gram = factor @ factor.T if "lora_A" in name else factor.T @ factor
        distances.append(float(((gram - torch.eye(12)) ** 2).sum().sqrt()))
    assert model.regulariser().item() == pytest.approx(0.5 * np.mean(distances), rel=1e-5)


# --- checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["linear_probing", "lora", "adalora"])
def test_resumed_equals_uninterrupted(method, tmp_path):
    trial = small(method, epochs=4)
    whole, _, _ = trained(trial)
    _, _, halfway = trained(trial, stop_after=2)
    save_checkpoint(Checkpoint(finished=(), current=(halfway.snapshot,)), tmp_path)
    resumed, _, _ = trained(trial, resume=load_checkpoint(tmp_path).current[0])
    for name, value in whole.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_checkpoint_holds_what_learns_and_fits_its_own_model_only():
    lora, probe = make_model(small("lora"), 3), make_model(small("linear_probing"), 3)
    state = learnable_state(lora)
    assert sum(value.numel() for value in state.values()) == count_parameters(lora, learnable=True)
    load_learnable_state(lora, state)
    with pytest.raises(RuntimeError, match="another model"):
        load_learnable_state(probe, state)


# --- nothing of the LPM is kept -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "preloaded"), [("linear_probing", True), ("fpt+", False), ("fpt", False), ("mlp_transfer", False)]
)
def test_nothing_inside_the_lpm_is_saved_or_gets_a_gradient(method, preloaded, monkeypatch):
    trial = small(method)
    trial = dataclasses.replace(trial, features=dataclasses.replace(trial.features, preloaded=preloaded))
    model = make_model(trial, 3).train()
    lpm, owner, name = (model, model, "forward_features") if preloaded else (model.lpm, model, "_features")
    within, saved = [False], []
    run_lpm = getattr(owner, name)

    def watched(images, **options):
        within[0] = True
        features = run_lpm(images, **options)
        within[0] = False
        return features

    def pack(tensor):
        saved.append(within[0])
        return tensor

    monkeypatch.setattr(owner, name, watched)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(torch.randn(2, 3, 32, 32)).sum()
    loss.backward()
    assert saved
    assert not any(saved)
    assert all(parameter.grad is None for block in lpm.blocks for parameter in block.parameters())


def test_online_reads_what_a_store_would_hold():
    """The same prompts on features extracted beforehand (backbone.extract) give the same logits."""
    from fpt_ray.models.importance import extract
    from fpt_ray.models.side_network import SideNetwork

    trial = small("fpt+")
    trial = dataclasses.replace(trial, features=FeaturesConfig(resolution=64, preloaded=False, token_ratio=0.5))
    model = make_model(trial, 3).eval()
    images = torch.rand(2, 3, 64, 64)
    found = extract(model.lpm, images, blocks=(10, 11), num_kept=8)
    low = torch.nn.functional.interpolate(images, (32, 32), mode="bicubic", antialias=True)
    assert isinstance(model.side, SideNetwork)
    assert torch.equal(model.side(low, found.keys, found.values), model(images))
