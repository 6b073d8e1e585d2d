"""fpt_ray.models.step against the same steps written out by hand, on a network of one layer."""

import copy

import pytest
import torch
from torch import nn

from fpt_ray.config.trial import TrainingConfig
from fpt_ray.models.loss import Loss
from fpt_ray.models.step import loss_then_gradients, make_learner, take_step

TRAINING = TrainingConfig(learning_rate=0.3, weight_decay=0.2, clip_norm=0.01, precision="float32")
STEPS = 4


def network():
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    model.bias.requires_grad_(False)
    return model


def batches():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(6, 5, generator=generator), torch.arange(6) * (1 + step) % 3) for step in range(STEPS)]


@pytest.mark.parametrize("of_images", [None, torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0, 1.0])])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.2, 1.0, 1.8])])
def test_steps_equal_those_by_hand(weights, of_images):
    ours = network()
    theirs = copy.deepcopy(ours)
    learner = make_learner(ours, [TRAINING], STEPS, torch.float32, Loss(weights=weights))
    optimizer = torch.optim.AdamW([theirs.weight], 0.3, weight_decay=0.2)
    for step, (images, labels) in enumerate(batches()):
        loss = take_step(learner, step + 1, lambda images=images: (images,), lambda _, labels=labels: labels, of_images)
        optimizer.param_groups[0]["lr"] = 0.15 * (1 + torch.cos(torch.tensor(torch.pi * step / STEPS)).item())
        chances = theirs(images).softmax(dim=-1)[torch.arange(6), labels]
        losses = -(1 if weights is None else weights[labels]) * chances.log()
        expected = (losses if of_images is None else of_images * losses).sum() / 6
        theirs.weight.grad = None
        expected.backward()
        theirs.weight.grad *= min(1.0, 0.01 / theirs.weight.grad.norm().item())
        optimizer.step()
        torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_gradients_live_until_the_loss_is_known():
    (images, labels), (other, _), *_ = batches()
    learner = make_learner(network(), [TRAINING], STEPS, torch.float32)
    list(loss_then_gradients(learner, lambda: (images,), lambda _: labels))
    gradient = learner.model.weight.grad
    step = loss_then_gradients(learner, lambda: (other,), lambda _: labels)
    next(step)
    assert learner.model.weight.grad is gradient
    assert next(step, None) is None
    assert learner.model.weight.grad is not gradient
