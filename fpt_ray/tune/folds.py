"""One study for each fold of training and validation images, one after the other."""

import dataclasses
from pathlib import Path

from fpt_ray.config.space_yaml import load_space, with_fixed
from fpt_ray.errors import ConfigError
from fpt_ray.search.optuna_study import is_begun
from fpt_ray.storage.files import absolute
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.preparation import storage_location


def studies_of_folds(options: StudyOptions) -> list[StudyOptions]:
    """The options of the study of each fold, which is called NAME-fold1 and so on.

    With ``resume``, studies that are not there are begun.

    Raises:
        ConfigError: the space is no grid, whose configurations alone are the same in each fold.
    """
    folds, space = options.folds, with_fixed(load_space(Path(options.space)), options.set)
    assert folds is not None
    if space.sampler != "grid" or space.choose:
        raise ConfigError(
            "folds: a study of all folds compares the same configurations in each; give a space with sampler grid and "
            "without choose, or one --fold",
            fields=("fold",),
        )
    workdir, found = absolute(options.workdir), []
    for fold in range(1, folds + 1):
        name = f"{options.study or Path(options.space).stem}-fold{fold}"
        resume = options.resume and is_begun(name, storage_location(options, workdir, name))
        found.append(dataclasses.replace(options, fold=fold, study=name, resume=resume))
    return found
