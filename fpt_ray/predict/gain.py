"""What answering with several bundles gains over the best of them alone, and what it costs, for people."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from fpt_ray.config.tasks import TITLES
from fpt_ray.display.units import MIB
from fpt_ray.metrics.intervals import bootstrap, interval
from fpt_ray.metrics.scores import MetricError, scores
from fpt_ray.predict.ensemble import lpm_passes
from fpt_ray.train.bundle import Bundle


def cost_text(bundles: Sequence[Bundle]) -> str:
    """What all bundles took, against the first alone: parameters, memory and time of training, looks at an image."""
    networks = sum(len(bundle.states) for bundle in bundles)
    parts = [f"cost: {len(bundles)} bundles with {networks} networks"]
    for title, name, unit, figures in (
        ("learnt parameters", "learnable_parameters", 1, "{:,.0f}"),
        ("peak memory of training in MiB", "peak_memory_bytes", MIB, "{:,.0f}"),
        ("seconds of training", "fit_seconds", 1, "{:,.1f}"),
    ):
        if all(name in bundle.metrics for bundle in bundles):
            whole, best = (sum(one.metrics[name] for one in some) / unit for some in (bundles, bundles[:1]))
            parts.append(f"{title} {figures.format(whole)} in sum ({figures.format(best)} of the best alone)")
    parts.append(f"the ViT looks {lpm_passes(bundles)} times at an image for its features ({lpm_passes(bundles[:1])})")
    return "; ".join(parts)


def gain_lines(
    said: Float[np.ndarray, "N C"], of_best: Float[np.ndarray, "N C"], labels: np.ndarray, bundle: Bundle
) -> list[str]:
    """Each score's difference from the best member's, on the same images and resamples."""
    target = bundle.target
    try:
        ours, best = (scores(one, labels, target.classes, target.task) for one in (said, of_best))
    except MetricError:
        return []
    drawn = bootstrap([[said], [of_best]], labels, target.scores, target.task)
    lines = []
    for name in target.scores:
        low, high = interval(drawn[name][0] - drawn[name][1])
        lines.append(
            f"{TITLES[name]} of the best member alone {best[name]:.4f}, "
            f"of all more by {ours[name] - best[name]:+.4f} ({low:+.4f} to {high:+.4f})"
        )
    return lines
