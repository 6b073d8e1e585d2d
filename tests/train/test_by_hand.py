"""Training is compared with the same loop written out by hand in plain tensors and float64: of the network it takes
the gradients alone. Weighted cross-entropy, the clipping of the global norm, AdamW, the cosine to 0."""

import math

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from fpt_ray.config.training import LossConfig
from fpt_ray.config.trial import BackboneConfig, FeaturesConfig, SideConfig, TrainingConfig, TrialConfig
from fpt_ray.features.rows import Batch
from fpt_ray.models.methods import AdaLora, make_model
from fpt_ray.models.side_network import dropout_masks
from fpt_ray.train.evaluation import Assignment
from fpt_ray.train.loop import fit
from fpt_ray.train.order import epoch_order
from tests.conftest import ABC, SMALL

EPOCHS, BATCH, LABELS = 2, 6, np.repeat([0, 1, 2], [16, 4, 4])
CLASS_WEIGHTS = (0.5, 2.0, 2.0)  # 24 images / (3 classes * images of the class)
CLIP_NORM = {"fpt+": 2.5, "fpt": 2.5, "lora": 10.0, "adalora": 5.0, "linear_probing": 4.0, "probe": 1.0}
CLIP_NORM |= {"layer_fusion": 1.0, "stored_linear_probe": 4.0}
"""Between the smallest and the largest norm of the gradient in these steps."""


class DoubleRows:
    """Rows in float64 whose images and features tell little of their class, in the layout of a side network."""

    device_bytes = 0

    def __init__(self, labels, seed):
        generator = torch.Generator().manual_seed(seed)
        self.labels, self.row_ids = labels, np.arange(len(labels))
        self.low_res = torch.randint(0, 256, (len(labels), 32, 32, 3), generator=generator).to(torch.uint8)
        self.keys, self.values = torch.randn(2, 2, len(labels), 3, 5, 64, generator=generator).unbind(0)
        self.summaries = torch.randn(len(labels), 12, 2, 192, generator=generator)

    def __len__(self):
        return len(self.row_ids)

    def take(self, row_ids, memory=None):
        at = torch.as_tensor(np.asarray(row_ids))
        labels = torch.as_tensor(self.labels)[at]
        kinds = {"keys": self.keys[:, at], "values": self.values[:, at], "summaries": self.summaries[at]}
        return Batch(low_res=self.low_res[at], labels=labels, **kinds)


def trial_of(method, clip_norm=None):
    return TrialConfig(
        method=method,
        backbone=BackboneConfig(name=SMALL, weights="random"),
        features=FeaturesConfig(resolution=32),
        side=SideConfig(depth=2, num_prompts=3, reduction=4, resolution=32),
        training=TrainingConfig(
            epochs=EPOCHS,
            batch_size=BATCH,
            learning_rate=0.02,
            weight_decay=0.3,
            clip_norm=clip_norm or CLIP_NORM[method],
            augment=False,
            precision="float32",
            seed=3,
        ),
        loss=LossConfig(weights="balanced"),
    )


def double(trial):
    """The trial's network in float64; what the loop hands to it becomes float64, too."""
    model = make_model(trial, 3).double()
    model.register_forward_pre_hook(
        lambda _, inputs: tuple(None if value is None else value.double() for value in inputs)
    )
    return model


def learnt(model):
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def inputs_of(trial, rows, at, epoch):
    images = (rows.low_res[at].permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    if trial.method in ("layer_fusion", "stored_linear_probe"):
        return (rows.summaries[at],)
    if trial.method in ("fpt+", "fpt", "probe"):
        return images, rows.keys[:, at], rows.values[:, at], dropout_masks(trial, at, epoch)
    return (images,)


def regulariser(trial, weights):
    """AdaLoRA's: half the mean distance of its outer factors from orthogonal ones."""
    if trial.method != "adalora":
        return 0.0
    wide = [value for name, value in weights.items() if "lora_A" in name]
    wide += [value.T for name, value in weights.items() if "lora_B" in name]
    distances = [((factor @ factor.T - torch.eye(12)) ** 2).sum().sqrt() for factor in wide]
    return sum(distances) / len(distances) / 2


def by_hand(trial, model, rows):
    """Weights after each step, and the norm of the gradient that each step began with."""
    training, weights = trial.training, learnt(model)
    first = {name: torch.zeros_like(value) for name, value in weights.items()}
    second = {name: torch.zeros_like(value) for name, value in weights.items()}
    orders = [(epoch, at) for epoch in range(1, EPOCHS + 1) for at in epoch_order(24, BATCH, (3, epoch))]
    after, norms = [], []
    for step, (epoch, at) in enumerate(orders):
        labels = torch.as_tensor(rows.labels[at])
        logits = model(*inputs_of(trial, rows, at, epoch))
        losses = logits.exp().sum(dim=1).log() - logits[torch.arange(BATCH), labels]
        loss = sum(CLASS_WEIGHTS[label] * one for label, one in zip(labels, losses, strict=True)) / BATCH
        loss = loss + regulariser(trial, weights)
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
        shrink = training.clip_norm / (norm + 1e-6) if norm + 1e-6 > training.clip_norm else 1.0  # PyTorch's epsilon
        rate = training.learning_rate * (1 + math.cos(math.pi * step / len(orders))) / 2
        with torch.no_grad():
            for name, value in weights.items():
                gradient = gradients[name] * shrink
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
                value.copy_(value * (1 - rate * training.weight_decay) - rate * mean / (square.sqrt() + 1e-8))
        after.append({name: value.detach().clone() for name, value in weights.items()})
        norms.append(norm)
    return after, norms


def by_the_loop(trial, model, rows):
    """Weights after each step of ``fit``."""
    after = []
    assignment = Assignment(device=torch.device("cpu"), target=ABC, mean=(0.5,) * 3, std=(0.5,) * 3, num_train=24)
    hook = register_optimizer_step_post_hook(
        lambda *_: after.append({name: value.detach().clone() for name, value in learnt(model).items()})
    )
    try:
        list(fit(model, rows, DoubleRows(np.arange(6) % 3, 2), trial, assignment))
    finally:
        hook.remove()
    return after


@pytest.mark.parametrize("method", list(CLIP_NORM))
def test_the_weights_after_each_step_are_those_of_the_loop_by_hand(method, monkeypatch):
    monkeypatch.setattr(AdaLora, "allocate", lambda self, step: None)  # peft's own, which this cannot repeat
    trial, rows = trial_of(method), DoubleRows(LABELS, 1)
    found = by_the_loop(trial, double(trial), rows)
    expected, norms = by_hand(trial, double(trial).train(), rows)
    assert len(found) == len(expected) == 8
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True), start=1):
        for name, value in theirs.items():
            difference = float((ours[name] - value).abs().max())
            assert difference < 1e-9, f"{name} differs by {difference} after step {step}"
    assert min(norms) < trial.training.clip_norm < max(norms), "the clipping must bite in some steps, not in all"
