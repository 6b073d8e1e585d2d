"""Remarks on what images look like: alike, of one colour, dark, small."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from fpt_ray.config.preparation import Preparation
from fpt_ray.datasets.checks.alike import HASH_BITS, MOST_BITS, look_alike, torn
from fpt_ray.datasets.checks.remark import Remark, counted, paths_of, together
from fpt_ray.errors import ConfigError
from fpt_ray.images.table import ImageTable

_FAINT = 0.25
"""Of what their type can hold: an image whose values span less is told, so few grey levels are left of it."""


def on_pictures(
    table: ImageTable, findings: pa.Table, content: Int[np.ndarray, " rows"], preparations: Sequence[Preparation]
) -> Iterator[Remark]:
    """What is to be said of the pixels. ``content``: numbers, equal where all pixels are.

    ``preparations`` are how images will be taken; none: that is not known, and their whole range is meant.
    """
    plain = _column(findings["one_colour"])
    yield from _alike(table, findings, content, ~plain)
    yield from _listed(table, plain, "{} of one colour, which show nothing; look at them, and mend or remove them")
    if any(one.intensity == "full" for one in preparations) or not preparations:
        yield from _listed(
            table,
            _fine(findings) & _faint(findings) & ~plain,
            f"{{}} of less than {_FAINT:.0%} of the values that their type can hold, as 12 bits in a file of 16 are, "
            "so that few grey levels are left; give features.intensity percentile, or window with features.window "
            "(centre and width)",
        )
    yield from _read_in_part(table, findings)
    if preparations:
        resolution = max(one.resolution for one in preparations)
        sides = np.minimum(_column(findings["width"]), _column(findings["height"]))
        yield from _listed(
            table,
            sides < resolution,
            f"{{}} with a side of fewer than the {resolution} pixels that are asked for, which are enlarged (the "
            f"smallest has {sides.min()}); a smaller features.resolution enlarges fewer",
        )


def _read_in_part(table: ImageTable, findings: pa.Table) -> Iterator[Remark]:
    """Files that hold more than is read: colours of 16 bits, several pages."""
    deep, faint = (_column(findings["bits"], 0) > 8) & ~_fine(findings), _faint(findings)
    told = "{} of colours of 16 bits, of which the upper 8 are read, whatever features.intensity is"
    yield from _listed(table, deep & ~faint, told)
    yield from _listed(
        table,
        deep & faint,
        f"{told}; they use less than {_FAINT:.0%} of these values, so that few levels are left: convert them to 8 bits "
        "over the range that they use, or to grey of 16 bits",
    )
    yield from _listed(table, _column(findings["frames"], 1) > 1, "{} of several pages, of which the first is taken")


def _fine(findings: pa.Table) -> Bool[np.ndarray, " rows"]:
    """Whether the values that are read have more than 8 bits."""
    return _column(findings["white"]) - _column(findings["black"]) > 255


def _faint(findings: pa.Table) -> Bool[np.ndarray, " rows"]:
    """Whether values span a small part of what their type can hold."""
    low, high, black, white = (_column(findings[name]) for name in ("low", "high", "black", "white"))
    return high - low < _FAINT * (white - black)


def require_intensity(table: ImageTable, findings: pa.Table, preparations: Sequence[Preparation]) -> None:
    """ConfigError where the window of the files is asked for and some have none, or a window is given for nothing."""
    for name, intensity in (("window", "window"), ("percentiles", "percentile")):
        chosen = [one for one in preparations if name in one.chosen]
        if chosen and all(one.intensity != intensity for one in preparations):
            raise ConfigError(
                f"features.{name} is {getattr(chosen[0], name)} and has no say while features.intensity is "
                f"{chosen[0].intensity}; set that to {intensity}, or leave {name} out",
                fields=(f"features.{name}", "features.intensity"),
            )
    lacking = ~_column(findings["window"])
    if any(one.intensity == "window" and one.window is None for one in preparations) and lacking.any():
        raise ConfigError(
            f"features.intensity is window, and {lacking.sum()} images have none of their own, such as "
            f"{paths_of(table, lacking)[0]}; give features.window (centre and width), or take percentile",
            fields=("features.window", "features.intensity"),
        )


def _column(column: pa.ChunkedArray, default: object = None) -> np.ndarray:
    filled = column if default is None else pc.fill_null(column, default)
    return filled.to_numpy()


def _listed(table: ImageTable, chosen: Bool[np.ndarray, " rows"], text: str) -> Iterator[Remark]:
    if number := int(chosen.sum()):
        yield Remark(text=text.format(counted(number, "image")), examples=paths_of(table, chosen), number=number)


def _alike(
    table: ImageTable, findings: pa.Table, content: Int[np.ndarray, " rows"], compared: Bool[np.ndarray, " rows"]
) -> Iterator[Remark]:
    """Other images that look the same: told, since only who knows them can say whether they are of one thing."""
    rows = np.flatnonzero(compared)
    found = look_alike(_column(findings["perceptual"])[rows])
    groups = np.arange(len(table)) + len(table)
    groups[rows] = found.groups
    there = torn(groups, content)
    if not there.any():
        return
    lines, number = together(table, groups, there, sign="~")
    across = len(np.unique(groups[there & torn(groups, table.splits)]))
    few = "" if found.exhaustive else "; they are so alike that not all pairs were compared"
    yield Remark(
        text=f"{counted(int(there.sum()), 'image')} that look like another one (perceptual hashes differ in at most "
        f"{MOST_BITS} of {HASH_BITS} bits), in {counted(number, 'group')}, {across:,} of them in several splits; give "
        f"what is of one thing one group, so that one split has it{few}",
        examples=lines,
        number=number,
    )
