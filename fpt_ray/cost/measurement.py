"""What two training steps really take on a GPU, to stand beside the prediction. Weights and images are random."""

import gc
from dataclasses import dataclass, replace

import torch
from torch import nn

from fpt_ray.config.trial import TrialConfig
from fpt_ray.cost.execution import CUBLAS_WORKSPACE_BYTES, HOPPER_WORKSPACE_BYTES, Execution
from fpt_ray.cost.prediction import batch_maker
from fpt_ray.errors import ConfigError
from fpt_ray.models.backbone import uses_bfloat16
from fpt_ray.models.hardware import hardware_of
from fpt_ray.models.methods import make_model
from fpt_ray.models.step import Inputs, learns, make_learner, take_step


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredMemory:
    """Peak memory of two training steps, in bytes."""

    allocated_bytes: int
    """``torch.cuda.max_memory_allocated()``."""
    reserved_bytes: int
    """``torch.cuda.max_memory_reserved()``."""
    device_used_bytes: int
    """What the driver says is in use after them: this process's context and segments, and what others hold."""
    device: str


def require_gpu() -> torch.device:
    """The GPU to measure on; ConfigError where there is none."""
    if not torch.cuda.is_available():
        problem = "to measure needs a CUDA GPU, and PyTorch sees none; leave it out for the prediction alone"
        raise ConfigError(problem, fields=("measure",))
    return torch.device("cuda", torch.cuda.current_device())


def gpu_execution(trial: TrialConfig, device: torch.device) -> Execution:
    """How the loop executes the trial on this GPU, for the prediction to stand beside the measurement."""
    hopper = torch.cuda.get_device_capability(device)[0] >= 9
    return Execution(
        precision="bfloat16" if uses_bfloat16(trial.training.precision, hardware_of(device)) else "float32",
        workspace_bytes=HOPPER_WORKSPACE_BYTES if hopper else CUBLAS_WORKSPACE_BYTES,
    )


def measure(trial: TrialConfig, num_outputs: int, execution: Execution, device: torch.device) -> MeasuredMemory:
    """Runs two steps as the loop takes them and reads CUDA's counters.

    What an earlier measurement in this process has cached is given back first.
    """
    trial = replace(trial, backbone=replace(trial.backbone, weights="random"))
    gc.collect()
    torch.cuda.empty_cache()
    model = make_model(trial, num_outputs).to(device).train()
    torch.cuda.reset_peak_memory_stats(device)
    two_steps(model, trial, execution, device)
    torch.cuda.synchronize(device)
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return MeasuredMemory(
        allocated_bytes=torch.cuda.max_memory_allocated(device),
        reserved_bytes=torch.cuda.max_memory_reserved(device),
        device_used_bytes=total_bytes - free_bytes,
        device=torch.cuda.get_device_name(device),
    )


def two_steps(model: nn.Module, trial: TrialConfig, execution: Execution, device: torch.device) -> None:
    """Two steps as the loop takes them, on any device; the optimizer's moments exist from the end of the first.

    What learns nothing goes forward alone.
    """
    make_batch = batch_maker(trial, execution)

    def inputs() -> Inputs:
        with device:  # the maker's tensors appear there
            return make_batch()

    if not learns(model):
        model(*inputs())
        return
    learner = make_learner(model, [trial.training], 20, getattr(torch, execution.precision))
    for step in (1, 2):
        take_step(learner, step, inputs, lambda logits: torch.zeros(len(logits), dtype=torch.int64, device=device))
