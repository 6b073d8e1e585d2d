"""Remarks on labels: which splits have them, how many there are of each."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

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
    """What is to be said of the classes, or of several labels."""
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
    for split, own in zip(SPLITS[1:], counts[1:], strict=True):
        if table.task in CLASS_TASKS and (own > 0).sum() < 2:
            text = f"{split} has images of one class alone, so that nothing can be told apart in it; divide anew"
            yield Remark(text=text, examples=_names(table, own > 0), number=1, doubt="classes")
        elif missing := _names(table, (own == 0) & (train > 0)):
            yield Remark(
                text=f"{split} lacks {len(missing):,} of {classes}, of which it says nothing",
                examples=missing[:LISTED],
                number=len(missing),
            )
    if single := _names(table, whole == 1):
        text = f"{len(single):,} of {classes} with one image alone"
        yield Remark(text=text, examples=single[:LISTED], number=len(single))
    if len(table.classes) > _MANY_CLASSES:
        yield Remark(
            text=f"{classes}, of {np.median(whole):g} images in the median; see whether the column of labels is the "
            "right one"
        )
    yield from _alike(table)


def _alike(table: ImageTable) -> Iterator[Remark]:
    """Names that differ in case or in spaces alone."""
    plain: dict[str, list[str]] = {}
    for name in table.classes:
        plain.setdefault(" ".join(name.casefold().split()), []).append(name)
    if several := [names for names in plain.values() if len(names) > 1]:
        yield Remark(
            text=f"{counted(len(several), 'class')} written in several ways, with other capital letters or spaces; "
            "they count as several classes",
            examples=[" = ".join(map(repr, names)) for names in several[:LISTED]],
            number=len(several),
        )


def _names(table: ImageTable, chosen: np.ndarray) -> list[str]:
    return [table.classes[place] for place in np.flatnonzero(chosen)]
