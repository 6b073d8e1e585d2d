"""The rows of a grid that were trained with several seeds, each compared with the first: such as methods of a table."""

from collections.abc import Mapping, Sequence

from fpt_ray.config.objectives import Limit
from fpt_ray.tracking.records import TrialRecord, counted

_SHOWN = (("val", ""), ("val", "_std"), ("test", ""), ("test", "_std"), ("test", "_low"), ("test", "_high"))


def compared_rows(
    records: Sequence[TrialRecord], searched: Sequence[str], constraints: Mapping[str, Limit], score: str = "auc"
) -> list[dict[str, object]]:
    """One row a trial that has an interval over images and seeds, in the order of the grid.

    The first is the reference: its difference from itself is left out.
    """
    rows: list[dict[str, object]] = []
    for record in sorted(counted(records, constraints, (f"val_{score}",)), key=lambda record: record.number):
        metrics = record.metrics
        if f"test_{score}_low" not in metrics:
            continue
        rows.append(
            {
                "trial": record.number,
                "row": record.label,
                **{name: record.params[name] for name in searched},
                **{f"{split}_{score}{end}": metrics.get(f"{split}_{score}{end}") for split, end in _SHOWN},
                **{name: metrics.get(name) for name in ("difference_low", "difference_high")},
                "learnable_parameters": metrics["learnable_parameters"],
                "seconds_per_seed": metrics["fit_seconds"] / record.seeds,
            }
        )
    return rows
