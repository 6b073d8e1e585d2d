"""What two training steps really take on a GPU, to stand beside the prediction. Weights and images are random."""

import gc
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from fpt_ray.config.trial import TrialConfig
from fpt_ray.cost.execution import CUBLAS_WORKSPACE_BYTES, HOPPER_WORKSPACE_BYTES, Execution
from fpt_ray.cost.prediction import batch_maker
from fpt_ray.errors import ConfigError
from fpt_ray.models.backbone import uses_bfloat16
from fpt_ray.models.methods import AdaLora, make_model


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
        raise ConfigError("--measure needs a CUDA GPU, and PyTorch sees none; leave it out for the prediction alone")
    return torch.device("cuda", torch.cuda.current_device())


def gpu_execution(trial: TrialConfig, device: torch.device) -> Execution:
    """How ``loop.py`` executes the trial on this GPU, for the prediction to stand beside the measurement."""
    hopper = torch.cuda.get_device_capability(device)[0] >= 9
    return Execution(
        precision="bfloat16" if uses_bfloat16(trial.training.precision, device) else "float32",
        workspace_bytes=HOPPER_WORKSPACE_BYTES if hopper else CUBLAS_WORKSPACE_BYTES,
    )


def measure(trial: TrialConfig, num_classes: int, execution: Execution, device: torch.device) -> MeasuredMemory:
    """Runs two steps as ``loop.py`` takes them and reads CUDA's counters.

    What an earlier measurement in this process has cached is given back first.
    """
    trial = replace(trial, backbone=replace(trial.backbone, weights="random"))
    gc.collect()
    torch.cuda.empty_cache()
    model = make_model(trial, num_classes).to(device).train()
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
    """Two steps as ``loop.py`` takes them, on any device; the optimizer's moments exist from the end of the first."""
    training = trial.training
    learnable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnable, training.learning_rate, weight_decay=training.weight_decay)
    adalora = model if isinstance(model, AdaLora) else None
    if adalora is not None:
        adalora.plan(20)
    make_batch = batch_maker(trial, execution)
    for step in (1, 2):
        labels = torch.zeros(training.batch_size, dtype=torch.int64, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=execution.precision == "bfloat16"):
            with device:  # the maker's tensors appear there
                batch = make_batch()
            logits = model(*batch)
        del batch
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        loss = losses.mean()
        optimizer.zero_grad(set_to_none=True)
        (loss if adalora is None else loss + adalora.regulariser()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        optimizer.step()
        if adalora is not None:
            adalora.allocate(step)
