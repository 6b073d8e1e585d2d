"""What a GPU makes of the stages: extraction, a training step, several trials at once, memory beside its prediction.

Core rooms alone, with torch and timm: no Ray. On a CPU it runs at small sizes, to be tried.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fpt_ray.bench.stages.at_once import TrialsAtOnce, measure_at_once
from fpt_ray.bench.stages.extraction import ExtractionTimes, extraction_text, measure_extraction
from fpt_ray.bench.stages.settings import GpuSetting
from fpt_ray.bench.stages.step import StepTimes, measure_step, step_text
from fpt_ray.config.trial import TrialConfig
from fpt_ray.cost.costs import Cost, cost_of, measured_cost
from fpt_ray.display.units import MIB
from fpt_ray.errors import ConfigError

_CLASSES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuFigures:
    """What was measured."""

    extraction: ExtractionTimes
    step: StepTimes
    trials: tuple[TrialsAtOnce, ...]
    memory: Cost
    """Of a training process, predicted; on a GPU measured too."""
    device: str
    """The GPU's name, or cpu."""

    @property
    def predicted_over_measured(self) -> dict[str, float] | None:
        """{which memory: the prediction over what two steps took}; None without a GPU."""
        memory, measured = self.memory.memory, self.memory.measured
        if measured is None:
            return None
        return {
            "allocated": memory.allocated_bytes / measured.allocated_bytes,
            "reserved": memory.reserved_bytes / measured.reserved_bytes,
            "process": memory.process_bytes / measured.device_used_bytes,
        }

    def as_json(self) -> dict[str, Any]:
        """Ratios, raw seconds and bytes."""
        return {
            "device": self.device,
            "extraction": self.extraction.as_json(),
            "step": self.step.as_json(),
            "trials": [asdict(one) for one in self.trials],
            "memory": asdict(self.memory),
            "predicted_over_measured": self.predicted_over_measured,
        }


def measure_gpu(trial: TrialConfig, setting: GpuSetting) -> GpuFigures:
    """Measures one after the other; memory last, which counts what no process holds any more.

    Raises:
        ConfigError: there is no GPU, and none was said to be wanted; or the trial cannot be built.
    """
    if setting.device == "cuda" and not torch.cuda.is_available():
        problem = "needs a CUDA GPU, and PyTorch sees none; on a CPU it can be tried at small sizes"
        raise ConfigError(f"bench gpu {problem}", fields=("device",))
    device = torch.device(setting.device)
    on_gpu = device.type == "cuda"
    return GpuFigures(
        extraction=measure_extraction(trial, setting.batch, setting.runs, device, plain_batch=setting.plain_batch),
        step=measure_step(trial, setting.runs, device),
        trials=tuple(
            measure_at_once(trial, *shared, rows=setting.rows, epochs=setting.epochs, device=device)
            for shared in (*((processes, 1) for processes in setting.at_once), *((1, one) for one in setting.as_one))
        ),
        memory=(measured_cost if on_gpu else cost_of)(trial, _CLASSES),
        device=torch.cuda.get_device_name(device) if on_gpu else "cpu",
    )


def gpu_text(figures: GpuFigures, batch_size: int) -> str:
    """What people read."""
    memory, ratios = figures.memory.memory, figures.predicted_over_measured
    predicted = (
        f"{memory.allocated_bytes / MIB:.0f}, {memory.reserved_bytes / MIB:.0f}, {memory.process_bytes / MIB:.0f}"
    )
    parts = [
        figures.device,
        extraction_text(figures.extraction),
        step_text(figures.step, batch_size),
        *map(_trials_text, figures.trials),
        f"a trial's memory, allocated, reserved and of the process, in MiB: {predicted} predicted",
    ]
    if ratios is not None:
        parts.append(f"predicted over measured: {json.dumps({name: round(one, 3) for name, one in ratios.items()})}")
    return "\n".join(parts)


def _trials_text(one: TrialsAtOnce) -> str:
    how = f"{one.as_one} trials as one model" if one.as_one > 1 else f"{one.processes} trials at once"
    return f"{how}: {one.trials_per_hour:,.0f} an hour, {one.seconds_per_epoch:.3g} s an epoch"
