"""Networks of one shape as one network: each learns for itself, and every operation of a step is asked for once.

What that saves, and where it saves nothing, is measured in docs/decisions.md.
"""

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from typing_extensions import override

from fpt_ray.models.methods import learnable_state, load_learnable_state


class Together(nn.Module):
    """G networks of one shape, whose parameters and buffers are stacked: dimension G comes first in each.

    What each of them learns is a view of its part (``own``), so that an optimizer may move each in its own way.
    """

    def __init__(self, networks: Sequence[nn.Module], *, apart: bool = False) -> None:
        super().__init__()
        self.count, self.apart = len(networks), apart
        """``apart``: evaluated, too, each network has its own part of the batch, since it reads other features."""
        self.stacked = copy.deepcopy(networks[0])
        for kind in (nn.Module.parameters, nn.Module.buffers):
            for own, *each in zip(kind(self.stacked), *map(kind, networks), strict=True):
                own.data = torch.stack([one.detach() for one in each])
        self.learnt = [one for one in self.stacked.parameters() if one.requires_grad]
        self.own = [[nn.Parameter(one.data[at]) for one in self.learnt] for at in range(self.count)]
        """The learnable parameters of each network, in their order; they are none of the module's own."""

    @override
    def forward(self, *inputs: Tensor | None) -> Float[Tensor, "G B C"]:
        """Logits. In training each network has its own part of the batch, in order; otherwise each reads all of it.

        Images are counted along the first dimension of the first input, and along the second of the others.
        """
        tensors = {**dict(self.stacked.named_parameters()), **dict(self.stacked.named_buffers())}
        axes = [None if one is None else min(at, 1) for at, one in enumerate(inputs)]
        if self.training:
            parts = [
                one if one is None or axis is None else one.unflatten(axis, (self.count, -1))
                for one, axis in zip(inputs, axes, strict=True)
            ]
            return vmap(self._one, (0, *axes))(tensors, *parts)
        # One after the other: mapped, each would have a copy of what all of them read.
        each = [{name: tensor[at] for name, tensor in tensors.items()} for at in range(self.count)]
        return torch.stack([self._one(own, *self._read(inputs, at)) for at, own in enumerate(each)])

    def _read(self, inputs: Sequence[Tensor | None], at: int) -> list[Tensor | None]:
        """What a network reads when it is evaluated."""
        if not self.apart:
            return list(inputs)
        return [None if one is None else one.chunk(self.count, min(axis, 1))[at] for axis, one in enumerate(inputs)]

    def _one(self, tensors: dict[str, Tensor], *inputs: Tensor | None) -> Float[Tensor, "B C"]:
        return functional_call(self.stacked, tensors, inputs)

    @override
    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for one in itertools.chain(*self.own):
            one.grad = None

    def share_gradients(self) -> None:
        """Gives each network its part of the gradients."""
        for at, own in enumerate(self.own):
            for one, stacked in zip(own, self.learnt, strict=True):
                one.grad = None if stacked.grad is None else stacked.grad[at]

    @torch.no_grad()
    def lose(self, at: int) -> None:
        """Makes a network's parameters no numbers, so that it stays lost, whatever it computes from then on."""
        for one in self.own[at]:
            one.fill_(torch.nan)


def networks_in(model: nn.Module) -> int:
    """How many networks learn in a model."""
    return model.count if isinstance(model, Together) else 1


def learnable_states(model: nn.Module) -> list[dict[str, Any]]:
    """What training changes, of every network in a model: as it lies there, of several a copy."""
    if not isinstance(model, Together):
        return [learnable_state(model)]
    state = learnable_state(model.stacked)
    return [{name: value[at].clone() for name, value in state.items()} for at in range(model.count)]


def load_learnable_states(model: nn.Module, states: Sequence[dict[str, Any]]) -> None:
    """Puts ``learnable_states`` back.

    Raises:
        RuntimeError: they are of another model; the message names what differs.
    """
    if not isinstance(model, Together):
        (state,) = states
        return load_learnable_state(model, state)
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    return load_learnable_state(model.stacked, stacked)
