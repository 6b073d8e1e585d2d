"""Reads search spaces from YAML: every key, name and value is checked here, once, and errors say what to write."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from fpt_ray.config.dotted import coerce, field_types
from fpt_ray.config.objectives import KNOWN_BEFORE, OBJECTIVES, Limit, Mode, no_costs_of
from fpt_ray.config.row_yaml import read_row
from fpt_ray.config.rungs import Rung
from fpt_ray.config.space import EARLY_STOPPING, POINT, SAMPLERS, SearchRow, SearchSpace
from fpt_ray.config.space_files import find_space, known_spaces
from fpt_ray.config.tasks import SHARES
from fpt_ray.config.trial import TrialConfig, override
from fpt_ray.errors import ConfigError, nearest_name

_SPACE_KEYS = (
    "space",
    "points",
    "fixed",
    "objectives",
    "constraints",
    "sampler",
    "early_stopping",
    "grace_epochs",
    "num_trials",
    "seed",
    "repeats",
    "choose",
    "rungs",
)
_PICKING = "training.select_by"
_RUNG_KEYS = ("num_trials", "fixed", "narrow", "best")


def load_space(space: str | Path) -> SearchSpace:
    """Reads a search space: a YAML file, or one of the package's by its name, such as ``paper``.

    Raises:
        ConfigError: with the file, the key, the value and what to write instead.
    """
    path = find_space(space)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        offer = f"; fpt_ray has one named {path.stem!r}" if path.stem in known_spaces() else ""
        raise ConfigError(f"{path}: the search space cannot be read ({error}){offer}") from None
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
    rows = tuple(read_row(str(name), row) for name, row in _mapping(document, "space").items())
    names = [row.name for row in rows]
    points = {name: _point(name, given) for name, given in _mapping(document, "points").items()}
    pointed = {name for overrides in points.values() for name in overrides}
    for row in rows:
        for other in row.when:
            if other not in pointed and other not in names[: names.index(row.name)]:
                raise ConfigError(f"space.{row.name}.when: {other!r} must be a row that stands above it")
    space = SearchSpace(
        rows=rows,
        objectives=_objectives(document),
        constraints=_constraints(document),
        early_stopping=str(document.get("early_stopping") or "none"),
        grace_epochs=coerce("grace_epochs", document.get("grace_epochs", 3), int),
        fixed=_mapping(document, "fixed"),
        sampler=str(document.get("sampler", "tpe")),
        num_trials=coerce("num_trials", document.get("num_trials", 32), int),
        seed=coerce("seed", document.get("seed", 0), int),
        points=points,
        repeats=coerce("repeats", document.get("repeats", 1), int),
        choose=tuple(str(name) for name in document.get("choose") or ()),
        rungs=_rungs(document, {row.name: row for row in rows}),
        text=text,
    )
    _check(space)
    if space.sampler == "grid":
        return replace(space, num_trials=len(space.grid()))
    if space.rungs:
        return replace(space, num_trials=sum(rung.num_trials for rung in space.rungs))
    return space


def with_fixed(space: SearchSpace, settings: Sequence[str]) -> SearchSpace:
    """The same space with other fixed values, each given as "dotted.name=value"; a point's own value stands.

    Raises:
        ConfigError: a setting has no such form, its name is searched or unknown, or the value does not fit.
    """
    fixed = dict(space.fixed)
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"set is {setting!r}; give dotted.name=value", fields=("set",))
        try:
            fixed[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            problem = f"set is {setting!r}, whose value is no YAML; put it between quotes: {name}='\"...\"'"
            raise ConfigError(problem, fields=("set",)) from None
    said = "".join(f"\n# --set {setting}" for setting in settings)
    space = replace(space, fixed=fixed, text=space.text + said)
    _check(space)
    return space


def _point(name: str, given: Any) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise ConfigError(f"points.{name} is {given!r}; it must be a mapping from dotted names")
    return {str(key): value for key, value in given.items()}


def _check(space: SearchSpace) -> None:
    names = [row.name for row in space.rows]
    if space.num_trials < 1:
        raise ConfigError(f"num_trials is {space.num_trials}; it must be at least 1")
    if space.seed < 0:
        raise ConfigError(f"seed is {space.seed}; it must be 0 or more")
    if space.early_stopping not in EARLY_STOPPING:
        raise ConfigError(f"early_stopping is {space.early_stopping!r}; choose one of {', '.join(EARLY_STOPPING)}")
    if space.grace_epochs < 1:
        raise ConfigError(f"grace_epochs is {space.grace_epochs}; it must be at least 1")
    if space.sampler not in SAMPLERS:
        raise ConfigError(f"sampler is {space.sampler!r}; choose one of {', '.join(SAMPLERS)}")
    for name in space.fixed:
        if name in names:
            raise ConfigError(f"{name} is both searched and fixed; remove one of the two")
    base = space.base()
    if not space.rows and not space.points:
        raise ConfigError("space is empty; give at least one row, such as side.num_prompts: {choices: [8, 16]}")
    _check_points(space, names)
    _check_score(space, names)
    for row in space.rows:
        for value in row.choices if row.choices is not None else (row.low, row.high):
            try:
                override(base, {row.name: value})
            except ConfigError as error:
                raise ConfigError(f"space.{row.name}: {error}") from None


def _check_score(space: SearchSpace, names: Sequence[str]) -> None:
    if any(_PICKING in one for one in (names, *space.points.values())):
        raise ConfigError(f"{_PICKING} is the same for all trials, which it compares; give it under fixed")
    score = space.score.removeprefix("val_")
    if score not in SHARES and {"ppe", "pme"} & {*space.objectives, *space.constraints}:
        raise ConfigError(f"{_PICKING}: {no_costs_of(score)}")


def _check_points(space: SearchSpace, names: Sequence[str]) -> None:
    if space.repeats < 1:
        raise ConfigError(f"repeats is {space.repeats}; it must be at least 1")
    for name in space.choose:
        if name not in names or space.sampler != "grid":
            raise ConfigError(f"choose: {name!r} must be a row of the space, and the sampler grid")
    for point, overrides in space.points.items():
        for name in overrides:
            if name in names:
                raise ConfigError(f"points.{point}: {name} is also a row of the space; remove one of the two")
        try:
            space.trial({POINT: point})
        except ConfigError as error:
            raise ConfigError(f"points.{point}: {error}") from None


def _rungs(document: Mapping[str, Any], rows: Mapping[str, SearchRow]) -> tuple[Rung, ...]:
    given = document.get("rungs") or []
    if not isinstance(given, list):
        raise ConfigError(f"rungs is {given!r}; give a list of {{num_trials: .., fixed: {{..}}, narrow: [..]}}")
    for key in ("num_trials", "points"):
        if given and key in document:
            raise ConfigError(f"rungs: {key} goes without them; each rung says its num_trials and what it fixes")
    if given and document.get("sampler") == "grid":
        raise ConfigError("rungs: a grid has none; choose another sampler")
    return tuple(_rung(f"rungs[{number}]", rung, rows, first=number == 0) for number, rung in enumerate(given))


def _rung(where: str, given: Any, rows: Mapping[str, SearchRow], *, first: bool) -> Rung:
    if not isinstance(given, dict) or "num_trials" not in given:
        raise ConfigError(f"{where} is {given!r}; give {{num_trials: .., fixed: {{..}}, narrow: [..]}}")
    for key in given:
        if key not in _RUNG_KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest_name(str(key), _RUNG_KEYS)}")
    fixed, leaves = {}, field_types(TrialConfig)
    for name, value in _mapping(given, "fixed").items():
        if name not in rows or not rows[name].holds(coerce(f"{where}.fixed.{name}", value, leaves[name])):
            raise ConfigError(f"{where}.fixed: {name} {value!r} is no value of a row of the space")
        fixed[name] = coerce(name, value, leaves[name])
    narrow = tuple(str(name) for name in given.get("narrow") or ())
    for name in narrow:
        if first or name not in rows or name in fixed or rows[name].choices is None:
            remedy = "it must be a row of the space with choices, not fixed here, and a rung must stand below"
            raise ConfigError(f"{where}.narrow: {name!r}: {remedy}")
    rung = Rung(
        num_trials=coerce(f"{where}.num_trials", given["num_trials"], int),
        fixed=fixed,
        narrow=narrow,
        best=coerce(f"{where}.best", given.get("best", 2), int),
    )
    if min(rung.num_trials, rung.best) < 1:
        raise ConfigError(f"{where}: num_trials is {rung.num_trials}, best {rung.best}; give 1 or more")
    return rung


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


def _constraints(document: Mapping[str, Any]) -> Mapping[str, Limit]:
    limits, known = {}, sorted({*OBJECTIVES, *KNOWN_BEFORE})
    for name, given in _mapping(document, "constraints").items():
        if name not in known:
            raise ConfigError(f"constraints: unknown name {name!r}; {nearest_name(name, known)}")
        if not isinstance(given, dict) or not given or set(given) - {"min", "max"}:
            raise ConfigError(f"constraints.{name} is {given!r}; give {{max: ..}} or {{min: ..}}")
        low, high = (coerce(f"constraints.{name}.{end}", given.get(end), float | None) for end in ("min", "max"))
        limits[name] = Limit(low=low, high=high)
    return limits
