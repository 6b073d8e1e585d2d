"""A table of images, inspected, divided and checked: what every command does before anything expensive starts."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from fpt_ray.config.preparation import Preparation
from fpt_ray.config.tasks import Doubt
from fpt_ray.datasets.checks.pictures import require_intensity
from fpt_ray.datasets.checks.remark import Remark, counted
from fpt_ray.datasets.checks.table_remarks import remarks_on
from fpt_ray.datasets.decoded import Decoded
from fpt_ray.datasets.inspection import inspect
from fpt_ray.datasets.usable import as_prepared, divided, usable
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.images.table import ImageTable
from fpt_ray.storage.files import any_there

_SHOWN = 10
"""Examples that are printed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """Images that may be learnt from."""

    table: ImageTable
    """With content hashes and a split for every image, without the few that cannot be read."""
    decoded: Decoded = field(default_factory=dict)
    """Of the images that were decoded for it, as far as there was room."""


def inspected(
    table: ImageTable,
    workdir: str,
    preparations: Sequence[Preparation] = (),
    *,
    kept: bool = True,
    allow: Sequence[Doubt] = (),
    local: bool = False,
) -> Inspection:
    """The table, inspected and checked; and its images as they will be extracted, if they are to be kept until then.

    Of a table that has the hashes, no file need be there: then it is taken as it is, which is said, and whoever reads
    an image sees whether it still is that one. What is found odd is said; what makes results untrue and is allowed is
    said in the table's note, wherever they are shown.

    Raises:
        StorageError: S3 fails.
        ConfigError: there is what makes results untrue and is not allowed, a split has no image, images lack the
            window that is asked for, or a window or percentiles are given that no intensity uses.
    """
    if table.hashes_ is None or any_there(table.root, map(str, table.paths)):
        found = inspect(table.root, table.paths, workdir, preparations if kept else (), local=local)
        whole, findings, decoded = *usable(table, as_prepared(found.findings, preparations)), found.decoded
    else:
        say(
            f"images: no file of the table is in {table.root}, so that none was looked at: pixels are not compared, "
            f"and {'groups are those of the table' if table.groups is not None else 'no patient is known'}"
        )
        whole, findings, decoded = divided(table), None, {}
    if findings is not None:
        require_intensity(whole, findings, preparations)
    if whole.ignored:
        say(f"images: {passed_over(whole)}")
    remarks = remarks_on(whole, findings, preparations)
    _stop_at(remarks, table.root, allow)
    for remark in remarks:
        say(f"images: {in_short(remark)}")
    return Inspection(table=_noted(whole, remarks), decoded=decoded)


# --- what comes of remarks ----------------------------------------------------------------------------------------


def passed_over(table: ImageTable) -> str:
    """How many files of a folder are no images of its table."""
    return f"{counted(table.ignored, 'file')} passed over: hidden, without an image's suffix, or in no class folder"


def listed(remark: Remark, shown: int = _SHOWN) -> str:
    """A remark with its first examples, a line each."""
    lines = [remark.text, *(f"  {example}" for example in remark.examples[:shown])]
    rest = remark.number - len(remark.examples[:shown])
    return "\n".join([*lines, f"  and {rest} more"] if rest > 0 else lines)


def in_short(remark: Remark) -> str:
    """A remark with its first example, in a line."""
    first = f", for instance {remark.examples[0]}" if remark.examples else ""
    return f"{'WARNING: ' if remark.doubt else ''}{remark.text}{first}"


def _stop_at(remarks: Sequence[Remark], root: str, allow: Sequence[Doubt]) -> None:
    doubts = [one for one in remarks if one.doubt and not (one.can_be_allowed and one.doubt in allow)]
    if not doubts:
        return
    lists = "\n".join(listed(one) for one in doubts)
    if all(one.can_be_allowed for one in doubts):
        names = " ".join(dict.fromkeys(str(one.doubt) for one in doubts))
        remedy = f"mend this, or allow it by the names {names}, which will be said wherever results are shown"
    else:
        remedy = "mend this; without a score there are no results, so that it cannot be allowed"
    raise ConfigError(f"images: results on {root} would not be true:\n{lists}\n{remedy}", fields=("allow",))


def _noted(table: ImageTable, remarks: Sequence[Remark]) -> ImageTable:
    """The table whose note says what makes results untrue."""
    said = [f"{one.text.partition(';')[0]} (allowed: {one.doubt})" for one in remarks if one.doubt]
    note = table.note.strip().rstrip(".")
    return dataclasses.replace(table, note="; ".join([note] * bool(note) + [text for text in said if text not in note]))
