"""The rows of the paper's Tables 1 to 4 as trials, each with the setting that the paper's memory figure implies.

PyTorch is imported where something is predicted: the process that prints a table leaves that to others.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fpt_ray.config.trial import TrialConfig, trial_from
from fpt_ray.cost.processes import each
from fpt_ray.display.typesetting import Table, text_column, typeset
from fpt_ray.display.units import MIB
from fpt_ray.paper.layouts import MemoryTable
from fpt_ray.paper.numbers import FPT_AS_RUN, METHOD_NAMES, numbers

if TYPE_CHECKING:
    from fpt_ray.cost.execution import Execution

VIT_L = "vit_large_patch16_384.augreg_in21k_ft_in1k"
NUM_CLASSES = 5
"""Of the learnable shares that the paper prints."""
_METHODS = {name: method for method, name in METHOD_NAMES.items()} | {"Full FT": "full_fine_tuning"}

NOTES: Mapping[MemoryTable, Mapping[str, str]] = {
    "table1": {
        "Linear probing": "its share is 0.004 %; no way of counting a head of 5 classes gives 0.01.",
        "Attention-tuning": "its share is 32.80 %; the 33.8 looks like a slip of one digit.",
        "AdaLoRA": "its share is 0.514 %; over the frozen parameters alone it is 0.517, but LoRA's is 0.69 then.",
        "FPT": "some 140 MB are not explained: the same prediction meets all five FPT rows of Table 2 within 2 %.",
    },
    "table2": {
        "Prompt-tuning 128": "16 prompts take 150 MB more than is printed; 8 would take 3,094, but miss 256.",
    },
    "table3": {},
    "table4": {},
}
"""Why a row is not met: its share at the printed digits, or its memory within 3 %."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRow:
    """A row of a table; what the paper does not print, or could not run on 48 GB, is None."""

    name: str
    trial: TrialConfig
    memory_mb: float | None
    """As ``nvidia-smi`` prints it (MiB)."""
    params_percent: float | None

    @property
    def execution(self) -> "Execution":
        """The setting that the memory figure implies."""
        from fpt_ray.cost.execution import PAPER_BASELINES, PAPER_FPT

        return PAPER_FPT if self.trial.method in ("fpt", "fpt+") else PAPER_BASELINES


def paper_rows(table: MemoryTable) -> list[PaperRow]:
    """The rows of a memory table in the paper's order; Table 2's are named by method and resolution."""
    printed: Any = numbers()[table]
    match table:
        case "table1":
            return [_paper_row(row["method"], _overrides(row["method"]), row) for row in printed["supervised"]]
        case "table2":
            return [
                _paper_row(f"{method} {resolution}", _on_vit_l(method, int(resolution)), {"memory_mb": memory_mb})
                for method, row in printed.items()
                for resolution, memory_mb in row["memory_mb"].items()
            ]
        case "table3" | "table4":
            leaf = "side_resolution" if table == "table3" else "num_prompts"
            name = f"side.{leaf.removeprefix('side_')}"
            return [_paper_row(str(row[leaf]), {name: row[leaf]}, row) for row in printed]


def _paper_row(name: str, overrides: Mapping[str, Any], printed: Mapping[str, Any]) -> PaperRow:
    return PaperRow(
        name=name,
        trial=trial_from(overrides),
        memory_mb=printed["memory_mb"],
        params_percent=printed.get("params_percent"),
    )


def _overrides(name: str) -> dict[str, Any]:
    method = _METHODS[name]
    return dict(FPT_AS_RUN) if method == "fpt" else {"method": method}


def _on_vit_l(name: str, resolution: int) -> dict[str, Any]:
    """FPT+ with 6 side layers, not half of the LPM's 24, and FPT with all 24: so the memory figures say."""
    overrides = {**_overrides(name), "backbone.name": VIT_L, "features.resolution": resolution}
    return {**overrides, "side.depth": 24} if overrides["method"] == "fpt" else overrides


def paper_record(row: PaperRow) -> dict[str, Any]:
    """A row of a paper's table beside its prediction; MB are MiB of process memory, as ``nvidia-smi`` prints them."""
    from fpt_ray.cost.prediction import network_memory, our_execution, param_ratio

    as_the_paper = network_memory(row.trial, NUM_CLASSES, row.execution)
    ours = network_memory(row.trial, NUM_CLASSES, our_execution(row.trial))
    return {
        "row": row.name,
        "params_percent": 100 * param_ratio(row.trial, NUM_CLASSES),
        "paper_setting_memory_mb": as_the_paper.process_bytes / MIB,
        "memory_mb": ours.process_bytes / MIB,
        "paper_params_percent": row.params_percent,
        "paper_memory_mb": row.memory_mb,
    }


# --- as a table -------------------------------------------------------------------------------------------------


def memory_table(name: MemoryTable, records: Sequence[Mapping[str, Any]]) -> Table:
    """The paper's table beside the prediction.

    An asterisk marks a share that differs at the printed digits, and memory that differs by over 3 %.
    """
    titles = ("Params %", "paper", "Mem. as the paper ran it", "paper", "off %", "Mem. as this project runs it")
    texts = zip(*map(_beside_the_paper, records), strict=True)
    explained = [f"* {row}: {note}" for row, note in NOTES[name].items()]
    return Table(
        heading="row",
        labels=[record["row"] for record in records],
        columns=[text_column(title, column) for title, column in zip(titles, texts, strict=True)],
        footnotes=["Memory in MiB of a process, predicted; - where the paper prints none.", *explained],
    )


def _beside_the_paper(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What stands in the columns of ``memory_table``."""
    share, printed = record["params_percent"], record["paper_params_percent"]
    memory, paper_mb = record["paper_setting_memory_mb"], record["paper_memory_mb"]
    off = None if paper_mb is None else 100 * (memory / paper_mb - 1)
    return (
        f"{share:.2f}" + ("*" if printed is not None and f"{printed:.2f}" != f"{share:.2f}" else " "),
        "-" if printed is None else f"{printed:g}",
        f"{memory:,.0f}",
        "-" if paper_mb is None else f"{paper_mb:,.0f}",
        "-" if off is None else f"{off:+.1f}" + ("*" if abs(off) > 3 else " "),
        f"{record['memory_mb']:,.0f}",
    )


def paper_text(name: MemoryTable, *, as_json: bool) -> str:
    """A memory table of the paper beside the prediction."""
    records = list(each(paper_record, paper_rows(name)))
    return json.dumps(records, indent=1) if as_json else typeset(memory_table(name, records), "text")
