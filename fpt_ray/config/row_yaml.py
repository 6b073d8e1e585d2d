"""The rows of a search space, as YAML has them: what is searched, and within which values."""

from collections.abc import Mapping
from typing import Any

from fpt_ray.config.dotted import coerce, field_types, unknown_name
from fpt_ray.config.space import SearchRow
from fpt_ray.config.trial import TrialConfig, Value
from fpt_ray.errors import ConfigError, nearest_name

_ROW_KEYS = ("low", "high", "step", "log", "choices", "when")


def read_row(name: str, given: Any) -> SearchRow:
    """The row of a dotted name; ConfigError where it is none."""
    leaves = field_types(TrialConfig)
    where = f"space.{name}"
    if name not in leaves:
        raise ConfigError(f"{where}: unknown name; {unknown_name(name, leaves)}")
    if not isinstance(given, dict) or not _has_values(given):
        forms = "{low: .., high: ..[, step: ..|log: true]} or {choices: [..]}"
        raise ConfigError(f"{where} is {given!r}; give {forms}")
    for key in given:
        if key not in _ROW_KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest_name(str(key), _ROW_KEYS)}")
    when = _when(where, given.get("when") or {})
    if "choices" in given:
        choices = given["choices"]
        if not isinstance(choices, list) or not choices:
            raise ConfigError(f"{where}.choices is {choices!r}; the range is empty, give at least one value")
        found = tuple(coerce(where, item, leaves[name]) for item in choices)
        if any(isinstance(one, tuple) for one in found):  # which Optuna's storages give back as a list, or as text
            raise ConfigError(f"{where}: {name} is several numbers, which no row chooses among; give points with each")
        return SearchRow(name=name, choices=found, when=when)
    return _range(name, given, leaves[name], when)


def _has_values(given: Mapping[str, Any]) -> bool:
    ends = {"low", "high"} & set(given)
    return not ends if "choices" in given else len(ends) == 2


def _when(where: str, given: Any) -> dict[str, tuple[Value, ...]]:
    if not isinstance(given, dict):
        raise ConfigError(f"{where}.when is {given!r}; give {{other name: value or [values]}}")
    leaves = field_types(TrialConfig)
    conditions = {}
    for other, wanted in given.items():
        if other not in leaves:
            raise ConfigError(f"{where}.when: unknown name {other!r}; {nearest_name(str(other), leaves)}")
        values = wanted if isinstance(wanted, list) else [wanted]
        conditions[str(other)] = tuple(coerce(f"{where}.when.{other}", value, leaves[other]) for value in values)
    return conditions


def _range(name: str, given: Mapping[str, Any], hint: Any, when: Mapping[str, tuple[Value, ...]]) -> SearchRow:
    where = f"space.{name}"
    if hint not in (int, float):
        raise ConfigError(f"{where}: {name} is no number; give {{choices: [...]}}")
    low, high = (coerce(f"{where}.{end}", given[end], hint) for end in ("low", "high"))
    step = coerce(f"{where}.step", given["step"], hint) if given.get("step") is not None else None
    log = coerce(f"{where}.log", given.get("log", False), bool)
    if low > high:
        raise ConfigError(f"{where}: low {low} is above high {high}; the range is empty")
    if step is not None and (step <= 0 or log):
        raise ConfigError(f"{where}: step is {step}; it must be larger than 0 and goes without log")
    if log and low <= 0:
        raise ConfigError(f"{where}: low is {low}; a logarithmic range starts above 0")
    if hint is int and step is None and not log:
        step = 1
    return SearchRow(name=name, low=low, high=high, step=step, log=log, when=when)
