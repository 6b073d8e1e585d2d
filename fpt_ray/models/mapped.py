"""A model taken apart: what is small, and its weights as arrays, which the processes of a host can share."""

import copy
import warnings
from typing import Any

import numpy as np
import torch


def take_apart(model: torch.nn.Module) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    """A model without weights, and the bytes of its parameters and buffers by their names."""
    tensors = _tensors(model)
    bare = {id(tensor): _like(tensor, tensor.detach().to("meta")) for tensor in tensors.values()}
    arrays = {name: tensor.detach().cpu().contiguous().flatten().view(torch.uint8) for name, tensor in tensors.items()}
    return copy.deepcopy(model, bare), {name: array.numpy() for name, array in arrays.items()}


def put_together(bare: torch.nn.Module, arrays: dict[str, np.ndarray]) -> torch.nn.Module:
    """The model whose weights lie where these arrays do, which may be memory that cannot be written to."""
    for name, tensor in _tensors(bare).items():
        owner, _, own = name.rpartition(".")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            found = torch.from_numpy(arrays[name])
        setattr(bare.get_submodule(owner), own, _like(tensor, found.view(tensor.dtype).view(tensor.shape)))
    return bare


def _tensors(model: torch.nn.Module) -> dict[str, Any]:
    """Parameters and buffers by their names; one with several names stands under each."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _like(tensor: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """A parameter where the tensor is one, a buffer where it is not."""
    return torch.nn.Parameter(found, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else found
