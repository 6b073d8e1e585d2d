"""The best trial of a study for those who can afford less: what fits smaller budgets."""

import math
from collections.abc import Mapping, Sequence

from fpt_ray.config.objectives import Limit
from fpt_ray.tracking.records import TrialRecord, counted

_MEGABYTES = (100, 300, 1000, 3000)
_PERCENT = (0.5, 1.0, 2.0)


def what_if(
    records: Sequence[TrialRecord], searched: Sequence[str], constraints: Mapping[str, Limit], score: str = "auc"
) -> list[dict[str, object]]:
    """One row a budget, of predicted memory (MB of 10^6 bytes) or of learnable parameters (% of all).

    It is the trial of the highest validation score within the budget, of those that count (see ``counted``), and its
    searched values; all are None where none fits.
    """
    limits = [(f"{limit} MB", "peak_memory_bytes", limit * 1e6) for limit in _MEGABYTES]
    limits += [(f"{limit:g} % parameters", "param_ratio", limit / 100) for limit in _PERCENT]
    trials = counted(records, constraints, (f"val_{score}",))
    return [
        {"at most": label, **_values(_best(trials, name, limit, score), searched, score)}
        for label, name, limit in limits
    ]


def _best(records: Sequence[TrialRecord], name: str, limit: float, score: str) -> TrialRecord | None:
    """Of equally good ones the cheaper."""
    fitting = [record for record in records if record.metrics.get(name, math.inf) <= limit]
    return max(fitting, key=lambda record: (record.metrics[f"val_{score}"], -record.metrics[name]), default=None)


def _values(record: TrialRecord | None, searched: Sequence[str], score: str) -> dict[str, object]:
    shown = (f"val_{score}", "param_ratio", "peak_memory_bytes")
    return {
        "trial": record.number if record else "none fits",
        **{name: record.params[name] if record else None for name in searched},
        **{name: record.metrics.get(name) if record else None for name in shown},
    }
