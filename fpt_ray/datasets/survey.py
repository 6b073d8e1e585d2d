"""A survey of images: what they are, how they are stored, what is odd or wrong; for people, and for programs."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from fpt_ray.config.preparation import Preparation
from fpt_ray.datasets.checking import listed, passed_over
from fpt_ray.datasets.checks.contact_sheets import write_contact_sheets
from fpt_ray.datasets.checks.remark import Remark
from fpt_ray.datasets.checks.summary import summaries
from fpt_ray.datasets.checks.table_remarks import remarks_on
from fpt_ray.datasets.inspection import inspect
from fpt_ray.datasets.usable import usable
from fpt_ray.display.typesetting import plain_rows, typeset
from fpt_ray.images.table import ImageTable
from fpt_ray.storage.files import absolute


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """Images, and all that is to be said of them."""

    table: ImageTable
    findings: pa.Table
    """Of the table's rows."""
    remarks: Sequence[Remark]
    sheets: Sequence[str] = ()
    """Where contact sheets of the classes are."""

    @property
    def is_doubtful(self) -> bool:
        """Whether results on these images would be untrue."""
        return any(remark.doubt for remark in self.remarks)


def survey(
    table: ImageTable,
    workdir: str,
    *,
    resolution: int | None = None,
    sheets: str | None = None,
    local: bool = False,
) -> Survey:
    """The images of a table, inspected whatever it says of their hashes.

    ``sheets`` is a folder for a contact sheet of each class; None: there are none.

    Raises:
        StorageError: S3 fails.
        ConfigError: no image can be read, or a split has none.
    """
    found = inspect(table.root, table.paths, absolute(workdir), local=local)
    whole, findings = usable(table, found.findings)
    preparations = () if resolution is None else (Preparation(resolution=resolution),)
    remarks = remarks_on(whole, findings, preparations)
    written = [] if sheets is None else write_contact_sheets(whole, absolute(sheets))
    return Survey(table=whole, findings=findings, remarks=remarks, sheets=written)


def survey_text(found: Survey) -> str:
    """A survey for people: tables, then what makes results untrue, then what is odd, each with some examples."""
    parts = [typeset(table, "text") for table in summaries(found.table, found.findings).values()]
    if found.table.ignored:
        parts.append(passed_over(found.table))
    for heading, doubtful in (("Results would be untrue:", True), ("To be known:", False)):
        remarks = [listed(remark) for remark in found.remarks if (remark.doubt is not None) == doubtful]
        parts += [heading, *remarks] if remarks else []
    if not found.remarks:
        parts.append("Nothing is odd or wrong.")
    parts += ["\n".join(["Contact sheets:", *found.sheets])] if found.sheets else []
    return "\n\n".join(parts)


def survey_json(found: Survey) -> str:
    """A survey for programs: the tables, of every class, and the remarks with up to a thousand examples each."""
    tables = summaries(found.table, found.findings, whole=True)
    return json.dumps(
        {
            "root": found.table.root,
            "task": found.table.task,
            "images": len(found.table),
            "ignored": found.table.ignored,
            "doubtful": found.is_doubtful,
            **{name: plain_rows(table) for name, table in tables.items()},
            "remarks": [dataclasses.asdict(remark) for remark in found.remarks],
            "contact_sheets": list(found.sheets),
        },
        indent=1,
        ensure_ascii=False,
    )
