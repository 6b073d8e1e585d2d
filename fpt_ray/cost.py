"""What a configuration costs, without running it: learnable parameters, and the peak memory of its training on a GPU.

A prediction takes about a second on any machine. ``trace.py`` says how memory is predicted and what is left out.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Literal

import timm
import torch
from torch import Tensor, nn

from fpt_ray.backbone import BackboneShape, backbone_shape, check_resolution, kept_tokens
from fpt_ray.config import TrainingConfig, TrialConfig
from fpt_ray.images import normalise
from fpt_ray.side_network import SideNetwork, side_width
from fpt_ray.trace import Execution, Memory, trace_training

Arithmetic = Literal["bfloat16", "float32"]


def count_parameters(module: nn.Module) -> int:
    """Parameters of a module, learnable or not."""
    return sum(parameter.numel() for parameter in module.parameters())


@lru_cache(maxsize=32)
def published_parameters(name: str) -> int:
    """Parameters of a timm model with the head it was published with."""
    with torch.device("meta"):
        return count_parameters(timm.create_model(name))


def learnable_parameters(trial: TrialConfig, shape: BackboneShape, num_classes: int) -> int:
    """Parameters of the trial's side network, prompts and fusion modules; nothing else learns."""
    with torch.device("meta"):
        return count_parameters(SideNetwork(trial, shape, num_classes))


def param_ratio(trial: TrialConfig, num_classes: int) -> float:
    """r of Eq. 9, in 0..1: learnable over learnable and frozen, the LPM counted with its published head (Table 1)."""
    learnable = learnable_parameters(trial, backbone_shape(trial.backbone.name), num_classes)
    return learnable / (learnable + published_parameters(trial.backbone.name))


def training_memory(trial: TrialConfig, num_classes: int, *, precision: Arithmetic) -> Memory:
    """Peak memory of training the trial's side network on preloaded features, as ``loop.fit`` does in one worker."""
    return side_network_memory(trial, num_classes, Execution(precision=precision))


def fine_tuning_memory(trial: TrialConfig, num_classes: int, *, precision: Arithmetic) -> Memory:
    """Peak memory of full fine-tuning of the trial's backbone: same high resolution, batch size and precision."""
    batch_size, execution = trial.training.batch_size, Execution(precision=precision)
    return full_fine_tuning_memory(trial.backbone.name, trial.features.resolution, batch_size, num_classes, execution)


def memory_ratio(trial: TrialConfig, num_classes: int, precision: Arithmetic) -> float:
    """m of Eq. 10, in 0..1, relative to full fine-tuning on *this* system: fused attention, the trial's precision.

    The paper's m is relative to 23,128 MB, which is float16 autocast without fused attention.
    """
    training = training_memory(trial, num_classes, precision=precision)
    return training.process_bytes / fine_tuning_memory(trial, num_classes, precision=precision).process_bytes


def side_network_memory(trial: TrialConfig, num_classes: int, execution: Execution) -> Memory:
    """``training_memory`` however it is executed. Trials that differ in nothing but learning are predicted once."""
    training = TrainingConfig(batch_size=trial.training.batch_size, augment=trial.training.augment)
    return _side_network_memory(replace(trial, training=training), num_classes, execution)


@lru_cache(maxsize=256)
def _side_network_memory(trial: TrialConfig, num_classes: int, execution: Execution) -> Memory:
    shape = backbone_shape(trial.backbone.name)
    with torch.device("meta"):
        model = SideNetwork(trial, shape, num_classes)
    return trace_training(model, lambda: _side_inputs(trial, shape, execution), execution)


@lru_cache(maxsize=256)
def full_fine_tuning_memory(
    name: str, resolution: int, batch_size: int, num_classes: int, execution: Execution
) -> Memory:
    """``fine_tuning_memory`` however it is executed, by what determines it."""
    shape = backbone_shape(name)
    check_resolution(shape, resolution)
    with torch.device("meta"):
        model = timm.create_model(name, img_size=resolution, num_classes=num_classes)

    def inputs() -> tuple[Tensor]:
        return (normalise(torch.empty(batch_size, 3, resolution, resolution), shape.mean, shape.std),)

    return trace_training(model, inputs, execution)


def _side_inputs(
    trial: TrialConfig, shape: BackboneShape, execution: Execution
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """A batch as ``loop._inputs`` moves it to the device."""
    side, batch_size = trial.side, trial.training.batch_size
    if trial.training.augment:
        images = torch.empty(batch_size, 3, side.resolution, side.resolution)
    else:
        images = torch.empty(batch_size, side.resolution, side.resolution, 3, dtype=torch.uint8)
    images = normalise(images, shape.mean, shape.std)
    if not side.num_prompts:
        return images, None, None, None
    num_kept = kept_tokens(shape.num_tokens(trial.features.resolution), trial.features.token_ratio)
    size = (side.depth, batch_size, shape.num_heads, num_kept, shape.head_width)
    stored, arithmetic = getattr(torch, trial.features.dtype), getattr(torch, execution.precision)
    keys, values = (torch.empty(size, dtype=stored).to(arithmetic) for _ in range(2))
    if not side.prompt_dropout:
        return images, keys, values, None
    return images, keys, values, torch.empty(side.depth, batch_size, side.num_prompts, side_width(trial, shape))
