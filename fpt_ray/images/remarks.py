"""What is told of images that can be used, and yet may not be what one thinks; a line for all of a kind."""

from collections.abc import Callable, Sequence

from fpt_ray.config.preparation import Preparation
from fpt_ray.errors import ConfigError
from fpt_ray.images.picture import Facts

Told = tuple[str, Facts]
"""The path of an image, and what its file holds."""
_FAINT = 0.25
"""An image whose values span less than this share of what their type can hold is told: so few grey levels are left."""


def remarks(images: Sequence[Told], preparation: Preparation) -> list[str]:
    """A line for each kind of image that is worth a look, with how many there are, and one of them.

    Raises:
        ConfigError: the window of the files is asked for, and some have none.
    """
    side = preparation.resolution
    _require_windows(images, preparation)
    full = preparation.intensity == "full"
    lines = (
        _line(
            images,
            lambda facts: full and is_faint(facts),
            lambda facts: f"has {facts.low:g}..{facts.high:g} of {facts.black:g}..{facts.white:g}",
            f"hold less than {_FAINT:.0%} of the values that their type can; give features.intensity percentile, or "
            "window with features.window (centre and width)",
        ),
        _line(
            images,
            lambda facts: min(facts.width, facts.height) < side,
            lambda facts: f"is {facts.width}x{facts.height}",
            f"are smaller than features.resolution ({side}) and are enlarged",
        ),
        _line(images, lambda facts: facts.one_colour, lambda facts: f"is {facts.low:g}", "are of one colour"),
    )
    return [line for line in lines if line]


def is_faint(facts: Facts) -> bool:
    """Whether grey values of more than 8 bits span a small part of what their type can hold."""
    whole = facts.white - facts.black
    return whole > 255 and not facts.one_colour and facts.high - facts.low < _FAINT * whole


def _line(images: Sequence[Told], is_meant: Callable[[Facts], bool], detail: Callable[[Facts], str], what: str) -> str:
    found = [(path, facts) for path, facts in images if is_meant(facts)]
    if not found:
        return ""
    path, facts = found[0]
    return f"{len(found)} of {len(images)} images {what}; such as {path}, which {detail(facts)}"


def _require_windows(images: Sequence[Told], preparation: Preparation) -> None:
    lacking = [path for path, facts in images if not facts.window]
    if preparation.intensity == "window" and preparation.window is None and lacking:
        raise ConfigError(
            f"features.intensity is window, and {len(lacking)} images have none of their own, such as {lacking[0]}; "
            "give features.window (centre and width), or take percentile",
            fields=("features.window", "features.intensity"),
        )
