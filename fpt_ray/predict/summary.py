"""What a prediction came to, for people: how many images were called what and, where labels are known, how rightly."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from fpt_ray.config.tasks import TITLES
from fpt_ray.display.typesetting import Table, text_column, typeset
from fpt_ray.metrics.intervals import bootstrap, interval
from fpt_ray.metrics.operating_points import rates
from fpt_ray.metrics.scores import MetricError, scores
from fpt_ray.predict.answers import probability_columns
from fpt_ray.train.bundle import Bundle

_SHOWN = 5
"""Of the images that could not be read."""


def summary_text(table: pa.Table, bundle: Bundle, labels: np.ndarray | None, out: str) -> str:
    """All of it, of the rows that were written; ``labels`` are as a network learns them."""
    lines = []
    if "class" in table.column_names and bundle.target.task != "multilabel":
        called = table["class"].to_pylist()
        images = [str(called.count(name)) for name in bundle.target.classes]
        counts = Table(heading="class", labels=list(bundle.target.classes), columns=[text_column("images", images)])
        lines.append(typeset(counts, "text"))
    errors = table["error"].to_pylist()
    read = np.array([not error for error in errors])
    if labels is not None and read.any():
        lines += _how_rightly(said_in(table.filter(pa.array(read)), bundle), labels[read], bundle)
    lines += _unread([(path, error) for path, error in zip(table["path"].to_pylist(), errors, strict=True) if error])
    return "\n".join([*lines, f"written to {out}"])


def said_in(table: pa.Table, bundle: Bundle) -> Float[np.ndarray, "N C"]:
    """The probabilities, or the value, of rows that were written."""
    return np.stack([table[name].to_numpy() for name in probability_columns(bundle.target)], axis=1)


def _how_rightly(said: Float[np.ndarray, "N C"], labels: np.ndarray, bundle: Bundle) -> list[str]:
    """Scores with 95 % intervals over the images."""
    target = bundle.target
    try:
        found = scores(said, labels, target.classes, target.task)
    except MetricError as error:
        return [f"no scores: {error}"]
    drawn = bootstrap([[said]], labels, target.scores, target.task)
    lines = []
    for name in target.scores:
        low, high = interval(drawn[name][0])
        lines.append(f"{TITLES[name]} {found[name]:.4f} ({low:.4f} to {high:.4f})")
    for name, threshold in bundle.thresholds.items():
        at = rates(said[:, 1], labels == 1, threshold)
        lines.append(f"{name} ({threshold:.4f}): sensitivity {at.sensitivity:.4f}, specificity {at.specificity:.4f}")
    return lines


def _unread(failed: Sequence[tuple[str, str]]) -> list[str]:
    if not failed:
        return []
    more = [f"  and {len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
    images = "1 image" if len(failed) == 1 else f"{len(failed)} images"
    return [f"{images} could not be read:", *(f"  {path}: {error}" for path, error in failed[:_SHOWN]), *more]
