"""What trials cost, as records and as tables: of one trial, of a search space, over the resolutions of Figure 2."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from fpt_ray.config.space import POINT, SearchRow, SearchSpace, need_of
from fpt_ray.config.trial import TrialConfig, reads_images
from fpt_ray.cost.execution import Execution
from fpt_ray.cost.figure2.resolutions import about, answer, lines, questions, resolution_records, resolution_tables
from fpt_ray.cost.measurement import MeasuredMemory, gpu_execution, measure, require_gpu
from fpt_ray.cost.prediction import (
    learnable_parameters,
    memory_key,
    network_memory,
    our_execution,
    param_ratio,
    preload_flops,
    step_flops,
)
from fpt_ray.cost.processes import each
from fpt_ray.cost.storages import Kind
from fpt_ray.cost.trace import Memory
from fpt_ray.display.terminal import say
from fpt_ray.display.typesetting import Table, text_column, typeset
from fpt_ray.display.units import MIB
from fpt_ray.errors import ConfigError
from fpt_ray.features.spec import bytes_per_row, store_spec
from fpt_ray.models.methods import check_trial

_COSTLY = {"training.batch_size", "training.precision", "training.augment"}
"""Of training, what memory depends on."""

# --- a trial --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a trial costs."""

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


def cost_of(trial: TrialConfig, num_outputs: int, execution: Execution | None = None) -> Cost:
    """The predicted cost of a trial, as this project runs it on a GPU unless told otherwise.

    Raises:
        ConfigError: the trial cannot be built.
    """
    check_trial(trial)
    execution = execution or our_execution(trial)
    memory = network_memory(trial, num_outputs, execution)
    reference = network_memory(dataclasses.replace(trial, method="full_fine_tuning"), num_outputs, execution)
    return Cost(
        learnable_parameters=learnable_parameters(trial, num_outputs),
        param_ratio=param_ratio(trial, num_outputs),
        memory_ratio=memory.process_bytes / reference.process_bytes,
        memory=memory,
        row_bytes=bytes_per_row(store_spec(need_of(trial))),
        step_flops=step_flops(trial, num_outputs),
        preload_flops=None if reads_images(trial) else preload_flops(need_of(trial)),
    )


def measured_cost(trial: TrialConfig, num_outputs: int) -> Cost:
    """The same for the GPU that is here, and what two steps really take on it; ConfigError without one."""
    device = require_gpu()
    execution = gpu_execution(trial, device)
    cost = cost_of(trial, num_outputs, execution)
    return dataclasses.replace(cost, measured=measure(trial, num_outputs, execution, device))


# --- a space --------------------------------------------------------------------------------------------------


def trials_of(space: SearchSpace) -> dict[str, TrialConfig]:
    """{name: point} of a space; of those that cost the same the first."""
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
    names: dict[tuple[TrialConfig, Execution], str] = {}
    trials = {name: space.trial(values) for name, values in proposals.items()}
    for name, trial in trials.items():
        names.setdefault((memory_key(trial), our_execution(trial)), name)
    return {name: trials[name] for name in names.values()}


def _name(values: Mapping[str, Any]) -> str:
    """A point's name and the values that its cost depends on."""
    costly = {name: value for name, value in values.items() if not name.startswith("training.") or name in _COSTLY}
    texts = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in costly.items()}
    return " ".join(text if name == POINT else f"{name}={text}" for name, text in texts.items())


def _narrowest(row: SearchRow) -> Any:
    if row.choices is not None:
        return min((choice for choice in row.choices if choice is not None), default=None)
    return row.low


# --- for people and programs ----------------------------------------------------------------------------------


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


def cost_table(costs: Mapping[str, Cost]) -> Table:
    """A column of one trial's quantities, or a row for each of several by name."""
    found = {name: _quantities(cost) for name, cost in costs.items()}
    first, *others = found.values()
    if not others:
        return Table(labels=list(first), columns=[text_column("", first.values())])
    columns = [text_column(title, [quantities[title] for quantities in found.values()]) for title in first]
    return Table(labels=list(found), columns=columns)


def costs_of(trials: Mapping[str, TrialConfig], num_outputs: int, *, measured: bool) -> dict[str, Cost]:
    """{name: cost} of trials by their names; ``measured`` runs two steps of each on this machine's GPU, too.

    Raises:
        ConfigError: a trial cannot be built, or there is no GPU to measure on.
    """
    if measured:
        require_gpu()
        return {name: measured_cost(trial, num_outputs) for name, trial in trials.items()}
    costs = each(partial(cost_of, num_outputs=num_outputs), list(trials.values()))
    return dict(zip(trials, costs, strict=True))


def figure2_text(trial: TrialConfig, num_classes: int, picture: Path, *, as_json: bool) -> str:
    """Memory against resolution, of every method on a trial's backbone; drawn, too, as a picture and as a page.

    Raises:
        ConfigError: the trial's side network does not fit the backbone.
    """
    from fpt_ray.cost.figure2.pictures import draw_resolutions

    asked = questions(trial, num_classes)
    found = lines(asked, each(answer, asked))
    page = draw_resolutions(found, about(trial), picture)
    say(f"picture: {picture}  (interactive: {page})")
    if as_json:
        return json.dumps(resolution_records(found), indent=1)
    return "\n\n".join(typeset(table, "text") for table in resolution_tables(found, trial))


def costs_text(costs: Mapping[str, Cost], *, as_json: bool) -> str:
    """Costs of trials by their names, in full as JSON."""
    records = [{"name": name, **_record(cost)} for name, cost in costs.items()]
    return json.dumps(records, indent=1) if as_json else typeset(cost_table(costs), "text")
