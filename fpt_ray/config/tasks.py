"""What is asked of an image: the tasks that a network may learn, how well it does, and how an image table says it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Task = Literal["binary", "multiclass", "ordinal", "multilabel", "regression"]
"""One of two classes; one of several; one of several grades in their order; any of several labels; a number."""
Score = Literal[
    "auc",
    "accuracy",
    "balanced_accuracy",
    "f1",
    "average_precision",
    "kappa",
    "sensitivity_at_90",
    "specificity_at_90",
    "r2",
    "spearman",
    "mae",
]
"""The names of scores; ``metrics.scores`` says what each is."""
_RANKING: tuple[Score, ...] = ("auc", "average_precision", "sensitivity_at_90", "specificity_at_90")
_CLASSES: tuple[Score, ...] = (*_RANKING, "accuracy", "balanced_accuracy", "f1", "kappa")
SCORES: Mapping[Task, tuple[Score, ...]] = {
    "binary": _CLASSES,
    "multiclass": _CLASSES,
    "ordinal": (*_CLASSES, "mae"),
    "multilabel": (*_RANKING, "f1"),
    "regression": ("r2", "spearman", "mae"),
}
"""The scores of each task; the first picks the best epoch, unless another is asked for."""
FALLING: tuple[Score, ...] = ("mae",)
"""Scores of which less is better."""
SHARES: tuple[Score, ...] = (*_RANKING, "accuracy", "balanced_accuracy", "f1")
"""Scores in 0..1, for which PPE and PME exist: a negative one would gain by its cost."""
TITLES: Mapping[str, str] = {
    "auc": "AUC",
    "average_precision": "average precision",
    "sensitivity_at_90": "sensitivity at 90 % specificity",
    "specificity_at_90": "specificity at 90 % sensitivity",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "kappa": "kappa",
    "r2": "R2",
    "spearman": "Spearman",
    "mae": "MAE",
}
"""What people call them."""
Doubt = Literal["duplicates", "groups", "labels", "classes", "unreadable"]
"""What makes results on images untrue: the same image, or one group, in several splits; labels of an image that
contradict each other; classes that cannot be learnt or told apart; many images that cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What is to be learnt of an image."""

    task: Task
    classes: tuple[str, ...]
    """The names of the classes or grades; of several labels, theirs; of a number, its one name."""

    @property
    def num_outputs(self) -> int:
        """What a network says of an image, in numbers: of grades, one for each step from one to the next."""
        return len(self.classes) - 1 if self.task == "ordinal" else len(self.classes)

    @property
    def scores(self) -> tuple[Score, ...]:
        """The names of its scores."""
        return SCORES[self.task]


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
    """With folds: which of them validates, from 1 to folds. Default of tune: each in turn, in a study of its own, of a
    grid."""
    split_seed: int = 0
    """The seed of the hash by which images without a split, and those of folds, are divided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnOptions(ImagesOptions):
    """How images are read that shall be learnt from."""

    allow: tuple[Doubt, ...] = ()
    """What of the images is taken as it is, though it makes results untrue, which is then said where these are shown:
    the same image in several splits (duplicates), one group in several (groups), contradicting labels of an image
    (labels), classes that train lacks (classes), more than 1 % that cannot be read (unreadable). Default: nothing."""
