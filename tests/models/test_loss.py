"""Each task's loss against its definition written out, image by image; what outputs say against the chain rule."""

import math

import numpy as np
import pytest
import torch

from fpt_ray.config.tasks import Target
from fpt_ray.config.training import LossConfig
from fpt_ray.models.loss import Loss, log_probabilities, make_loss, says

NAN = math.nan
LOGITS = torch.tensor([[0.3, -1.2, 0.5], [2.0, 0.1, -0.4], [-0.7, 0.9, 1.1], [0.0, 0.2, -3.0]], dtype=torch.float64)
MANY = torch.tensor([[1, 0, NAN], [0, NAN, 1], [1, 1, 0], [NAN, NAN, NAN]], dtype=torch.float32)
BALANCED = LossConfig(weights="balanced")


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def grades(logits):
    """The probabilities of four grades from three steps: who is not below a grade passes it, or stays."""
    found, reached = [], 1.0
    for one in logits:
        found.append(reached * (1 - sigmoid(one)))
        reached *= sigmoid(one)
    return [*found, reached]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("task", ["binary", "multiclass", "ordinal"])
def test_the_loss_of_a_class_is_the_cross_entropy_of_its_probability(task, gamma):
    labels, logits = ([0, 1, 1, 0], LOGITS[:, :2]) if task == "binary" else ([0, 2, 1, 2], LOGITS)
    weights = torch.tensor([0.5, 2.0, 3.0, 1.0])[: logits.shape[1] + (task == "ordinal")]
    found = Loss(task=task, weights=weights, focal_gamma=gamma)(logits, torch.tensor(labels))
    for row, label, loss in zip(logits.tolist(), labels, found.tolist(), strict=True):
        chances = grades(row) if task == "ordinal" else [math.exp(one) / sum(map(math.exp, row)) for one in row]
        expected = -float(weights[label]) * (1 - chances[label]) ** gamma * math.log(chances[label])
        assert loss == pytest.approx(expected, rel=1e-6)


def test_what_is_lost_on_classes_is_what_pytorch_loses_bit_for_bit():
    logits, labels, weights = LOGITS.float(), torch.tensor([0, 2, 1, 2]), torch.tensor([0.5, 2.0, 3.0])
    theirs = torch.nn.functional.cross_entropy(logits, labels, weights, reduction="none")
    assert torch.equal(Loss(weights=weights)(logits, labels), theirs)


def test_grades_never_contradict_each_other():
    """Whatever a linear head says: the probability of being above a grade falls from grade to grade."""
    logits = 5 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    found = log_probabilities("ordinal", logits).exp()
    assert found.shape == (200, 5)
    assert found.sum(dim=1).numpy() == pytest.approx(1, abs=1e-5)
    above = 1 - found.double().cumsum(dim=1)
    assert (above.diff(dim=1) <= 0).all()
    assert found[0].numpy() == pytest.approx(grades(logits[0].tolist()), rel=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_missing_label_adds_nothing_to_the_mean_over_labels(weighted, gamma):
    weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]) if weighted else None
    logits = LOGITS.clone().requires_grad_()
    found = Loss(task="multilabel", weights=weights, focal_gamma=gamma)(logits, MANY)
    for number, (row, labels) in enumerate(zip(LOGITS.tolist(), MANY.tolist(), strict=True)):
        losses = []
        for at, (one, label) in enumerate(zip(row, labels, strict=True)):
            if not math.isnan(label):
                chance = sigmoid(one) if label else 1 - sigmoid(one)
                weight = 1.0 if weights is None else float(weights[int(label), at])
                losses.append(-weight * (1 - chance) ** gamma * math.log(chance))
        assert float(found[number].detach()) == pytest.approx(sum(losses) / 3, rel=1e-6)
    found.sum().backward()
    assert (logits.grad != 0).tolist() == (~MANY.isnan()).tolist()


def test_values_are_learnt_in_the_unit_of_the_training_split():
    values = np.array([10.0, 14.0, 12.0, 20.0])
    loss = make_loss(Target(task="regression", classes=("age",)), LossConfig(), values)
    assert (loss.mean, loss.deviation) == (14.0, pytest.approx(values.std()))
    found = loss(LOGITS[:, :1], torch.as_tensor(values))
    expected = (LOGITS[:, 0].numpy() - (values - 14.0) / values.std()) ** 2
    assert found.numpy() == pytest.approx(expected)


def test_balanced_weights_are_inverse_frequencies():
    """Of classes 1 on average over the images; of a label, over those with and without it that are known."""
    labels = np.array([0] * 12 + [1] * 4 + [2] * 2)
    weights = make_loss(Target(task="multiclass", classes=("a", "b", "c")), BALANCED, labels).weights
    torch.testing.assert_close(weights, torch.tensor([18 / 36, 18 / 12, 18 / 6]))
    assert torch.isclose(weights[torch.as_tensor(labels)].mean(), torch.tensor(1.0))
    three = make_loss(Target(task="multilabel", classes=("a", "b", "c")), BALANCED, MANY.numpy()).weights
    torch.testing.assert_close(three, torch.tensor([[3 / 2, 2 / 2, 2 / 2], [3 / 4, 2 / 2, 2 / 2]]))


def test_labels_are_told_apart_and_classes_share_one():
    model = torch.nn.Identity()
    assert torch.equal(says("multilabel", LOGITS, model), LOGITS.sigmoid())
    assert says("multiclass", LOGITS, model).sum(dim=1).numpy() == pytest.approx(1)
