"""What a prediction came to, for people: how many images were called what and, where labels are known, how rightly."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from fpt_ray.config.tasks import TITLES
from fpt_ray.display.typesetting import Table, text_column, typeset
from fpt_ray.metrics.familiarity import UNLIKE
from fpt_ray.metrics.intervals import Estimate, bootstrap, interval
from fpt_ray.metrics.operating_points import OperatingPoint, rates_at
from fpt_ray.metrics.scores import MetricError, scores
from fpt_ray.predict.answers import probability_columns
from fpt_ray.predict.gain import cost_text, gain_lines
from fpt_ray.predict.listing import Listing, known_labels
from fpt_ray.predict.pipeline import OF_BEST
from fpt_ray.train.bundle import Bundle

_SHOWN = 5
"""Of the images that could not be read."""


def summary_text(
    table: pa.Table,
    bundle: Bundle,
    listing: Listing,
    out: str,
    others: Sequence[Bundle] = (),
    *,
    learnt: int | None = None,
) -> str:
    """All of it.

    Args:
        table: of ``predict_all``.
        bundle: what answered; of several, the best.
        listing: the images, with labels where they are known.
        out: the file that was written.
        others: what answered beside it.
        learnt: how many images the bundle was made with; None: that is not known.
    """
    lines = []
    if "class" in table.column_names and bundle.target.task != "multilabel":
        called = table["class"].to_pylist()
        images = [str(called.count(name)) for name in bundle.target.classes]
        counts = Table(heading="class", labels=list(bundle.target.classes), columns=[text_column("images", images)])
        lines.append(typeset(counts, "text"))
    errors = table["error"].to_pylist()
    if listing.labels is not None:
        lines += _of_labelled(table, bundle, listing.labels, others)
        lines += _learnt(listing, learnt)
    if others:
        lines.append(cost_text((bundle, *others)))
    lines += _unlike(table, (bundle, *others))
    lines += _unread([(path, error) for path, error in zip(table["path"].to_pylist(), errors, strict=True) if error])
    return "\n".join([*lines, f"written to {out}"])


def _of_labelled(table: pa.Table, bundle: Bundle, labels: np.ndarray, others: Sequence[Bundle]) -> list[str]:
    """What the answers are worth, by the images that were read and have a label."""
    known = known_labels(labels, bundle.target)
    kept = known & np.array([not error for error in table["error"].to_pylist()])
    lacking = int((~known).sum())
    lines = [f"{lacking} of {len(known)} images have no label, and are left out of the scores"] if lacking else []
    if not kept.any():
        return lines
    there = table.filter(pa.array(kept))
    said = said_in(there, bundle)
    lines += _how_rightly(said, labels[kept], bundle, () if others else bundle.operating_points)
    if others:
        lines += gain_lines(said, np.array(there[OF_BEST].to_pylist()), labels[kept], bundle)
    return lines


def _learnt(listing: Listing, learnt: int | None) -> list[str]:
    """Whether scores are of images that the model was made with, by their content; else what their names say of it."""
    if learnt is not None:
        text = (
            f"warning: {learnt} of {len(listing.paths)} images are training or validation images of the model, so that "
            "these scores are too good: give the test images alone"
        )
        return [text] if learnt else []
    if not listing.learnt:
        return [
            "whether the model was made with some of these images is not known, since the working directory does not "
            "hold the table of its images: scores of such images would be too good"
        ]
    return [
        f"warning: {listing.learnt} of {len(listing.paths)} images are of the splits train and val; if the model was "
        "made with them, these scores are too good: give the test images alone"
    ]


def said_in(table: pa.Table, bundle: Bundle) -> Float[np.ndarray, "N C"]:
    """The probabilities, or the value, of rows that were written."""
    return np.stack([table[name].to_numpy() for name in probability_columns(bundle.target)], axis=1)


def _how_rightly(
    said: Float[np.ndarray, "N C"], labels: np.ndarray, bundle: Bundle, points: Sequence[OperatingPoint]
) -> list[str]:
    """Scores with 95 % intervals over the images."""
    target = bundle.target
    try:
        found = scores(said, labels, target.classes, target.task)
    except MetricError as error:
        return [f"no scores: {error}"]
    drawn = bootstrap([[said]], labels, target.scores, target.task)
    estimates = {name: Estimate(found[name], *interval(drawn[name][0])) for name in target.scores}
    lines = [f"{TITLES[name]} {_shown(estimate)}" for name, estimate in estimates.items()]
    for point in points:
        at = rates_at(point, said, labels, target.classes)
        shares = (f"{name} {_shown(getattr(at, name))}" for name in ("sensitivity", "specificity"))
        lines.append(f"{point.name} ({point.threshold:.4f}): {', '.join(shares)}")
    return lines


def _shown(estimate: Estimate | None) -> str:
    return "unknown" if estimate is None else f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def _unlike(table: pa.Table, bundles: Sequence[Bundle]) -> list[str]:
    """How many images are unlike the training images, and how many of those that are like them would be called so."""
    known = next((bundle.familiarity for bundle in bundles if bundle.familiarity is not None), None)
    if known is None:
        return []
    found = table["familiarity"].drop_null().to_numpy()
    unlike = int((found < UNLIKE).sum())
    if not unlike:
        return []
    return [
        f"warning: {unlike} of {len(found)} images are unlike the training images (familiarity below {UNLIKE}; of "
        f"images like them, about {known.by_chance:.1%} are to be expected): look at them before trusting the answers"
    ]


def _unread(failed: Sequence[tuple[str, str]]) -> list[str]:
    if not failed:
        return []
    more = [f"  and {len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
    images = "1 image" if len(failed) == 1 else f"{len(failed)} images"
    return [f"{images} could not be read:", *(f"  {path}: {error}" for path, error in failed[:_SHOWN]), *more]
