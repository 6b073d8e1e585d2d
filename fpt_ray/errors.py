"""What the user can mend, told in one line."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A value the user gave cannot be used. The message names the field, the value and the remedy.

    ``fields`` are the names of what would mend it, such as ``backbone.weights`` or ``resume``. The command at hand adds
    how they are set there.
    """

    def __init__(self, *message: str, fields: Iterable[str] = ()) -> None:
        super().__init__(*message)
        self.fields = tuple(fields)


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The known name that looks most like a mistyped one, offered; where none does, all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
