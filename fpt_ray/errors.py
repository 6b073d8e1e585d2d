"""errors."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A value the user gave cannot be used. The message names the field, the value and the remedy."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not known: the known one it may stand for, else all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
