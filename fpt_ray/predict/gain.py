"""What answering with several bundles gains over the best of them alone, and what it costs, for people."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from fpt_ray.config.tasks import TITLES
from fpt_ray.display.sums import costs_in_sum
from fpt_ray.metrics.gain import gains
from fpt_ray.metrics.scores import MetricError
from fpt_ray.predict.ensemble import lpm_passes
from fpt_ray.train.bundle import Bundle


def cost_text(bundles: Sequence[Bundle]) -> str:
    """What all bundles took, against the first alone: parameters, memory and time of training, looks at an image."""
    networks = sum(len(bundle.states) for bundle in bundles)
    looks = f"the ViT looks {lpm_passes(bundles)} times at an image for its features ({lpm_passes(bundles[:1])})"
    parts = [f"cost: {len(bundles)} bundles with {networks} networks"]
    return "; ".join([*parts, *costs_in_sum([bundle.metrics for bundle in bundles]), looks])


def gain_lines(
    said: Float[np.ndarray, "N C"], of_best: Float[np.ndarray, "N C"], labels: np.ndarray, bundle: Bundle
) -> list[str]:
    """Each score's difference from the best member's, on the same images and resamples."""
    target = bundle.target
    try:
        found = gains(said, of_best, labels, target.classes, target.scores, target.task)
    except MetricError:
        return []
    return [
        f"{TITLES[name]} of the best member alone {one.alone:.4f}, difference of all from it "
        f"{one.difference.value:+.4f} ({one.difference.low:+.4f} to {one.difference.high:+.4f})"
        for name, one in found.items()
    ]
