"""What a configuration costs, without running it: parameters, peak memory of training on a GPU, operations.

A prediction takes less than a second on any machine. ``trace.py`` says how memory is predicted and what is left out.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from fpt_ray.config.augmentation import AugmentConfig
from fpt_ray.config.space import StoreNeed
from fpt_ray.config.trial import (
    SIDE_METHODS,
    SUMMARY_METHODS,
    FeaturesConfig,
    SideConfig,
    TrainingConfig,
    TrialConfig,
    image_resolution,
    override,
    reads_features,
    reads_images,
    reads_low_resolution,
)
from fpt_ray.cost.execution import Execution
from fpt_ray.cost.trace import Memory, trace_training
from fpt_ray.features.spec import store_spec
from fpt_ray.images.pixels import normalise
from fpt_ray.models.backbone import backbone_shape, kept_tokens, uses_bfloat16
from fpt_ray.models.hardware import Hardware
from fpt_ray.models.importance import extract
from fpt_ray.models.lpm_attention import Way
from fpt_ray.models.methods import make_model
from fpt_ray.models.side_network import side_width
from fpt_ray.models.step import Inputs, learns
from fpt_ray.models.weights import unloaded_backbone

_VALUES = {
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.erfinv_,
    Tensor.mul_,
    Tensor.add_,
    Tensor.clamp_,
    Tensor.fill_,
    Tensor.zero_,
}
Arithmetic = Literal["bfloat16", "float32"]


def count_parameters(module: nn.Module, *, learnable: bool = False) -> int:
    """Parameters of a module; all, or those that require a gradient."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not learnable)


@lru_cache(maxsize=32)
def published_parameters(name: str) -> int:
    """Parameters of a timm model with the head it was published with."""
    with torch.device("meta"):
        return count_parameters(timm.create_model(name))


def learnable_parameters(trial: TrialConfig, num_outputs: int) -> int:
    """Parameters that the trial's method trains."""
    return count_parameters(_model(memory_key(trial), num_outputs), learnable=True)


def param_ratio(trial: TrialConfig, num_outputs: int) -> float:
    """The ratio r of Eq. 9, in 0..1: learnable over learnable and frozen.

    As in Table 1, beside a side network the LPM counts with its published head; a method that changes the LPM counts it
    as it trains it, with a head for its own classes and the positions of its resolution.
    """
    if trial.method in SIDE_METHODS:
        learnable = learnable_parameters(trial, num_outputs)
        return learnable / (learnable + published_parameters(trial.backbone.name))
    model = _model(memory_key(trial), num_outputs)
    return count_parameters(model, learnable=True) / count_parameters(model)


@lru_cache(maxsize=1)
def _model(trial: TrialConfig, num_outputs: int) -> nn.Module:
    """The trial's network without weights, to be looked at or copied; several are asked of one trial."""
    with torch.device("meta"), _Uninitialised():
        return make_model(trial, num_outputs, load=False)


class _Uninitialised(TorchFunctionMode):
    """Leaves out what gives new parameters their values: they have none on ``meta``, and it takes most of the time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _VALUES and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def training_memory(trial: TrialConfig, num_outputs: int, *, precision: Arithmetic) -> Memory:
    """Peak memory of the trial's training, as ``loop.fit`` does it in one worker."""
    return network_memory(trial, num_outputs, Execution(precision=precision))


def fine_tuning_memory(trial: TrialConfig, num_outputs: int, *, precision: Arithmetic) -> Memory:
    """Peak memory of full fine-tuning of the trial's backbone: same high resolution, batch size and precision."""
    return network_memory(replace(trial, method="full_fine_tuning"), num_outputs, Execution(precision=precision))


def our_execution(trial: TrialConfig) -> Execution:
    """How this project executes the trial on a GPU that has bfloat16."""
    return Execution(precision="float32" if trial.training.precision == "float32" else "bfloat16")


def network_memory(trial: TrialConfig, num_outputs: int, execution: Execution) -> Memory:
    """``training_memory`` however it is executed. Trials that take the same memory are predicted once."""
    return _network_memory(memory_key(trial), num_outputs, execution)


def memory_key(trial: TrialConfig) -> TrialConfig:
    """The trial with its defaults wherever its memory and its arithmetic do not depend on a value."""
    training = TrainingConfig(batch_size=trial.training.batch_size, augment=trial.training.augment)
    trial = replace(trial, training=training, augment=AugmentConfig())
    if trial.method not in SIDE_METHODS:
        trial = replace(trial, side=SideConfig(), features=FeaturesConfig(resolution=trial.features.resolution))
    return trial


@lru_cache(maxsize=256)
def _network_memory(trial: TrialConfig, num_outputs: int, execution: Execution) -> Memory:
    return trace_training(_model(trial, num_outputs), batch_maker(trial, execution), execution)


def batch_maker(trial: TrialConfig, execution: Execution) -> Callable[[], Inputs]:
    """Makes a batch of the trial's shapes on the current device, as ``loop.network_inputs`` does; values are unset."""
    shape, side, batch_size = backbone_shape(trial.backbone.name), trial.side, trial.training.batch_size
    resolution = image_resolution(trial)
    num_kept = kept_tokens(shape.num_tokens(trial.features.resolution), trial.features.token_ratio)
    stored, arithmetic = getattr(torch, trial.features.dtype), getattr(torch, execution.precision)

    def images() -> Tensor:
        if trial.training.augment:
            return normalise(torch.empty(batch_size, 3, resolution, resolution), shape.mean, shape.std)
        raw = torch.empty(batch_size, resolution, resolution, 3, dtype=torch.uint8)
        return normalise(raw, shape.mean, shape.std)

    def masks() -> Tensor | None:
        if trial.method not in ("fpt+", "fpt") or not side.num_prompts or not side.prompt_dropout:
            return None
        return torch.empty(side.depth, batch_size, side.num_prompts, side_width(trial, shape))

    def batch() -> Inputs:
        if trial.method not in SIDE_METHODS:
            return (images(),)
        if reads_images(trial):
            return images(), masks()
        if trial.method in SUMMARY_METHODS:
            return (torch.empty(batch_size, shape.depth, 2, shape.width, dtype=stored).to(arithmetic),)
        low_res = images() if reads_low_resolution(trial) else None
        if not reads_features(trial):
            return low_res, None, None, None
        size = (side.depth, batch_size, shape.num_heads, num_kept, shape.head_width)
        if execution.authors_layout:
            image_first = (batch_size, side.depth, *size[2:])
            keys, values = (torch.empty(image_first).transpose(0, 1) for _ in range(2))
            return low_res, keys, values, None
        keys, values = (torch.empty(size, dtype=stored) for _ in range(2))
        return low_res, keys, values, masks()

    return batch


# --- what is known of a trial before it is trained -----------------------------------------------------------------


def trial_costs(trial: TrialConfig, num_outputs: int, hardware: Hardware) -> dict[str, float]:
    """Known before training: learnable parameters, predicted peak memory, and both as ratios (section 4.2.2).

    ``hardware`` is of the workers that train, since auto precision follows it. Memory is a GPU's on any.

    ``memory_ratio``, m of Eq. 10, is against full fine-tuning of the same backbone at the same resolution, batch and
    precision on *this* system, both sides predicted by the same estimator. The paper's m is relative to 23,128 MB,
    which is float16 autocast without fused attention.
    """
    precision = "bfloat16" if uses_bfloat16(trial.training.precision, hardware) else "float32"
    memory = training_memory(trial, num_outputs, precision=precision)
    reference = fine_tuning_memory(trial, num_outputs, precision=precision)
    return {
        "learnable_parameters": learnable_parameters(trial, num_outputs),
        "param_ratio": param_ratio(trial, num_outputs),
        "memory_ratio": memory.process_bytes / reference.process_bytes,
        "peak_memory_bytes": memory.process_bytes,
    }


def step_flops(trial: TrialConfig, num_outputs: int) -> int:
    """Of one training step on a batch, forward and, where anything learns, backward.

    The LPM's share too where it runs in every step.
    """
    alike = override(memory_key(trial), {"side.prompt_dropout": TrialConfig().side.prompt_dropout})
    return _step_flops(alike, num_outputs)


@lru_cache(maxsize=256)
def _step_flops(trial: TrialConfig, num_outputs: int) -> int:
    with torch.device("meta"):
        model = copy.deepcopy(_model(trial, num_outputs)).train()
        batch = batch_maker(trial, Execution(precision="float32"))()
        with FlopCounterMode(display=False) as counter:
            logits = model(*batch)
            if learns(model):
                logits.sum().backward()
    return counter.get_total_flops()


def preload_flops(need: StoreNeed) -> int:
    """Of the LPM's forward pass over one image; the maps of blocks that are stored are made once."""
    trial, spec = need.trial, store_spec(need)
    features, kept, blocks = trial.features, spec.num_kept, spec.blocks
    with torch.device("meta"), torch.no_grad():
        vit = unloaded_backbone(trial.backbone, features.resolution).eval()
        image = torch.empty(1, 3, features.resolution, features.resolution)
        with FlopCounterMode(display=False) as counter:
            extract(
                vit,
                image,
                blocks=blocks,
                num_kept=kept,
                importance=features.importance,
                summarised=True,
                way=Way.PRODUCTS,
            )
    return counter.get_total_flops()
