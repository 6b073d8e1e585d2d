"""What a study cost, and what it would have cost without the store its trials share.

The authors' code preloads once for every token ratio and depth; here one store serves them all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fpt_ray.display.typesetting import Table, text_column

_LINES = (
    ("preloading", "preload_seconds", "{:,.0f} s"),
    ("  of it for each trial", "preload_seconds_per_trial", "{:,.1f} s"),
    ("  floating-point operations", "preload_flops", "{:.3g}"),
    ("training, all trials", "fit_seconds", "{:,.0f} s"),
    ("  floating-point operations", "fit_flops", "{:.3g}"),
    ("  read by the trainers", "bytes_read", "{:.3g} bytes"),
    ("  waiting for data", "data_seconds", "{:,.1f} s"),
    ("  waiting, share of training", "data_share", "{:.1%}"),
    ("start-up of a trial, mean", "startup_seconds_per_trial", "{:,.1f} s"),
    ("without the shared store: preloads", "separate_preloads", "{:.0f}"),
    ("without the shared store: in all", "separate_seconds", "{:,.0f} s"),
    ("  against this study", "separate_ratio", "{:.1f} times as long"),
)

_STORE_SECONDS, _STORE_BYTES = "store_seconds.", "store_bytes."
"""Before the name of a store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What one trial took; seconds and operations are of all its epochs and seeds."""

    fit_seconds: float
    data_seconds: float
    startup_seconds: float
    flops: float
    bytes_read: float
    preload: tuple[object, ...]
    """What the authors' code would have to preload for it: two trials of the same value share one. Empty: nothing."""
    preload_seconds: float
    """Of the store it reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preloaded:
    """What one store took, for the images of the study."""

    name: str
    seconds: float
    """Added up over actors."""
    bytes: int


def ledger(trials: Sequence[Spent], stores: Sequence[Preloaded], preload_flops: float) -> dict[str, float]:
    """Sums over a study; seconds of training are added up, whether trials ran side by side or not."""
    preload_seconds = sum(store.seconds for store in stores)
    number = max(1, len(trials))
    fit = sum(trial.fit_seconds for trial in trials)
    waiting = sum(trial.data_seconds for trial in trials)
    startup = sum(trial.startup_seconds for trial in trials)
    separate = {trial.preload: trial.preload_seconds for trial in trials if trial.preload}
    spent = preload_seconds + fit + startup
    alone = sum(separate.values()) + fit + startup
    each = {f"{_STORE_SECONDS}{store.name}": store.seconds for store in stores}
    each |= {f"{_STORE_BYTES}{store.name}": float(store.bytes) for store in stores}
    return {
        **each,
        "preload_seconds": preload_seconds,
        "preload_seconds_per_trial": preload_seconds / number,
        "preload_flops": preload_flops,
        "fit_seconds": fit,
        "fit_flops": sum(trial.flops for trial in trials),
        "bytes_read": sum(trial.bytes_read for trial in trials),
        "data_seconds": waiting,
        "data_share": waiting / fit if fit else 0.0,
        "startup_seconds_per_trial": startup / number,
        "separate_preloads": float(len(separate)),
        "separate_seconds": alone,
        "separate_ratio": alone / spent if spent else 1.0,
    }


def ledger_table(numbers: Mapping[str, float]) -> Table:
    """The ledger's numbers that there are, each with what it is and its unit."""
    known = [(label, form.format(numbers[key])) for label, key, form in _LINES if key in numbers]
    known[1:1] = _stores(numbers)
    values = text_column("", [text for _, text in known], left=True)
    return Table(title="What the study cost", labels=[label for label, _ in known], columns=[values])


def _stores(numbers: Mapping[str, float]) -> list[tuple[str, str]]:
    """A line for each store, where there are several."""
    names = [key.removeprefix(_STORE_SECONDS) for key in numbers if key.startswith(_STORE_SECONDS)]
    lines = [
        (f"  {name}", f"{numbers[_STORE_SECONDS + name]:,.0f} s, {numbers[_STORE_BYTES + name] / 1e9:.2f} GB")
        for name in sorted(names)
    ]
    return lines if len(lines) > 1 else []
