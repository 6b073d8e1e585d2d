"""One study for each of several data sets, one after the other: the paper's tables are of eight."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from fpt_ray.config.space_yaml import load_space, with_fixed
from fpt_ray.errors import ConfigError
from fpt_ray.paper.numbers import authors_learning_rate
from fpt_ray.search.optuna_study import is_begun
from fpt_ray.storage.files import absolute
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.preparation import storage_location

RATE = "training.learning_rate"


def studies_of(options: StudyOptions, data_sets: Sequence[str]) -> list[StudyOptions]:
    """The options of each study: it has its data set's name, which also takes the place of ``{}`` in ``images``.

    A data set of the paper's is trained with the authors' learning rate for it, unless the space or ``set`` says one.
    With ``resume``, studies that are not there are begun.

    Raises:
        ConfigError: ``images`` has no ``{}``, a study is named, or the space cannot be read.
    """
    if "{}" not in options.images:
        problem = f"data_sets: images is {options.images}; write {{}} where the name of the data set stands"
        raise ConfigError(problem, fields=("images",))
    if options.study is not None:
        raise ConfigError(f"data_sets: each study has its data set's name; leave out the name {options.study!r}")
    space = with_fixed(load_space(Path(options.space)), options.set)
    is_open = RATE not in space.fixed and all(row.name != RATE for row in space.rows)
    workdir, found = absolute(options.workdir), []
    for name in data_sets:
        rate = authors_learning_rate(name) if is_open else None
        one = dataclasses.replace(
            options,
            images=options.images.replace("{}", name),
            study=name,
            set=options.set if rate is None else (*options.set, f"{RATE}={rate}"),
            resume=options.resume and is_begun(name, storage_location(options, workdir, name)),
        )
        found.append(one)
    return found
