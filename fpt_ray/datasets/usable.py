"""Of the images of a table, those that can be used: with their content hashes, and divided. No Ray."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import dataclasses
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fpt_ray.config.preparation import Preparation
from fpt_ray.datasets.checks.alike import as_binary
from fpt_ray.datasets.one_image import inspect_here
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import SPLITS, as_hex
from fpt_ray.images.splits import imbalance, with_hashed_splits
from fpt_ray.images.table import ImageTable, check_splits


def inspected_here(table: ImageTable) -> ImageTable:
    """The table of the images that can be used, inspected in this process and divided; nothing is checked or said."""
    return usable(table, inspect_here(table.root, table.paths))[0]


def as_prepared(findings: pa.Table, preparations: Sequence[Preparation]) -> pa.Table:
    """Findings where images cannot be used either whose colour profile shall be applied and cannot be."""
    if not any(one.srgb for one in preparations):
        return findings
    reasons = pc.if_else(pc.equal(findings["reason"], ""), pc.fill_null(findings["profile"], ""), findings["reason"])
    return findings.set_column(findings.schema.get_field_index("reason"), "reason", reasons)


def usable(table: ImageTable, findings: pa.Table) -> tuple[ImageTable, pa.Table]:
    """The table of the images that can be used, with content hashes and divided, and their findings.

    Args:
        table: its rows are those that were inspected.
        findings: of them, in order.

    Raises:
        ConfigError: there are none, or a split has none.
    """
    readable, own = without_unreadable(table, findings)
    whole = divided(readable)
    return whole, own.take(pc.index_in(whole.paths, value_set=readable.paths))


def without_unreadable(table: ImageTable, findings: pa.Table) -> tuple[ImageTable, pa.Table]:
    """``usable``, but not divided; in the order of the table."""
    reasons = findings["reason"].combine_chunks()
    if table.hashes_ is not None:
        said = pc.not_equal(findings["sha256"].combine_chunks(), as_binary(table.hashes_))
        changed = pc.and_(pc.equal(reasons, ""), pc.fill_null(said, False))
        reasons = pc.if_else(changed, "it is another image than the table says by its sha256", reasons)
    there = pc.equal(reasons, "").to_numpy(zero_copy_only=False)
    bad, rows = np.flatnonzero(~there), np.flatnonzero(there)
    skipped = zip(table.paths.take(bad).to_pylist(), reasons.take(bad).to_pylist(), strict=True)
    if not len(rows):
        raise ConfigError(f"images: none in {table.root} can be read, such as {': '.join(next(skipped))}")
    hashes = findings["sha256"].combine_chunks().take(rows)
    whole = dataclasses.replace(
        table.take(rows),
        hashes_=np.frombuffer(hashes.buffers()[1], np.uint8).reshape(-1, 32)[hashes.offset :][: len(rows)],
        skipped=(*table.skipped, *skipped),
    )
    _require_given_splits(table, whole)
    findings = findings.take(rows)
    return _with_patients(whole, findings), findings


def _require_given_splits(table: ImageTable, whole: ImageTable) -> None:
    """ConfigError where a split was given and none of it can be used: another would be drawn, or nothing be scored."""
    for number, split in enumerate(SPLITS):
        given = int((table.splits == number).sum())
        if given and not (whole.splits == number).any():
            first = table.paths[int(np.argmax(table.splits == number))].as_py()
            raise ConfigError(
                f"images: none of the {given} images of {split} in {table.root} can be used, such as {first}: "
                f"{dict(whole.skipped)[first]}; mend them, or give other images the split {split}"
            )


def _with_patients(table: ImageTable, findings: pa.Table) -> ImageTable:
    """The patients that files name are the groups of a table that has none; an image of nobody is one of its own.

    A name that all files share was put there by who made them anonymous.
    """
    patients = findings["patient"].combine_chunks()
    named = pc.not_equal(patients, "")
    if table.groups is not None or not pc.any(named).as_py():
        return table
    number = pc.count_distinct(patients.filter(named)).as_py()
    if number == 1:
        say(f"images: all DICOM files name one patient, {patients.filter(named)[0]}, which is taken for nobody")
        return table
    say(f"images: {number:,} patients, as the DICOM files name them, are the groups")
    return dataclasses.replace(table, groups=pc.if_else(named, patients, as_hex(table.hashes())).dictionary_encode())


def divided(table: ImageTable) -> ImageTable:
    """With a split for every image."""
    if table.is_divided:
        return table
    found = with_hashed_splits(table)
    check_splits(found, found.root)
    say(f"images: split by a hash of {'content' if found.groups is None else 'group'}: {imbalance(found)}")
    return found
