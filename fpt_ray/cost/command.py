"""What configurations cost before anything runs: parameters, memory, storage and arithmetic. Needs no weights.

``python -m fpt_ray.cost [any option of a trial] [--num_classes N] [--json] [--measure]``
``python -m fpt_ray.cost --space X.yaml`` prints every point of a finite space; of a continuous one its fixed values
with the defaults, its narrowest and its widest point. ``--as table1`` to ``table4`` prints the paper's memory tables
beside the prediction.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import tyro
from tqdm import tqdm

from fpt_ray.config.space import POINT, SearchRow, SearchSpace
from fpt_ray.config.space_yaml import load_space
from fpt_ray.config.trial import TrialConfig, reads_images
from fpt_ray.cost.allocator import MIB
from fpt_ray.cost.execution import Execution
from fpt_ray.cost.measurement import MeasuredMemory, gpu_execution, measure, require_gpu
from fpt_ray.cost.paper_rows import NOTES, Table, paper_record, paper_rows
from fpt_ray.cost.prediction import (
    learnable_parameters,
    memory_key,
    network_memory,
    our_execution,
    param_ratio,
    preload_flops,
    step_flops,
)
from fpt_ray.cost.trace import Kind, Memory
from fpt_ray.errors import ConfigError
from fpt_ray.features.spec import bytes_per_row, store_spec
from fpt_ray.models.methods import check_trial

Item = TypeVar("Item")
Result = TypeVar("Result")


# --- a trial --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a trial costs."""

    name: str
    learnable_parameters: int
    param_ratio: float
    memory_ratio: float
    """Of full fine-tuning, executed alike."""
    memory: Memory
    row_bytes: int
    """An image takes these in the store that serves the trial."""
    step_flops: int
    preload_flops: int | None
    """Of one image; None where the LPM runs in every step."""
    measured: MeasuredMemory | None = None


def cost_of(named: tuple[str, TrialConfig], num_classes: int, execution: Execution | None = None) -> Cost:
    """The predicted cost of a trial with its name, as this project runs it on a GPU unless told otherwise.

    Raises:
        ConfigError: the trial cannot be built.
    """
    name, trial = named
    check_trial(trial)
    execution = execution or our_execution(trial)
    memory = network_memory(trial, num_classes, execution)
    reference = network_memory(dataclasses.replace(trial, method="full_fine_tuning"), num_classes, execution)
    return Cost(
        name=name,
        learnable_parameters=learnable_parameters(trial, num_classes),
        param_ratio=param_ratio(trial, num_classes),
        memory_ratio=memory.process_bytes / reference.process_bytes,
        memory=memory,
        row_bytes=bytes_per_row(store_spec(trial)),
        step_flops=step_flops(trial, num_classes),
        preload_flops=None if reads_images(trial) else preload_flops(trial),
    )


def measured_cost(named: tuple[str, TrialConfig], num_classes: int) -> Cost:
    """The same for the GPU that is here, and what two steps really take on it; ConfigError without one."""
    device = require_gpu()
    execution = gpu_execution(named[1], device)
    cost = cost_of(named, num_classes, execution)
    return dataclasses.replace(cost, measured=measure(named[1], num_classes, execution, device))


# --- a space --------------------------------------------------------------------------------------------------


def trials_of(space: SearchSpace) -> list[tuple[str, TrialConfig]]:
    """The points of a space with their names, those that cost the same once."""
    try:
        proposals = {_name(values): values for values in space.grid()}
    except ConfigError:  # a row is continuous
        ends: dict[str, dict[str, Any]] = {
            "defaults": {},
            "narrowest": {row.name: _narrowest(row) for row in space.rows},
            "widest": {row.name: row.widest() for row in space.rows},
        }
        proposals = {
            f"{point} {end}".strip(): {**({POINT: point} if point else {}), **values}
            for point in space.points or ("",)
            for end, values in ends.items()
        }
    trials: dict[TrialConfig, tuple[str, TrialConfig]] = {}
    for name, values in proposals.items():
        trial = space.trial(values)
        trials.setdefault(memory_key(trial), (name, trial))
    return list(trials.values())


def _name(values: Mapping[str, Any]) -> str:
    """A point's name and the values that its cost depends on."""
    costly = {name: value for name, value in values.items() if not name.startswith("training.") or "batch" in name}
    texts = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in costly.items()}
    return " ".join(text if name == POINT else f"{name}={text}" for name, text in texts.items())


def _narrowest(row: SearchRow) -> Any:
    if row.choices is not None:
        return min((choice for choice in row.choices if choice is not None), default=None)
    return row.low


# --- the paper's tables ---------------------------------------------------------------------------------------


def paper_text(table: Table, records: Sequence[Mapping[str, Any]]) -> str:
    """The table as text; * marks a share that differs at the printed digits and memory that differs by over 3 %."""
    lines = [("row", "Params %", "paper", "Mem. as the paper ran it", "paper", "off %", "Mem. as this project runs it")]
    for record in records:
        share, printed = record["params_percent"], record["paper_params_percent"]
        memory, paper_mb = record["paper_setting_memory_mb"], record["paper_memory_mb"]
        off = None if paper_mb is None else 100 * (memory / paper_mb - 1)
        lines.append(
            (
                record["row"],
                f"{share:.2f}" + ("*" if printed is not None and f"{printed:.2f}" != f"{share:.2f}" else " "),
                "-" if printed is None else f"{printed:g}",
                f"{memory:,.0f}",
                "-" if paper_mb is None else f"{paper_mb:,.0f}",
                "-" if off is None else f"{off:+.1f}" + ("*" if abs(off) > 3 else " "),
                f"{record['memory_mb']:,.0f}",
            )
        )
    notes = [f"* {name}: {note}" for name, note in NOTES[table].items()]
    return "\n".join([_aligned(lines), "Memory in MiB of a process, predicted; - where the paper prints none.", *notes])


# --- printing -------------------------------------------------------------------------------------------------


def _record(cost: Cost) -> dict[str, Any]:
    """A cost as JSON takes it, flat; bytes and operations."""
    values = dataclasses.asdict(cost)
    memory, measured = values.pop("memory"), values.pop("measured")
    taken = {f"measured_{name}": value for name, value in (measured or {}).items()}
    return {**values, **memory, "process_bytes": cost.memory.process_bytes, **taken}


def _quantities(cost: Cost) -> dict[str, str]:
    """{what and its unit: value} for people."""
    memory, measured = cost.memory, cost.measured
    parts = {f"{kind}, MiB": f"{getattr(memory, kind) / MIB:,.1f}" for kind in get_args(Kind)}
    found = {
        "learnable": f"{cost.learnable_parameters:,}",
        "share, %": f"{100 * cost.param_ratio:.2f}",
        **parts,
        "allocated, MiB": f"{memory.allocated_bytes / MIB:,.1f}",
        "reserved, MiB": f"{memory.reserved_bytes / MIB:,.0f}",
        "process, MiB": f"{memory.process_bytes / MIB:,.0f}",
        "of full fine-tuning, %": f"{100 * cost.memory_ratio:.1f}",
        "row, kB": f"{cost.row_bytes / 1e3:,.1f}",
        "step, GFLOP": f"{cost.step_flops / 1e9:,.1f}",
        "preload, GFLOP": "-" if cost.preload_flops is None else f"{cost.preload_flops / 1e9:,.1f}",
    }
    if measured is not None:
        pairs = {
            "allocated": (measured.allocated_bytes, memory.allocated_bytes),
            "reserved": (measured.reserved_bytes, memory.reserved_bytes),
            "process": (measured.device_used_bytes, memory.process_bytes),
        }
        for name, (taken, predicted) in pairs.items():
            found[f"{name} measured, MiB (predicted/measured)"] = f"{taken / MIB:,.1f} ({predicted / taken:.3f})"
        found["measured on"] = measured.device
    return found


def _text(costs: Sequence[Cost]) -> str:
    """One trial as a list, several as a table."""
    if len(costs) == 1:
        return _aligned([(name, value) for name, value in _quantities(costs[0]).items()])
    return _aligned([("", *_quantities(costs[0])), *((cost.name, *_quantities(cost).values()) for cost in costs)])


def _aligned(lines: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )


def _each(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
    """The function's results in order, from several processes where there are many."""
    if len(items) < 5:
        return [function(item) for item in items]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:  # autograd's threads do not survive a fork
        return list(tqdm(pool.map(function, items), total=len(items), desc="predict"))


# --- command --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Print what configurations cost, before anything runs."""

    as_: Annotated[Table | None, tyro.conf.arg(name="as")] = None
    """A memory table of the paper beside the prediction, instead of a trial."""
    space: Path | None = None
    """A search space: all its points, instead of a trial."""
    num_classes: int = 5
    json: bool = False
    """JSON on stdout instead of text."""
    measure: bool = False
    """Run two steps on this machine's GPU, too."""
    trial: Annotated[TrialConfig, tyro.conf.arg(name="")] = field(default_factory=TrialConfig)


def print_costs(command: Command) -> None:
    """Predicts and prints."""
    if command.as_ is not None:
        if command.space is not None or command.measure:
            raise ConfigError("--as prints a table of the paper; leave --space and --measure out")
        records = list(_each(paper_record, paper_rows(command.as_)))
        print(json.dumps(records, indent=1) if command.json else paper_text(command.as_, records))
        return
    trials = [("", command.trial)] if command.space is None else trials_of(load_space(command.space))
    if command.measure:
        require_gpu()
        costs = [measured_cost(named, command.num_classes) for named in trials]
    else:
        costs = list(_each(partial(cost_of, num_classes=command.num_classes), trials))
    print(json.dumps([_record(cost) for cost in costs], indent=1) if command.json else _text(costs))


def main() -> None:
    """Parse, run."""
    print_costs(tyro.cli(Command, description=__doc__, use_underscores=True))
