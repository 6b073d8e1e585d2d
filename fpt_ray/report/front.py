"""The front of a study: the trials that no other dominates, and the table of them."""

from collections.abc import Mapping, Sequence

import numpy as np

from fpt_ray.config.objectives import Limit, Mode
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


def front_table(front: Sequence[TrialRecord], searched: Sequence[str]) -> list[dict[str, object]]:
    """One row a member of the front, by predicted memory; PPE and PME are of the test AUC where there is one."""
    rows = []
    measured = any("measured_peak_memory_bytes" in record.metrics for record in front)
    for record in sorted(front, key=lambda record: (record.metrics["peak_memory_bytes"], record.number)):
        metrics = record.metrics
        score = metrics.get("test_auc", metrics["val_auc"])
        row: dict[str, object] = {
            "trial": record.number,
            **{name: record.params[name] for name in searched},
            "val_auc": metrics["val_auc"],
            "test_auc": metrics.get("test_auc"),
            "param_ratio": metrics["param_ratio"],
            "memory_ratio": metrics["memory_ratio"],
            "ppe": ppe(score, metrics["param_ratio"]),
            "pme": pme(score, metrics["memory_ratio"]),
            "peak_memory_bytes": metrics["peak_memory_bytes"],
        }
        if measured:
            row["measured_peak_memory_bytes"] = metrics.get("measured_peak_memory_bytes")
        rows.append(row)
    return rows
