"""What is asked of an image: the tasks that a network may learn, and how an image table says it."""

from dataclasses import dataclass
from typing import Literal

Task = Literal["binary", "multiclass", "ordinal", "multilabel", "regression"]
"""One of two classes; one of several; one of several grades in their order; any of several labels; a number."""
Doubt = Literal["duplicates", "groups", "labels", "classes", "unreadable"]
"""What makes results on images untrue: the same image, or one group, in several splits; labels of an image that
contradict each other; classes that cannot be learnt or told apart; many images that cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesOptions:
    """How images are read: what the columns of their table are called, and what is learnt of them."""

    columns: tuple[str, ...] = ()
    """What columns of the table are called there, such as label=diagnosis group=patient_id. Several labels that an
    image may have at once: label=edema,effusion. Default: path, label, split, group, weight, sha256."""
    task: Task | None = None
    """What is learnt of the labels. Default: binary or multiclass; multilabel of several columns or where a label is
    such as edema|effusion; regression of numbers that are not whole."""
    folds: int | None = None
    """Divide the training and validation images into so many folds, of which one validates and the others train. Test
    images stay. Default: the split that is given, or made by hash."""
    fold: int | None = None
    """With folds: which of them validates, from 1 to folds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnOptions(ImagesOptions):
    """How images are read that shall be learnt from."""

    allow: tuple[Doubt, ...] = ()
    """What of the images is taken as it is, though it makes results untrue, which is then said where these are shown:
    the same image in several splits (duplicates), one group in several (groups), contradicting labels of an image
    (labels), classes that train lacks (classes), more than 1 % that cannot be read (unreadable). Default: nothing."""
