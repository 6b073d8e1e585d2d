"""What a prediction came to, for people: how many images were called what and, where labels are known, how rightly."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from fpt_ray.display.typesetting import Table, text_column, typeset
from fpt_ray.metrics.intervals import bootstrap_aucs, interval
from fpt_ray.metrics.operating_points import rates
from fpt_ray.metrics.scores import scores
from fpt_ray.train.bundle import Bundle

_SHOWN = 5
"""Of the images that could not be read."""


def summary_text(table: pa.Table, bundle: Bundle, labels: Sequence[str] | None, out: str) -> str:
    """All of it, of the rows that were written; ``labels`` are the names of their classes."""
    called = table["class"].to_pylist()
    counts = Table(
        heading="class",
        labels=list(bundle.classes),
        columns=[text_column("images", [str(called.count(name)) for name in bundle.classes])],
    )
    lines = [typeset(counts, "text")]
    errors = table["error"].to_pylist()
    if labels is not None and "" in errors:
        known = [bundle.classes.index(label) for label, error in zip(labels, errors, strict=True) if not error]
        read = table.filter(pa.array([not error for error in errors]))
        shares = np.stack([read[f"probability_{name}"].to_numpy() for name in bundle.classes], axis=1)
        lines += _how_rightly(shares, np.array(known), bundle)
    lines += _unread([(path, error) for path, error in zip(table["path"].to_pylist(), errors, strict=True) if error])
    return "\n".join([*lines, f"written to {out}"])


def _how_rightly(probabilities: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"], bundle: Bundle) -> list[str]:
    """Scores with 95 % intervals over the images; of a class that has no image nothing can be said."""
    absent = [name for number, name in enumerate(bundle.classes) if number not in labels]
    if absent:
        accuracy = float((probabilities.argmax(axis=1) == labels).mean())
        return [f"accuracy {accuracy:.4f}; no AUC, since no image is labelled {', '.join(absent)}"]
    found = scores(probabilities, labels, bundle.classes)
    low, high = interval(bootstrap_aucs([[probabilities]], labels)[0])
    lines = [
        f"AUC {found.auc:.4f} ({low:.4f} to {high:.4f}), accuracy {found.accuracy:.4f}, F1 {found.macro_f1:.4f}, "
        f"kappa {found.kappa:.4f}"
    ]
    for name, threshold in bundle.thresholds.items():
        at = rates(probabilities[:, 1], labels == 1, threshold)
        lines.append(f"{name} ({threshold:.4f}): sensitivity {at.sensitivity:.4f}, specificity {at.specificity:.4f}")
    return lines


def _unread(failed: Sequence[tuple[str, str]]) -> list[str]:
    if not failed:
        return []
    more = [f"  and {len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
    images = "1 image" if len(failed) == 1 else f"{len(failed)} images"
    return [f"{images} could not be read:", *(f"  {path}: {error}" for path, error in failed[:_SHOWN]), *more]
