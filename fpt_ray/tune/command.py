"""Searches side networks over preloaded features: Optuna proposes, Ray Tune schedules, MLflow shows.

Either --images or --features says what is learnt; the images' features are preloaded where they are not yet.
"""

from dataclasses import dataclass

from fpt_ray.errors import ConfigError
from fpt_ray.tune.options import StudyOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Command(StudyOptions):
    """The options of ``tune``."""

    data_sets: tuple[str, ...] = ()
    """Run a study for each of these data sets, one after the other; it has the name of its data set, which also takes
    the place of {} in --images. Those of the paper have the authors' learning rate, unless the space has one. With
    --resume, studies that are not there are begun."""
    list_spaces: bool = False  # for the help text: the door acts on the flag itself, which needs no --space
    """List the search spaces that come with fpt_ray, and do nothing else."""


def list_spaces() -> None:
    """Prints the search spaces that come with the package."""
    from fpt_ray.config.space_files import space_list

    print(space_list())


ACTIONS = {"--list_spaces": list_spaces, "--list-spaces": list_spaces}


def run(command: Command) -> None:
    """Runs the study, or one for each data set or fold, and prints the report of each, and what the folds come to."""
    from fpt_ray.display.typesetting import typeset
    from fpt_ray.report.folds import over_folds
    from fpt_ray.report.publication import (  # with torch, Ray and MLflow, which --help needs not
        places_text,
        report_text,
    )
    from fpt_ray.tune.study import run_study

    results = []
    for options in _studies(command):
        results.append(run_study(options))
        print(f"{report_text(results[-1])}\n{places_text(results[-1])}")
    if _every_fold(command):
        print(f"\n{typeset(over_folds(results), 'text')}")


def _studies(command: Command) -> list[StudyOptions]:
    from fpt_ray.tune.data_sets import studies_of
    from fpt_ray.tune.folds import studies_of_folds

    if command.register is not None and (_every_fold(command) or len(command.data_sets) > 1):
        raise ConfigError(
            f"register: {command.register!r} would be the best of one study after the other; leave it out, and give "
            "one of them the name by `fpt-ray predict log STUDY --register NAME`",
            fields=("register",),
        )
    if _every_fold(command):
        if command.data_sets:
            raise ConfigError("folds: give --fold with --data_sets, or one data set", fields=("fold",))
        return studies_of_folds(command)
    return studies_of(command, command.data_sets) if command.data_sets else [command]


def _every_fold(command: Command) -> bool:
    return command.folds is not None and command.fold is None
