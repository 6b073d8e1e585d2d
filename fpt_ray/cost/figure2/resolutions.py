"""Figure 2 of the paper: memory of training against resolution, of every method, and where each runs out of memory.

The paper's figure has one GPU's 48 GB as its limit; it says neither the backbone nor the batch, for which those of its
section 4.2.1 are taken (ViT-B/16, 16 images), unless a trial says others. Nothing is run.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from fpt_ray.config.trial import SIDE_METHODS, Method, TrialConfig, override
from fpt_ray.cost.execution import PAPER_BASELINES, PAPER_FPT, Execution
from fpt_ray.cost.prediction import network_memory, our_execution
from fpt_ray.display.typesetting import Cell, Column, Table, text_column
from fpt_ray.display.units import MIB
from fpt_ray.errors import ConfigError
from fpt_ray.models.backbone import backbone_shape
from fpt_ray.models.methods import check_trial
from fpt_ray.paper.numbers import FPT_AS_RUN, METHOD_NAMES

Runner = Literal["ours", "paper"]
"""Whose way of running a step is predicted: this project's, or the paper's, of the methods that it has."""
RESOLUTIONS = (224, 320, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
"""In pixels; a backbone takes the nearest multiples of its patch."""
LIMITS_GIB = (8, 24, 48, 80)
"""What GPUs have; 48 as the paper's."""
GIB = 2**30
TITLES: Mapping[Runner, str] = {
    "ours": "as this project runs it (fused attention, 16 bit where a GPU has bfloat16)",
    "paper": "as the paper ran it (attention maps are kept; FPT and FPT+ in 32 bit, the others in 16 bit)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What one prediction is of."""

    runner: Runner
    trial: TrialConfig
    num_classes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A method's memory over the resolutions."""

    runner: Runner
    method: Method
    memory_bytes: Mapping[int, int]
    """{resolution: of the training process}, rising resolutions."""

    @property
    def name(self) -> str:
        """What people call it."""
        return METHOD_NAMES.get(self.method, self.method.replace("_", " "))


def questions(trial: TrialConfig, num_classes: int) -> list[Question]:
    """One for each method and resolution, as both run it: of this trial's backbone, batch and other settings.

    Methods that are not for this kind of backbone are left out.

    Raises:
        ConfigError: the trial's side network does not fit the backbone.
    """
    patch = backbone_shape(trial.backbone.name).patch_size
    sizes = sorted({patch * round(size / patch) for size in RESOLUTIONS})
    check_trial(_at(trial, "fpt+", sizes[0]))
    found = []
    for method in get_args(Method):
        each = [_at(trial, method, size) for size in sizes]
        if not _fits_backbone(each[0]):
            continue
        runners: tuple[Runner, ...] = ("ours", "paper") if method in METHOD_NAMES else ("ours",)
        found += [Question(runner=runner, trial=one, num_classes=num_classes) for runner in runners for one in each]
    return found


def _at(trial: TrialConfig, method: Method, resolution: int) -> TrialConfig:
    """FPT has settings of its own: it reads all layers, and a larger side input."""
    shape, own = backbone_shape(trial.backbone.name), {}
    if method == "fpt":
        size = shape.patch_size * round(int(FPT_AS_RUN["side.resolution"]) / shape.patch_size)
        own = {"side.depth": shape.depth, "side.resolution": size}
    return override(trial, {"method": method, "features.resolution": resolution, **own})


def _fits_backbone(trial: TrialConfig) -> bool:
    try:
        check_trial(trial)
    except ConfigError:
        return False
    return True


def answer(question: Question) -> int:
    """The memory of the training process in bytes, predicted."""
    return network_memory(question.trial, question.num_classes, execution_of(question)).process_bytes


def execution_of(question: Question) -> Execution:
    """How a step is executed that a question is of."""
    if question.runner == "ours":
        return our_execution(question.trial)
    return PAPER_FPT if question.trial.method in SIDE_METHODS else PAPER_BASELINES


def lines(asked: Sequence[Question], answers: Iterable[int]) -> list[Line]:
    """The answers, method by method."""
    found: dict[tuple[Runner, Method], dict[int, int]] = {}
    for question, memory in zip(asked, answers, strict=True):
        trial = question.trial
        found.setdefault((question.runner, trial.method), {})[trial.features.resolution] = memory
    return [Line(runner=runner, method=method, memory_bytes=memory) for (runner, method), memory in found.items()]


def largest(memory_bytes: Mapping[int, int], limit_bytes: float) -> float | None:
    """The resolution in pixels at which a limit is reached; infinite: at none of these; None: at all of them.

    Between two resolutions memory is taken for a power of the resolution.
    """
    points = list(memory_bytes.items())
    if points[0][1] > limit_bytes:
        return None
    for (size, memory), (next_size, more) in pairwise(points):
        if more > limit_bytes:
            share = math.log(limit_bytes / memory) / math.log(more / memory)
            return size * (next_size / size) ** share
    return math.inf


# --- for people and programs ----------------------------------------------------------------------------------


def resolution_tables(found: Sequence[Line], trial: TrialConfig) -> list[Table]:
    """A table for each way of running: memory at each resolution, and up to which one each limit suffices."""
    return [_table([line for line in found if line.runner == runner], runner, trial) for runner in get_args(Runner)]


def _table(found: Sequence[Line], runner: Runner, trial: TrialConfig) -> Table:
    patch = backbone_shape(trial.backbone.name).patch_size
    columns = [
        Column(title=f"{size} px", cells=[Cell(value=line.memory_bytes[size] / GIB) for line in found], digits=2)
        for size in found[0].memory_bytes
    ]
    columns += [
        text_column(f"{limit} GB", [_reach(line, limit * GIB, patch) for line in found]) for limit in LIMITS_GIB
    ]
    ends = "> beyond what was asked, - not even the smallest"
    return Table(
        title=f"Memory of training in GiB, {TITLES[runner]}; {about(trial)}",
        heading="method",
        labels=[line.name for line in found],
        columns=columns,
        footnotes=[f"N GB: about the largest resolution that can be trained in N GiB; {ends}."],
    )


def about(trial: TrialConfig) -> str:
    """What the predictions are of, for a caption."""
    return (
        f"{trial.backbone.name}, batch {trial.training.batch_size}. Predicted. Of methods that read stored features, "
        "running the LPM once to store them is not in it."
    )


def _reach(line: Line, limit_bytes: float, patch: int) -> str:
    found = largest(line.memory_bytes, limit_bytes)
    if found is None:
        return "-"
    return f">{max(line.memory_bytes)}" if math.isinf(found) else str(patch * int(found / patch))


def resolution_records(found: Sequence[Line]) -> list[dict[str, object]]:
    """One a way of running, method and resolution; MB are MiB, as everywhere in the paper's tables."""
    return [
        {"run_as": line.runner, "method": line.method, "resolution": size, "memory_mb": memory / MIB}
        for line in found
        for size, memory in line.memory_bytes.items()
    ]
