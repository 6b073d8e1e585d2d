"""The attention of a forward pass, overheard where it is computed, so that it is what the values were multiplied by."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from fpt_ray.models.probe import Probe
from fpt_ray.models.side_block import SideAttention
from fpt_ray.models.side_network import FusionModule, SideNetwork
from fpt_ray.models.stored_attention import StoredAttention


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AttentionMaps:
    """What a network paid attention to. Whoever asks spreads 1 over what is asked, in each head."""

    of_prompts: tuple[Float[Tensor, "B H P T"], ...]
    """Of each layer: its fine-grained prompts, or the probe's queries, on the LPM's important tokens (Eq. 8)."""
    of_side_tokens: tuple[Float[Tensor, "B H _ Q"], ...]
    """Of each layer: the first tokens of the side network on all Q of its tokens, the prompts last. Of
    the last layer the class token alone asks. A probe has none."""


@torch.no_grad()
def with_attention_maps(
    model: nn.Module, inputs: Sequence[Tensor | None]
) -> tuple[Float[Tensor, "B F"], AttentionMaps]:
    """A network's outputs, and the attention that led to them.

    Attention is computed as plain products of whole layers, on any device, since a fused kernel does not give its maps
    away, and pieces of one are none.

    Args:
        model: a side network that has prompts, or a probe.
        inputs: as the network takes them.
    """
    model, overheard = copy.deepcopy(model), _Softmaxes()  # the model itself goes on as it is
    layers = [one for one in model.modules() if isinstance(one, SideAttention)]
    for layer in layers:
        layer.in_one_kernel = False
    for one in model.modules():
        if isinstance(one, StoredAttention):
            one.halves = True
    with overheard:
        outputs = model(*inputs)
    found = tuple(one.float() for one in overheard.found)
    if isinstance(model, Probe):
        return outputs, AttentionMaps(of_prompts=found, of_side_tokens=())
    assert isinstance(model, SideNetwork)
    assert isinstance(model.fusion, FusionModule)
    assert len(found) == 2 * len(layers)
    return outputs, AttentionMaps(of_prompts=found[::2], of_side_tokens=found[1::2])


class _Softmaxes(TorchFunctionMode):
    """Keeps what every softmax gives, in the order of the forward pass, with what is asked as the last dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.softmax:
            self.found.append(result if kwargs["dim"] == -1 else result.mT)
        return result
