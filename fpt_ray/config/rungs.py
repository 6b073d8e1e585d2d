"""The rungs of a ladder, as values: a search that begins with cheap methods, and lets what they find lead the dear."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fpt_ray.config.trial import Value


@dataclass(frozen=True, kw_only=True, slots=True)
class Rung:
    """Some trials of a search, one after the other with those of other rungs, over a part of its space."""

    num_trials: int
    fixed: Mapping[str, Value] = field(default_factory=dict)
    """Rows of the space and the one value that each has in this rung."""
    narrow: tuple[str, ...] = ()
    """Rows that keep to the values of the best trials of the rungs below, by their validation score."""
    best: int = 2
    """How many of those; each is a first point of this rung."""

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.fixed.items()) or "the whole space"
