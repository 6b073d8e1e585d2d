"""Memory that batches are converted into, step after step: on a CPU, fresh memory costs ten times the conversion."""

import torch
from torch import Tensor


class KeptBuffers:
    """Features in the type that a network computes in. What it gave for a name stands until that name is next asked."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def converted(self, name: str, tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The tensor on a device in a type; on a CPU in the memory that is kept under the name."""
        if device.type != "cpu" or tensor.dtype == dtype:
            return tensor.to(device, non_blocking=True).to(dtype)
        kept = self._kept.get(name)
        if kept is None or kept.dtype != dtype or kept.numel() < tensor.numel():
            kept = self._kept[name] = torch.empty(tensor.numel(), dtype=dtype)
        return kept[: tensor.numel()].view(tensor.shape).copy_(tensor)
