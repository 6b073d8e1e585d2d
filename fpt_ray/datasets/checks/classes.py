"""Remarks on labels: which splits have them, how many there are of each."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from fpt_ray.datasets.checks.remark import LISTED, Remark, counted
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.labels import CLASS_TASKS
from fpt_ray.images.table import ImageTable

_MANY_CLASSES = 1000


def label_counts(table: ImageTable) -> Int[np.ndarray, "3 classes"]:
    """Images of each class in each split; of several labels, those that have each; of regression, all."""
    number, splits = len(table.classes), table.splits.astype(np.int64)
    if table.task in CLASS_TASKS:
        return np.bincount(splits * number + table.labels, minlength=3 * number).reshape(3, number)
    has = table.labels == 1 if table.task == "multilabel" else np.ones((len(table), 1), bool)
    return np.stack([has[splits == split].sum(axis=0) for split in range(len(SPLITS))])


def on_classes(table: ImageTable) -> Iterator[Remark]:
    """What is to be said of the classes, or of several labels, or of the numbers that are to be found."""
    yield from _not_scored(table)
    if table.task == "regression":
        return
    counts, classes = label_counts(table), counted(len(table.classes), "class")
    train, whole = counts[SPLITS.index("train")], counts.sum(axis=0)
    if lacking := _names(table, (train == 0) & (whole > 0)):
        yield Remark(
            text=f"{counted(len(lacking), 'class')} in val or test that train lacks, where they would be learnt; "
            "divide anew (`datasets split` divides class by class), or leave them out",
            examples=lacking[:LISTED],
            number=len(lacking),
            doubt="classes",
        )
    for split in SPLITS[1:]:
        told_apart = _told_apart(table, split)
        if told_apart.any() and (missing := _names(table, ~told_apart & (train > 0))):
            lacks = "has not both images with and images without" if table.task == "multilabel" else "lacks"
            what = f"{len(missing):,} of {classes}"
            yield Remark(
                text=f"{split} {lacks} {what}, of which it says nothing; add some, or divide anew",
                examples=missing[:LISTED],
                number=len(missing),
            )
    if single := _names(table, whole == 1):
        text = f"{len(single):,} of {classes} with one image alone, which one split has; add some, or leave it out"
        yield Remark(text=text, examples=single[:LISTED], number=len(single))
    if len(table.classes) > _MANY_CLASSES:
        yield Remark(
            text=f"{classes}, of {np.median(whole):g} images in the median; see whether the column of labels is the "
            "right one"
        )
    yield from _alike(table)


def _told_apart(table: ImageTable, split: str) -> Bool[np.ndarray, " classes"]:
    """The classes or labels of which a split has both images that are of it and images that are known not to be."""
    own = table.labels[table.of(split)]
    if table.task == "multilabel":
        return (own == 1).any(axis=0) & (own == 0).any(axis=0)
    sizes = np.bincount(own.astype(np.int64), minlength=len(table.classes))
    return (sizes > 0) & (sizes < len(own))


def _not_scored(table: ImageTable) -> Iterator[Remark]:
    """Splits in which all images have one answer: no score is defined on them (``metrics.scores``)."""
    for split in SPLITS[1:]:
        own = table.labels[table.of(split)]
        if table.task == "regression":
            what, examples = "one value alone", [f"{own[0]:g}"] if len(own) and (own == own[0]).all() else []
        elif _told_apart(table, split).any():
            continue
        elif table.task == "multilabel":
            what, examples = "no label that some of its images have and others have not", list(table.classes)
        else:
            what, examples = "images of one class alone", _names(table, np.isin(range(len(table.classes)), own))
        if examples:
            yield Remark(
                text=f"{split} has {what}, so that nothing can be told apart and no score is defined in it; divide "
                "anew, or put others into it",
                examples=examples[:LISTED],
                number=len(examples),
                doubt="classes",
                can_be_allowed=False,
            )


def _alike(table: ImageTable) -> Iterator[Remark]:
    """Names that differ in case or in spaces alone."""
    plain: dict[str, list[str]] = {}
    for name in table.classes:
        plain.setdefault(" ".join(name.casefold().split()), []).append(name)
    if several := [names for names in plain.values() if len(names) > 1]:
        yield Remark(
            text=f"{counted(len(several), 'class')} written in several ways, with other capital letters or spaces; "
            "they count as several classes; write each in one way",
            examples=[" = ".join(map(repr, names)) for names in several[:LISTED]],
            number=len(several),
        )


def _names(table: ImageTable, chosen: np.ndarray) -> list[str]:
    return [table.classes[place] for place in np.flatnonzero(chosen)]
