"""Searches side networks over preloaded features: Optuna proposes, Ray Tune schedules, MLflow shows.

``python -m fpt_ray.tune --space search_spaces/X.yaml --images DIR_OR_TABLE | --features URI``
"""

import tyro

from fpt_ray.tune.options import StudyOptions


def run(options: StudyOptions) -> None:
    """Runs the study and prints its report."""
    from fpt_ray.report.publication import publish, report_text  # with torch, Ray and MLflow, which --help needs not
    from fpt_ray.tune.study import run_study

    result = run_study(options)
    print(report_text(result, publish(result)))


def main() -> None:
    """Parse, run."""
    run(tyro.cli(StudyOptions, description=__doc__, use_underscores=True))
