"""k folds of training and validation images: which one validates is a hash of seed and image; test images stay."""

import re

import numpy as np
from jaxtyping import Float64, Int8

from fpt_ray.config.tasks import ImagesOptions
from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import SPLITS

_TRAIN, _VAL, _TEST = map(SPLITS.index, ("train", "val", "test"))


def fold_of(options: ImagesOptions) -> str:
    """The fold that is asked for, such as ``2 of 5``; empty where there are none.

    Raises:
        ConfigError: there is no such fold.
    """
    folds, fold = options.folds, options.fold
    if folds is None and fold is None:
        return ""
    if folds is None or folds < 2:
        raise ConfigError(f"folds is {folds}; give at least 2 with fold {fold}", fields=("folds",))
    if fold is None or not 1 <= fold <= folds:
        raise ConfigError(f"fold is {fold}; give one from 1 to {folds}", fields=("fold",))
    return f"{fold} of {folds}"


def fold_note(fold: str) -> str:
    """What is said of numbers that such a fold validates."""
    return f"validated by fold {fold}"


def undivided(splits: Int8[np.ndarray, " rows"], source: str) -> Int8[np.ndarray, " rows"]:
    """Splits in which test alone is given: who trains and who validates, a fold will say.

    Raises:
        ConfigError: splits are given, and none of them is test.
    """
    if (splits >= 0).all() and not (splits == _TEST).any():
        problem = f"images: {source} has no image in test, and folds take none; give some the split test"
        raise ConfigError(problem, fields=("folds",))
    return np.where(splits == _TEST, splits, np.int8(-1))


def divided_by(fold: str, fractions: Float64[np.ndarray, " keys"]) -> Int8[np.ndarray, " keys"]:
    """The split of keys with these numbers in [0, 1), none of them in test: val in the fold's own part of them."""
    number, folds = map(int, re.findall(r"\d+", fold))
    return np.where((fractions * folds).astype(int) == number - 1, _VAL, _TRAIN).astype(np.int8)
