"""The door of a room: its command line is parsed and run, and what the user got wrong is said in one line.

A module ``<room>/command.py`` has ``Command``, the type of its options, and ``run``, which takes them; or it has
``VERBS``, functions by the verbs that call them; or both, and then a verb is the first word. ``ACTIONS`` are flags that
need no other option. Each may return an exit status.
"""

import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

from fpt_ray.display.terminal import run_command
from fpt_ray.errors import ConfigError


def open_door(command: ModuleType, prog: str, arguments: Sequence[str] | None = None) -> None:
    """Parses the command line of a room's command and runs it; what goes wrong ends the process.

    ``prog`` is the command as it was started, for its help. Default of ``arguments``: those of this process.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    run_command(partial(_parse_and_run, command, prog, given), partial(with_flags, options=_options(command, given)))


def _parse_and_run(command: ModuleType, prog: str, arguments: Sequence[str]) -> int | None:
    import tyro  # a library that nobody needs who calls the package from Python

    actions: Mapping[str, Callable[[], int | None]] = getattr(command, "ACTIONS", {})
    for flag in arguments:
        if flag in actions:
            return actions[flag]()
    settings: dict[str, Any] = {"prog": prog, "description": command.__doc__, "args": arguments}
    if _has_verb(command, arguments):
        return tyro.extras.subcommand_cli_from_dict(dict(command.VERBS), use_underscores=True, **settings)
    return command.run(tyro.cli(command.Command, use_underscores=True, **settings))


def _has_verb(command: ModuleType, arguments: Sequence[str]) -> bool:
    """Whether a command line is that of a verb; where there are verbs alone, every one is."""
    verbs: Mapping[str, Any] = getattr(command, "VERBS", {})
    return bool(verbs) and (not hasattr(command, "Command") or (*arguments, "")[0] in verbs)


# --- how a field is set -------------------------------------------------------------------------------------------


def with_flags(error: ConfigError, options: object) -> str:
    """The error in one line, with the flags among these options that mend it."""
    flags = [flag for field in error.fields if (flag := flag_of(field, options))]
    return f"{error} (here: {', '.join(flags)})" if flags else str(error)


def flag_of(field: str, options: object) -> str | None:
    """How a field is set among the options of a dataclass or a function; None where they have no way."""
    kinds = _flags(options)
    if field in kinds:
        return f"--{field}" if kinds[field] is bool else f"--{field} ..."
    return f"--set {field}=..." if "." in field and "set" in kinds else None


def _options(command: ModuleType, arguments: Sequence[str]) -> object:
    """What has the options of this command line: a dataclass, or the function of its verb."""
    verbs: Mapping[str, Callable[..., Any]] = command.VERBS if _has_verb(command, arguments) else {}
    return next((verbs[word] for word in arguments if word in verbs), getattr(command, "Command", None))


def _flags(options: object) -> dict[str, Any]:
    """{flag without dashes: type}; a configuration among the options lends them its own names."""
    if not (dataclasses.is_dataclass(options) or inspect.isfunction(options)):
        return {}  # subcommands, whose options are positional
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(options).items():
        found |= _leaves(hint, "") if dataclasses.is_dataclass(hint) else {name: hint}
    return found


def _leaves(kind: Any, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind).items():
        nested = dataclasses.is_dataclass(hint)
        found |= _leaves(hint, f"{prefix}{name}.") if nested else {f"{prefix}{name}": hint}
    return found
