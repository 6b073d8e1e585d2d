"""Checkpoints as people publish them, down to the weights of the backbone in them.

MAE and RETFound keep the model under ``model``, beside a decoder; DINO and iBOT a ``teacher`` whose backbone has a
prefix; trainers put ``module.`` before every name.
"""

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

_HOLDERS = ("teacher", "state_dict_ema", "model_ema", "state_dict", "model")
"""Keys under which a checkpoint has its weights, the first that is there."""
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.")
"""Before the names of the backbone; what has none of them, where others have, is no part of it."""
_OF_PRETRAINING = ("decoder_", "mask_token", "head.", "head_dist.", "fc_norm.", "dino_head.", "ibot_head.")
"""Names of what was pre-trained beside the backbone, or classifies what the LPM's own classes are."""


def read_checkpoint(path: Path) -> Any:
    """What a .safetensors or PyTorch file holds, no code of it run.

    Raises:
        Exception: whatever a broken or hostile file makes the readers raise.
    """
    if path.suffix == ".safetensors":
        return load_file(path)
    with torch.serialization.safe_globals([argparse.Namespace]):  # options that trainers keep beside the weights
        return torch.load(path, map_location="cpu", weights_only=True)


def backbone_state(checkpoint: Any) -> tuple[dict[str, Tensor], list[str]]:
    """(weights of the backbone by their names, names that were dropped) of a checkpoint.

    Raises:
        ValueError: it holds no weights.
    """
    dropped: list[str] = []
    while isinstance(checkpoint, Mapping) and (holder := _holder(checkpoint)):
        dropped += [str(name) for name in checkpoint if name != holder]
        checkpoint = checkpoint[holder]
    if not isinstance(checkpoint, Mapping) or not any(isinstance(value, Tensor) for value in checkpoint.values()):
        raise ValueError("it holds no weights by name")
    state = {str(name): value for name, value in checkpoint.items()}
    while prefix := next((one for one in _PREFIXES if any(name.startswith(one) for name in state)), None):
        dropped += [name for name in state if not name.startswith(prefix)]
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    beside = [name for name in state if name.startswith(_OF_PRETRAINING) or not isinstance(state[name], Tensor)]
    return {name: state[name] for name in state if name not in beside}, dropped + beside


def _holder(checkpoint: Mapping[Any, Any]) -> str | None:
    return next((name for name in _HOLDERS if isinstance(checkpoint.get(name), Mapping)), None)


def dropped_text(names: list[str]) -> str:
    """The names, those of one module together."""
    counts = Counter(name.partition(".")[0] for name in names)
    return ", ".join(name if count == 1 else f"{name}.* ({count})" for name, count in counts.items())
