"""What evidence is worth, image by image and on average: a table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from fpt_ray.display.typesetting import Cell, Column, Table, text_column
from fpt_ray.predict.evidence.findings import FindingScores

_CURVES = {
    "deletion": "deletion",
    "random_deletion": "random",
    "insertion": "insertion",
    "random_insertion": "random",
}
_FINDINGS = {
    "findings": "findings",
    "touched": "touched",
    "touched_by_chance": "chance",
    "mass": "mass",
    "mass_if_even": "chance",
    "area": "area",
    "pointed": "pointed",
}
"""{field: what people read over its column}; a chance belongs to the column before it."""
_ABOUT_CURVES = (
    "deletion, insertion: the mean of the answer's probability while patches are painted over (lower is better) or "
    "shown on a blurred image (higher), the most attended first; random: in random order."
)
_ABOUT_FINDINGS = (
    "touched: of findings, the share of which a head keeps a token; mass: the attention on findings; chance: of tokens "
    "at random, and of even attention to the kept tokens; area: the findings' share of the image; pointed: whether the "
    "patch that is paid most is on one."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Worth:
    """What the evidence of an image is worth."""

    path: str
    answer: str
    label: str
    areas: dict[str, float] | None
    """See ``Curves.areas``."""
    findings: FindingScores | None


def worth_table(found: Sequence[Worth], *, with_mean: bool) -> Table:
    """A row for each image, perhaps their mean above them; that of findings is over the images that have some."""
    mean = [""] if with_mean else []
    columns = [text_column("answer", [*mean, *(one.answer for one in found)], left=True)]
    if any(one.label for one in found):
        columns.append(text_column("label", [*mean, *(one.label for one in found)], left=True))
    notes = []
    if any(one.areas for one in found):
        for name, title in _CURVES.items():
            values = [None if one.areas is None else one.areas[name] for one in found]
            columns.append(_numbers(title, name, values, with_mean))
        notes.append(_ABOUT_CURVES)
    if any(one.findings for one in found):
        for name, title in _FINDINGS.items():
            values = [None if one.findings is None else float(getattr(one.findings, name)) for one in found]
            columns.append(_numbers(title, name, values, with_mean))
        notes.append(_ABOUT_FINDINGS)
    return Table(
        title="What the evidence is worth" if with_mean else "",
        heading="image",
        labels=[*(f"mean of {len(found)}" for _ in mean), *(one.path for one in found)],
        columns=columns,
        footnotes=notes,
    )


def _numbers(title: str, name: str, values: Sequence[float | None], with_mean: bool) -> Column:
    known = [one for one in values if one is not None]
    mean = [Cell(value=statistics.fmean(known) if known else None)] if with_mean else []
    return Column(title=title, cells=[*mean, *(Cell(value=one) for one in values)], name=name, digits=3)
