"""Dotted names of nested configurations: their values and types, and values from outside as these types."""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal

from fpt_ray.errors import ConfigError, nearest_name

_RENAMED = {"training.class_weights": "loss.weights, which is none or balanced"}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as {dotted name: value}, in the order of its fields."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[prefix + item.name] = value
    return flat


def field_types(kind: type, prefix: str = "") -> dict[str, Any]:
    """{dotted name: annotated type} of every leaf of a configuration."""
    hints = typing.get_type_hints(kind)
    leaves: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            leaves |= field_types(typing.cast(type, hint), f"{prefix}{item.name}.")
        else:
            leaves[prefix + item.name] = hint
    return leaves


def unknown_name(name: str, known: Iterable[str]) -> str:
    """What to write instead of a dotted name that there is not: what has taken its place, or the nearest."""
    return f"it is now {_RENAMED[name]}" if name in _RENAMED else nearest_name(name, known)


def coerce(name: str, value: Any, hint: Any) -> Any:
    """A value from YAML, Optuna or a manifest as its field's type; ConfigError where it does not fit."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        hint = next(arg for arg in args if arg is not type(None))
        origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != len(args):
            raise ConfigError(f"{name} is {value!r}; give {len(args)} numbers")
        return tuple(coerce(name, item, arg) for item, arg in zip(value, args, strict=True))
    if isinstance(value, (list, dict)):
        raise ConfigError(f"{name} is {value!r}; it takes {_kind(hint)}")
    if hint is bool or isinstance(value, bool):
        if hint is bool and isinstance(value, bool):
            return value
        raise ConfigError(f"{name} is {value!r}; it takes {_kind(hint)}")
    try:
        converted = hint(value)
        whole = isinstance(value, str) or converted == value
        fits = whole if hint is int else hint is not float or math.isfinite(converted)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name} is {value!r}; it takes {_kind(hint)}") from None
    if not fits:
        raise ConfigError(f"{name} is {value!r}; it takes {_kind(hint)}")
    return converted


def _kind(hint: Any) -> str:
    kinds = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return kinds.get(hint, str(hint))
