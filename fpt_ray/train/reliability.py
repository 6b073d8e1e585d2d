"""The reliability diagram of a bundle: how often a model is right, against how sure it is, before and after."""

import io
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

from fpt_ray.display.charts import BLUE, GREY
from fpt_ray.metrics.calibration import BINS, Bin
from fpt_ray.metrics.intervals import LEVEL


def reliability_diagram(by_title: Mapping[str, Sequence[Bin]], counted: str) -> bytes:
    """A picture (PNG) with a column for each model.

    Above stands the share that is right in each bin of confidence with its 95 % interval (Wilson), below the count.

    Args:
        by_title: the bins of each model.
        counted: what the bins hold, such as "test images".
    """
    figure = Figure(figsize=(4.6 * len(by_title), 5.4), dpi=120, layout="constrained")
    axes = figure.subplots(
        2, len(by_title), sharex=True, sharey="row", squeeze=False, gridspec_kw={"height_ratios": (3, 1)}
    )
    most = max(one.images for bins in by_title.values() for one in bins)
    for column, (title, bins) in enumerate(by_title.items()):
        above, below = axes[:, column]
        above.set_title(title, fontsize=11)
        _draw_shares(above, bins)
        _draw_counts(below, bins, most)
    axes[0, 0].set_ylabel("share that is right")
    axes[1, 0].set_ylabel(counted)
    axes[0, 0].legend(loc="upper left", fontsize=9, frameon=False)
    figure.supxlabel("probability of the predicted class (mean of the bin)", fontsize=10)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", metadata={"Title": "Reliability diagram", "Software": None})
    return sink.getvalue()


def _draw_shares(axes: Axes, bins: Sequence[Bin]) -> None:
    shares = [one.right / one.images for one in bins]
    ends = [binomtest(one.right, one.images).proportion_ci(LEVEL, method="wilson") for one in bins]
    lengths = [
        [max(0.0, share - end.low) for share, end in zip(shares, ends, strict=True)],
        [max(0.0, end.high - share) for share, end in zip(shares, ends, strict=True)],
    ]
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as sure as right")
    axes.errorbar(
        [one.confidence for one in bins],
        shares,
        yerr=lengths,
        color=BLUE,
        marker="o",
        linewidth=1,
        capsize=2,
        label="this model, with 95 % intervals",
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)


def _draw_counts(axes: Axes, bins: Sequence[Bin], most: int) -> None:
    middles = [(min(int(one.confidence * BINS), BINS - 1) + 0.5) / BINS for one in bins]
    axes.bar(middles, [one.images for one in bins], width=0.9 / BINS, color=BLUE, alpha=0.6)
    for middle, one in zip(middles, bins, strict=True):
        axes.text(middle, one.images + 0.04 * most, str(one.images), ha="center", fontsize=7)
    axes.set_ylim(0, 1.3 * most)
