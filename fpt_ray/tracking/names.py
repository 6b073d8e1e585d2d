"""What numbers and trials are called in MLflow, whose charts have a section for what stands before a key's last slash.

Everywhere else numbers have their plain names: what writes to MLflow asks ``metric_key``, what reads ``plain_name``.
"""

from collections.abc import Mapping

from fpt_ray.config.space import POINT
from fpt_ray.config.tasks import TITLES

LEDGER = "ledger/"
"""What the keys of a study's numbers begin with that say what it cost."""
_AIM, _COST, _SCORES, _TIME, _TRAINING = "aim/", "cost/", "scores/", "time/", "training/"  # shown in this order
_SYSTEM = "system/"
"""MLflow's own: it shows these apart."""
_GROUPS = {
    **{f"val_{score}": _AIM for score in TITLES},
    "ppe": _AIM,
    "pme": _AIM,
    "learnable_parameters": _COST,
    "param_ratio": _COST,
    "memory_ratio": _COST,
    "peak_memory_bytes": _COST,
    "measured_peak_memory_bytes": _COST,
    "feature_bytes": _COST,
    "train_loss": _TRAINING,
    "epochs": _TRAINING,
    "process_cpu_percentage": _SYSTEM,
    "process_memory_megabytes": _SYSTEM,
}
_ENDINGS = {"_seconds": _TIME, "_epoch": _TRAINING}
_WORDS = {
    "side.num_prompts": "{} prompts",
    "side.resolution": "side {} px",
    "features.resolution": "{} px",
    "features.token_ratio": "{}",
    "training.learning_rate": "lr {}",
    "method": "{}",
    "backbone.name": "{}",
}
"""How a trial's title says its values; of any other field, the last part of its name stands before the value."""
_LONGEST_TITLE = 200


def metric_key(name: str, score: str = "auc") -> str:
    """A number's key, by its plain name; ``score`` is the one that picks the study's best trials.

    What a study weighs comes first: the score with PPE and PME, then memory and parameters, then all else.
    """
    if name == f"test_{score}":
        return f"{_AIM}{name}"
    group = _GROUPS.get(name) or next((group for end, group in _ENDINGS.items() if name.endswith(end)), _SCORES)
    return f"{group}{name}"


def plain_name(key: str) -> str:
    """A number's plain name, by its key."""
    return key.rpartition("/")[2]


def weighed(numbers: Mapping[str, float], score: str = "auc") -> dict[str, float]:
    """Those of a trial's numbers that a study weighs against each other: the scores, their gains, the costs.

    They are in the order in which people look at them; MLflow compares trials by the number they were told first.
    """
    order = [f"val_{score}", f"test_{score}", "ppe", "pme"]
    names = [name for name in order if name in numbers] + [name for name in numbers if name not in order]
    return {name: numbers[name] for name in names if metric_key(name, score).startswith((_AIM, _COST))}


def trial_title(number: int, values: Mapping[str, object], label: str = "", confirms: str | None = None) -> str:
    """What a trial is called where people choose among trials: its number and what it tries.

    ``values`` are those that its study varies, by dotted name; ``label`` is the name of its point; ``confirms`` is the
    number of the trial that it trains again.
    """
    again = [f"#{confirms} again"] if confirms is not None else []
    parts = [_worded(name, value) for name, value in values.items() if name != POINT]
    return " · ".join([f"#{number}", *again, *([label] if label else []), *parts])[:_LONGEST_TITLE]


def _worded(name: str, value: object) -> str:
    short = name.rpartition(".")[2]
    said = f"{value:.3g}" if isinstance(value, float) else str(value)
    if isinstance(value, float) and short.endswith("_ratio"):
        said = f"{100 * value:.3g} %"
    return _WORDS.get(name, f"{short.replace('_', ' ')} {{}}").format(said)
