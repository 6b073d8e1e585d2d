"""What a task makes of a network's outputs: the loss of each image, and what the outputs say.

Classes are told apart by a softmax, labels by a sigmoid each, values by a number that is standardised by the training
split. Grades have an output for each step from one to the next: the logit of being above a grade for who is not below
it (CORN: Shi, Cao and Raschka, arXiv 2111.08851). Their products never contradict each other, whatever a plain linear
head says, and the loss is the cross-entropy of the grades that follow from them.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fpt_ray.config.tasks import Target, Task
from fpt_ray.config.training import LossConfig
from fpt_ray.config.trial import TrialConfig
from fpt_ray.models.methods import UNIT, make_model
from fpt_ray.models.together import Together


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Loss:
    """The loss of each image, by its labels."""

    task: Task = "multiclass"
    weights: Float[Tensor, "..."] | None = None
    """Of the classes; of labels, two rows: of the images without each, and of those with it."""
    focal_gamma: float = 0.0
    """Images whose label is told with probability p count (1 - p) to this power (Lin et al., arXiv 1708.02002)."""
    mean: float = 0.0
    """Of the values of the training split."""
    deviation: float = 1.0
    """Of the same; predictions are learnt in this unit."""

    def __call__(self, logits: Float[Tensor, "N F"], labels: Tensor) -> Float[Tensor, " N"]:
        """The cross-entropy of a class or grade; its mean over labels; or the squared error of a value in their unit.

        A label that is missing adds nothing.
        """
        if self.task == "regression":
            return (logits[:, 0] - ((labels - self.mean) / self.deviation).to(logits.dtype)).square()
        weights = None if self.weights is None else self.weights.to(logits)
        if self.task == "multilabel":
            return self._of_labels(logits, labels, weights)
        found = log_probabilities(self.task, logits)
        losses = F.nll_loss(found, labels, weights, reduction="none")
        return losses if self.focal_gamma == 0 else losses * self._focus(found.gather(1, labels[:, None])[:, 0])

    def _of_labels(
        self, logits: Float[Tensor, "N L"], labels: Float[Tensor, "N L"], weights: Float[Tensor, "2 L"] | None
    ) -> Float[Tensor, " N"]:
        having = labels == 1
        told = F.logsigmoid(torch.where(having, logits, -logits))
        losses = -told if weights is None else -told * torch.where(having, weights[1], weights[0])
        losses = losses if self.focal_gamma == 0 else losses * self._focus(told)
        return torch.where(labels.isnan(), 0.0, losses).mean(dim=-1)

    def _focus(self, told: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """By logarithms of the probabilities of what is true; never 0, where some powers have no gradient."""
        return (-torch.expm1(told)).clamp_min(torch.finfo(told.dtype).eps) ** self.focal_gamma


def log_probabilities(task: Task, logits: Float[Tensor, "*N F"]) -> Float[Tensor, "*N C"]:
    """Logarithms of the probabilities of classes or grades; of grades there is one more than outputs."""
    if task != "ordinal":
        return logits.log_softmax(-1)
    passed = F.pad(F.logsigmoid(logits).cumsum(-1), (1, 0))  # of being above all grades below this one
    return passed + F.pad(F.logsigmoid(-logits), (0, 1))


def says(task: Task, logits: Float[Tensor, "*N F"], model: nn.Module) -> Float[Tensor, "*N C"]:
    """What a network's outputs say: probabilities of classes, grades or labels, or values in the target's unit."""
    if task == "multilabel":
        return logits.sigmoid()
    if task == "ordinal":
        return log_probabilities(task, logits).exp()
    if task != "regression":
        return logits.softmax(-1)
    mean, deviation = _unit(model).to(logits).unsqueeze(-2).chunk(2, dim=-1)
    return logits * deviation + mean


# --- the unit of values -------------------------------------------------------------------------------------------


def network_for(trial: TrialConfig, target: Target) -> nn.Module:
    """The trial's network for what is to be learnt.

    Where that is a value, it keeps the value's unit with what is learnt: the mean and the standard deviation.

    Raises:
        ConfigError: as ``make_model``.
    """
    model = make_model(trial, target.num_outputs)
    if target.task == "regression":
        model.register_buffer(UNIT, torch.tensor([0.0, 1.0], dtype=torch.float64))
    return model


def keep_unit(model: nn.Module, loss: Loss) -> None:
    """Keeps the unit that a loss is in beside what is learnt, in each network of a model."""
    if loss.task == "regression":
        _unit(model).copy_(torch.tensor([loss.mean, loss.deviation], dtype=torch.float64))


def _unit(model: nn.Module) -> Float[Tensor, "*G 2"]:
    return getattr(model.stacked if isinstance(model, Together) else model, UNIT)


# --- the loss that a training split gives -------------------------------------------------------------------------


def make_loss(target: Target, asked: LossConfig, labels: np.ndarray, device: torch.device | None = None) -> Loss:
    """The loss of a target on a training split with these labels; what it weighs by is on the device.

    Weights are inverse frequencies: of classes, 1 on average over the images; of each label, over those with and
    those without it.
    """
    if target.task == "regression":
        return Loss(task=target.task, mean=float(labels.mean()), deviation=float(labels.std()) or 1.0)
    loss = Loss(task=target.task, focal_gamma=asked.focal_gamma)
    if asked.weights == "none":
        return loss
    if target.task == "multilabel":
        known, having = (~np.isnan(labels)).sum(axis=0), np.nansum(labels, axis=0)
        counts = torch.from_numpy(np.stack([known - having, having])).clamp_min(1)
        return replace(loss, weights=(counts.sum(dim=0) / (2 * counts)).float().to(device))
    counts = torch.bincount(torch.as_tensor(labels), minlength=len(target.classes)).clamp_min(1)
    return replace(loss, weights=(counts.sum() / (len(target.classes) * counts.float())).to(device))
