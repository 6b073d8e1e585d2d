"""What a study searches, as a value: rows over dotted names, objectives and fixed overrides, read from YAML."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from fpt_ray.config import (
    ConfigError,
    TrialConfig,
    Value,
    coerce,
    field_types,
    flatten,
    nearest_name,
    override,
    trial_from,
)

Mode = Literal["max", "min"]

OBJECTIVES: Mapping[str, Mode] = {
    "val_auc": "max",
    "ppe": "max",
    "pme": "max",
    "param_ratio": "min",
    "memory_ratio": "min",
}
SAMPLERS = ("tpe", "nsga2", "random")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRow:
    """One searched dotted name: a range or a list of choices, perhaps conditional on another row."""

    name: str
    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = None
    log: bool = False
    choices: tuple[Value, ...] | None = None
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def active(self, values: Mapping[str, Any]) -> bool:
        """Whether the rows this one depends on have a value it wants."""
        return all(values.get(other) in wanted for other, wanted in self.when.items())

    def widest(self) -> Any:
        """The largest value this row can take."""
        if self.choices is not None:
            return max((choice for choice in self.choices if choice is not None), default=None)
        return self.values()[-1] if self.step is not None else self.high

    def values(self) -> tuple[Any, ...]:
        """All values of a finite row; ConfigError for a continuous one."""
        if self.choices is not None:
            return self.choices
        if self.step is None or self.low is None or self.high is None:
            raise ConfigError(f"{self.name} is searched continuously; give it {{choices: [...]}} or a step")
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(type(self.low)(self.low + i * self.step) for i in range(count))


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """What a study searches: rows, objectives, and what is fixed for all its trials."""

    rows: tuple[SearchRow, ...]
    objectives: Mapping[str, Mode]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    sampler: str = "tpe"
    num_trials: int = 32
    seed: int = 0
    text: str = ""
    """The YAML it was read from."""

    def base(self) -> TrialConfig:
        """The trial all proposals are overrides of."""
        return trial_from(self.fixed)

    def trial(self, values: Mapping[str, Any]) -> TrialConfig:
        """The trial a proposal {dotted name: value} stands for."""
        return override(self.base(), values)

    def widest(self, name: str) -> Any:
        """The largest value of a dotted name over the space, searched or fixed."""
        for row in self.rows:
            if row.name == name:
                return max(row.widest(), flatten(self.base())[name]) if row.when else row.widest()
        return flatten(self.base())[name]

    def values_of(self, name: str) -> tuple[Any, ...]:
        """All values of a dotted name over the space, searched or fixed."""
        fixed = flatten(self.base())[name]
        for row in self.rows:
            if row.name == name:
                return tuple(dict.fromkeys((*row.values(), fixed))) if row.when else row.values()
        return (fixed,)

    def stores(self) -> tuple[TrialConfig, ...]:
        """The widest trial for each feature store the space needs: one for every high resolution and importance."""
        bounds = ("features.token_ratio", "side.depth", "side.resolution", "side.num_prompts")
        wide = {name: self.widest(name) for name in bounds}
        combinations: list[dict[str, Any]] = [{}]
        for name in _STORE_FIELDS:
            combinations = [{**known, name: value} for known in combinations for value in self.values_of(name)]
        return tuple(self.trial({**wide, **which}) for which in combinations)


_STORE_FIELDS = (
    "backbone.name",
    "backbone.weights",
    "features.resolution",
    "features.importance",
    "features.dtype",
    "features.precision",
    "features.mean",
    "features.std",
)
"""Values that need a store of their own; of all others, the widest store serves the narrower trials."""
_SPACE_KEYS = ("space", "fixed", "objectives", "sampler", "num_trials", "seed")
_ROW_KEYS = ("low", "high", "step", "log", "choices", "when")


def load_space(path: str | Path) -> SearchSpace:
    """Reads a search space.

    Raises:
        ConfigError: with the file, the key, the value and what to write instead.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the search space cannot be read ({error})") from None
    try:
        return parse_space(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_space(text: str) -> SearchSpace:
    """A search space from YAML text; ConfigError where it is not one."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError("a search space is a mapping with the keys " + ", ".join(_SPACE_KEYS))
    for key in document:
        if key not in _SPACE_KEYS:
            raise ConfigError(f"unknown key {key!r}; {nearest_name(str(key), _SPACE_KEYS)}")
    rows = tuple(_row(str(name), row) for name, row in _mapping(document, "space").items())
    names = [row.name for row in rows]
    for row in rows:
        for other in row.when:
            if other not in names[: names.index(row.name)]:
                raise ConfigError(f"space.{row.name}.when: {other!r} must be a row that stands above it")
    space = SearchSpace(
        rows=rows,
        objectives=_objectives(document),
        fixed=_mapping(document, "fixed"),
        sampler=str(document.get("sampler", "tpe")),
        num_trials=coerce("num_trials", document.get("num_trials", 32), int),
        seed=coerce("seed", document.get("seed", 0), int),
        text=text,
    )
    _check(space)
    return space


def _check(space: SearchSpace) -> None:
    names = [row.name for row in space.rows]
    if space.num_trials < 1:
        raise ConfigError(f"num_trials is {space.num_trials}; it must be at least 1")
    if space.seed < 0:
        raise ConfigError(f"seed is {space.seed}; it must be 0 or more")
    if space.sampler not in SAMPLERS:
        raise ConfigError(f"sampler is {space.sampler!r}; choose one of {', '.join(SAMPLERS)}")
    for name in space.fixed:
        if name in names:
            raise ConfigError(f"{name} is both searched and fixed; remove one of the two")
    base = space.base()
    if not space.rows:
        raise ConfigError("space is empty; give at least one row, such as side.num_prompts: {choices: [8, 16]}")
    for row in space.rows:
        for value in row.choices if row.choices is not None else (row.low, row.high):
            try:
                override(base, {row.name: value})
            except ConfigError as error:
                raise ConfigError(f"space.{row.name}: {error}") from None


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{key} is {value!r}; it must be a mapping from dotted names")
    return {str(name): item for name, item in value.items()}


def _objectives(document: Mapping[str, Any]) -> Mapping[str, Mode]:
    given = _mapping(document, "objectives") or {"val_auc": "max"}
    for name, mode in given.items():
        if name not in OBJECTIVES:
            raise ConfigError(f"objectives: unknown objective {name!r}; {nearest_name(str(name), OBJECTIVES)}")
        if mode not in ("max", "min"):
            raise ConfigError(f"objectives.{name} is {mode!r}; choose max or min")
    return given


def _row(name: str, given: Any) -> SearchRow:
    leaves = field_types()
    where = f"space.{name}"
    if name not in leaves:
        raise ConfigError(f"{where}: unknown name; {nearest_name(name, leaves)}")
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
        return SearchRow(name=name, choices=tuple(coerce(where, item, leaves[name]) for item in choices), when=when)
    return _range(name, given, leaves[name], when)


def _has_values(given: Mapping[str, Any]) -> bool:
    ends = {"low", "high"} & set(given)
    return not ends if "choices" in given else len(ends) == 2


def _when(where: str, given: Any) -> dict[str, tuple[Value, ...]]:
    if not isinstance(given, dict):
        raise ConfigError(f"{where}.when is {given!r}; give {{other name: value or [values]}}")
    leaves = field_types()
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
