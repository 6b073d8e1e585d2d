"""What several trials took together, against one of them alone, in words."""

from collections.abc import Mapping, Sequence

from fpt_ray.display.units import MIB

_COSTS = (
    ("learnable_parameters", "learnt parameters", 1, "{:,.0f}"),
    ("peak_memory_bytes", "peak memory of training in MiB", MIB, "{:,.0f}"),
    ("fit_seconds", "seconds of training", 1, "{:,.1f}"),
)


def costs_in_sum(metrics: Sequence[Mapping[str, float]]) -> list[str]:
    """Each cost that is known of all, summed over all, and that of the first alone; a text each."""
    found = []
    for name, title, unit, figures in _COSTS:
        if all(name in one for one in metrics):
            whole, alone = (sum(one[name] for one in some) / unit for some in (metrics, metrics[:1]))
            found.append(f"{title} {figures.format(whole)} in sum ({figures.format(alone)} of the best alone)")
    return found
