"""Searches side networks over preloaded features: Optuna proposes, Ray Tune schedules, MLflow shows.

Either --images or --features says what is learnt; the images' features are preloaded where they are not yet.
"""

from dataclasses import dataclass

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
    """Runs the study, or one for each data set, and prints the report of each."""
    from fpt_ray.report.publication import (  # with torch, Ray and MLflow, which --help needs not
        places_text,
        report_text,
    )
    from fpt_ray.tune.data_sets import studies_of
    from fpt_ray.tune.study import run_study

    for options in studies_of(command, command.data_sets) if command.data_sets else [command]:
        result = run_study(options)
        print(f"{report_text(result)}\n{places_text(result)}")
