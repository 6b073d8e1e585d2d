"""Trials that were trained again with new seeds: which they are, and which of them differ beyond chance in test AUC."""

from collections.abc import Sequence

from fpt_ray.tracking.records import TrialRecord


def confirming(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The finished trials that confirm others, best validation AUC first; of one that was run again, the last."""
    finished = {
        record.tags["of"]: record
        for record in records
        if record.tags.get("stage") == "confirm" and record.complete and "val_auc" in record.metrics
    }
    return sorted(finished.values(), key=lambda record: (-record.metrics["val_auc"], record.number))


def reference(confirmed: Sequence[TrialRecord]) -> TrialRecord:
    """The one that all others are compared with: the best by validation AUC over the new seeds."""
    return max(confirmed, key=lambda record: (record.metrics["val_auc"], -record.number))


def verdict(record: TrialRecord, best: TrialRecord) -> str:
    """Whether the difference in test AUC is told apart from none: its 95 % interval leaves out 0."""
    against = f"trial {best.tags['of']}"
    low, high = (record.metrics.get(f"difference_{end}") for end in ("low", "high"))
    if record is best:
        return "best by validation AUC"
    if low is None or high is None:
        return f"not compared with {against}"
    return f"differs from {against} beyond chance" if low > 0 or high < 0 else f"not told apart from {against}"


def confirmed_table(records: Sequence[TrialRecord], searched: Sequence[str]) -> list[dict[str, object]]:
    """One row a confirmed trial, under the number of the trial it confirms; validation AUC is of the new seeds too."""
    confirmed = [record for record in confirming(records) if "test_auc" in record.metrics]
    if not confirmed:
        return []
    best = reference(confirmed)
    rows: list[dict[str, object]] = []
    for record in confirmed:
        metrics = record.metrics
        rows.append(
            {
                "trial": record.tags["of"],
                **{name: record.params[name] for name in searched},
                "val_auc": metrics["val_auc"],
                "test_auc": metrics["test_auc"],
                "test_auc_std": metrics.get("test_auc_std"),
                "test_auc_low": metrics["test_auc_low"],
                "test_auc_high": metrics["test_auc_high"],
                "verdict": verdict(record, best),
            }
        )
    return rows


def most_seeds(records: Sequence[TrialRecord]) -> int:
    """New seeds of a confirmed trial, the most; 0 where there is none."""
    return max((int(record.tags["seeds"]) for record in confirming(records)), default=0)
