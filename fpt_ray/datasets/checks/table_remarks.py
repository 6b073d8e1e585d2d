"""All remarks on a table of images."""

from collections.abc import Sequence

import pyarrow as pa

from fpt_ray.config.preparation import Preparation
from fpt_ray.datasets.checks.alike import as_binary, numbered
from fpt_ray.datasets.checks.classes import on_classes
from fpt_ray.datasets.checks.contents import (
    case_alone,
    contradicting_labels,
    in_several_splits,
    several_times,
    torn_groups,
    unreadable,
)
from fpt_ray.datasets.checks.pictures import on_pictures
from fpt_ray.datasets.checks.remark import Remark
from fpt_ray.images.table import ImageTable


def remarks_on(table: ImageTable, findings: pa.Table | None, preparations: Sequence[Preparation] = ()) -> list[Remark]:
    """All that is odd or wrong; what makes results untrue comes first.

    Each check is a function of columns and takes about as long as to sort them.

    Args:
        table: inspected and divided.
        findings: of its rows (``findings.SCHEMA``), all of which can be used. None: they are not known; then what
            follows from hashes, labels and names alone is said.
        preparations: how images will be taken. Default: that is not known.
    """
    content = numbered(as_binary(table.hashes()) if findings is None else findings["pixels"])
    found = [
        unreadable(table),
        in_several_splits(table, content),
        contradicting_labels(table, content),
        torn_groups(table),
        *on_classes(table),
        several_times(table, content),
        case_alone(table),
        *([] if findings is None else on_pictures(table, findings, content, preparations)),
    ]
    return sorted((one for one in found if one), key=lambda one: one.doubt is None)
