"""Trials that were trained again with new seeds: which they are, and which of them differ beyond chance."""

from collections.abc import Sequence

from fpt_ray.config.tasks import TITLES
from fpt_ray.tracking.records import TrialRecord


def confirming(records: Sequence[TrialRecord], score: str = "auc") -> list[TrialRecord]:
    """The finished trials that confirm others, best validation score first; of one that was run again, the last."""
    finished = {
        record.tags["of"]: record
        for record in records
        if record.tags.get("stage") == "confirm" and record.complete and f"val_{score}" in record.metrics
    }
    return sorted(finished.values(), key=lambda record: (-record.metrics[f"val_{score}"], record.number))


def reference(confirmed: Sequence[TrialRecord], score: str = "auc") -> TrialRecord:
    """The one that all others are compared with: the best by validation score over the new seeds."""
    return max(confirmed, key=lambda record: (record.metrics[f"val_{score}"], -record.number))


def verdict(record: TrialRecord, best: TrialRecord, score: str = "auc") -> str:
    """Whether the difference in test score is told apart from none: its 95 % interval leaves out 0."""
    against = f"trial {best.tags['of']}"
    low, high = (record.metrics.get(f"difference_{end}") for end in ("low", "high"))
    if record is best:
        return f"best by validation {TITLES[score]}"
    if low is None or high is None:
        return f"not compared with {against}"
    return f"differs from {against} beyond chance" if low > 0 or high < 0 else f"not told apart from {against}"


def confirmed_table(
    records: Sequence[TrialRecord], searched: Sequence[str], score: str = "auc"
) -> list[dict[str, object]]:
    """One row a confirmed trial, under the number of the trial it confirms; validation is of the new seeds too."""
    confirmed = [record for record in confirming(records, score) if f"test_{score}" in record.metrics]
    if not confirmed:
        return []
    best = reference(confirmed, score)
    rows: list[dict[str, object]] = []
    for record in confirmed:
        metrics = record.metrics
        rows.append(
            {
                "trial": record.tags["of"],
                **{name: record.params[name] for name in searched},
                f"val_{score}": metrics[f"val_{score}"],
                **{f"test_{score}{end}": metrics.get(f"test_{score}{end}") for end in ("", "_std", "_low", "_high")},
                "verdict": verdict(record, best, score),
            }
        )
    return rows


def most_seeds(records: Sequence[TrialRecord], score: str = "auc") -> int:
    """New seeds of a confirmed trial, the most; 0 where there is none."""
    return max((int(record.tags["seeds"]) for record in confirming(records, score)), default=0)
