"""One training step. The loop takes it, the measurement and the benchmark repeat it, the trace follows it.

Section 4.2.1: AdamW, cosine to 0 per step, cross-entropy where classes are told apart.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fpt_ray.config.trial import TrainingConfig
from fpt_ray.models.backbone import uses_bfloat16
from fpt_ray.models.hardware import hardware_of
from fpt_ray.models.loss import Loss
from fpt_ray.models.methods import AdaLora
from fpt_ray.models.together import Together

Inputs = tuple[Tensor | None, ...]
"""A batch as the network takes it."""
MakeLabels = Callable[[Tensor], Tensor]
"""The labels of a batch, on the device of its logits, which are given; as ``Loss`` takes them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Learner:
    """A network with all that moves it, or G networks ``Together``; it stays the same from step to step.

    The optimizer has a group of parameters for each network.
    """

    model: nn.Module
    """On its device, perhaps wrapped for data-parallel training."""
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    arithmetic: torch.dtype
    """Of the forward pass; another type than float32 means autocast."""
    clip_norm: float
    loss: Loss = field(default_factory=Loss)
    adalora: AdaLora | None = None
    """The network itself, if it is AdaLoRA's: the steps add its regulariser and allocate its ranks."""
    lost: dict[int, str] = field(default_factory=dict)
    """{network: why}: those of several that learn no more."""


def make_learner(
    model: nn.Module,
    trainings: Sequence[TrainingConfig],
    total_steps: int,
    arithmetic: torch.dtype,
    loss: Loss | None = None,
) -> Learner:
    """What trains a network, or each of several, in its own way over so many steps, before the first of them."""
    bare = unwrapped(model)
    own = bare.own if isinstance(bare, Together) else [[one for one in model.parameters() if one.requires_grad]]
    groups = [
        {"params": learnable, "lr": training.learning_rate, "weight_decay": training.weight_decay}
        for learnable, training in zip(own, trainings, strict=True)
    ]
    fused = own[0][0].device.type == "cpu" or None  # on GPUs PyTorch's default, whose memory is predicted
    optimizer = torch.optim.AdamW(groups, fused=fused)
    adalora = bare if isinstance(bare, AdaLora) else None
    if adalora is not None:
        adalora.plan(total_steps)
    return Learner(
        model=model,
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total_steps),
        arithmetic=arithmetic,
        clip_norm=trainings[0].clip_norm,
        loss=loss or Loss(),
        adalora=adalora,
    )


def learns(model: nn.Module) -> bool:
    """Whether a network has anything that steps move."""
    return any(parameter.requires_grad for parameter in model.parameters())


def unwrapped(model: nn.Module) -> nn.Module:
    """The network without what wraps it for data-parallel training."""
    return getattr(model, "module", model)


def arithmetic_type(training: TrainingConfig, device: torch.device) -> torch.dtype:
    """The type that a network computes in on a device."""
    return torch.bfloat16 if uses_bfloat16(training.precision, hardware_of(device)) else torch.float32


def autocast(device: torch.device, arithmetic: torch.dtype) -> torch.autocast:
    """Autocast to a type on a device; none if the type is float32."""
    return torch.autocast(device.type, arithmetic, enabled=arithmetic != torch.float32)


def take_step(
    learner: Learner,
    number: int,
    make_inputs: Callable[[], Inputs],
    make_labels: MakeLabels,
    weights: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, "*G"]:
    """One whole step; returns the loss that it began with, of each network. Steps count from 1."""
    (loss,) = loss_then_gradients(learner, make_inputs, make_labels, weights)
    update(learner, number)
    return loss.detach()


def loss_then_gradients(
    learner: Learner,
    make_inputs: Callable[[], Inputs],
    make_labels: MakeLabels,
    weights: Float[Tensor, " N"] | None = None,
) -> Iterator[Float[Tensor, "*G"]]:
    """The first half of a step: yields the loss, once, and goes backward when it is asked for more.

    Gradients of the step before live until the backward pass begins. ``weights`` are of the images, and multiply what
    each of them loses.
    """
    device = next(learner.model.parameters()).device
    with autocast(device, learner.arithmetic):
        logits = learner.model(*make_inputs())  # nothing names the inputs: they end with the forward pass
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = learner.loss(logits.flatten(0, -2), make_labels(logits))
    if weights is not None:
        losses = losses * weights.to(losses)
    # PyTorch's own reduction would divide by the sum of the images' weights.
    loss = losses.view(logits.shape[:-1]).mean(dim=-1)
    yield loss
    learner.model.zero_grad(set_to_none=True)
    whole = loss if learner.adalora is None else loss + learner.adalora.regulariser()
    whole.backward(torch.ones_like(whole))  # what one network learns does not depend on another's loss


def update(learner: Learner, number: int) -> None:
    """The second half of a step: moves what is learnt along its gradients. Steps count from 1."""
    if isinstance(learner.model, Together):
        learner.model.share_gradients()
    for group in learner.optimizer.param_groups:
        nn.utils.clip_grad_norm_(group["params"], learner.clip_norm)
    learner.optimizer.step()
    learner.schedule.step()
    if learner.adalora is not None:
        learner.adalora.allocate(number)
