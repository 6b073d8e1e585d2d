"""The front of a study: the trials that no other dominates, and the table of them."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fpt_ray.config.objectives import Limit, Mode
from fpt_ray.config.tasks import SHARES
from fpt_ray.metrics.pareto import pareto_front
from fpt_ray.metrics.scores import pme, ppe
from fpt_ray.tracking.records import TrialRecord, counted


def front_of(
    records: Sequence[TrialRecord], objectives: Mapping[str, Mode], constraints: Mapping[str, Limit]
) -> list[TrialRecord]:
    """The trials that count (see ``counted``) and that no other of these dominates in the study's objectives."""
    finished = counted(records, constraints, objectives)
    if not finished:
        return []
    points = np.array([[record.metrics[name] for name in objectives] for record in finished], np.float64)
    on_front = pareto_front(points, tuple(objectives.values()))
    return [record for record, is_on in zip(finished, on_front, strict=True) if is_on]


def front_table(
    front: Sequence[TrialRecord], searched: Sequence[str], score: str = "auc", objectives: Iterable[str] = ()
) -> list[dict[str, object]]:
    """One row a member of the front, by predicted memory; PPE and PME are of the test score where there is one."""
    rows = []
    measured = any("measured_peak_memory_bytes" in record.metrics for record in front)
    for record in sorted(front, key=lambda record: (record.metrics["peak_memory_bytes"], record.number)):
        metrics = record.metrics
        reached = metrics.get(f"test_{score}", metrics[f"val_{score}"])
        row: dict[str, object] = {
            "trial": record.number,
            **{name: record.params[name] for name in searched},
            f"val_{score}": metrics[f"val_{score}"],
            f"test_{score}": metrics.get(f"test_{score}"),
            **{name: metrics[name] for name in objectives if name.startswith("val_") and name != f"val_{score}"},
            "param_ratio": metrics["param_ratio"],
            "memory_ratio": metrics["memory_ratio"],
            "ppe": ppe(reached, metrics["param_ratio"]) if score in SHARES else None,
            "pme": pme(reached, metrics["memory_ratio"]) if score in SHARES else None,
            "peak_memory_bytes": metrics["peak_memory_bytes"],
        }
        if measured:
            row["measured_peak_memory_bytes"] = metrics.get("measured_peak_memory_bytes")
        rows.append(row)
    return rows
