"""The ensemble of a study's front: what it gains on the test split over the best of its members, and what it costs.

It is what ``fpt-ray predict --ensemble front`` would answer, from what was stored: each trial's predictions, and the
temperatures in its bundle.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from mlflow import MlflowClient

from fpt_ray.config.tasks import TITLES
from fpt_ray.display.sums import costs_in_sum
from fpt_ray.display.typesetting import Table, text_column
from fpt_ray.metrics.calibration import calibrated
from fpt_ray.metrics.gain import gains
from fpt_ray.report.page.bundles import read_bundles
from fpt_ray.report.predictions import Predictions, read_predictions, same_images
from fpt_ray.report.result import StudyResult
from fpt_ray.report.tested import but_for, score_text
from fpt_ray.tracking.records import TrialRecord


def front_ensemble_table(client: MlflowClient, result: StudyResult) -> Table | None:
    """Scores x 100 of the ensemble and of the best by validation alone; None where not two can be read."""
    temperatures = {one.number: one.document.get("temperatures", ()) for one in read_bundles(result.places.uri)}
    ranked = sorted(result.front, key=lambda one: one.metrics[f"val_{result.score}"], reverse=True)
    members: list[tuple[TrialRecord, Predictions]] = []
    for record in ranked:
        found = read_predictions(client, record.run_id)
        if found is None or not temperatures.get(record.number):
            continue
        if not members or same_images(found, members[0][1]):
            members.append((record, found))
    if len(members) < 2:
        return None
    each = [_answers(found, temperatures[record.number]) for record, found in members]
    (best, first), target = members[0], members[0][1].target
    gained = gains(np.mean(each, axis=0), each[0], first.labels, target.classes, target.scores, target.task)
    costs = "; ".join(costs_in_sum([record.metrics for record, _ in members]))
    columns = [
        text_column("score", [TITLES[name] for name in gained], left=True),
        text_column("ensemble", [score_text(name, one.together) for name, one in gained.items()]),
        text_column(f"trial {best.number} alone", [score_text(name, one.alone) for name, one in gained.items()]),
        *(
            text_column(title, [score_text(name, getattr(one.difference, end)) for name, one in gained.items()])
            for title, end in (("difference", "value"), ("95 % from", "low"), ("to", "high"))
        ),
    ]
    return Table(
        title=f"The ensemble of {len(members)} of the front's {len(ranked)} trials, the mean of their calibrated "
        f"answers, on the test split, beside trial {best.number}, the best of them by validation. Scores x "
        f"100{but_for(gained)}.",
        columns=columns,
        footnotes=(f"{costs[:1].upper()}{costs[1:]}.",) if costs else (),
    )


def _answers(found: Predictions, temperatures: Sequence[Sequence[float]]) -> Float[np.ndarray, "N C"]:
    """The mean of what a trial's seeds say, each calibrated."""
    each = zip(found.said, temperatures, strict=True)
    return np.mean([calibrated(said, by, found.target.task) for said, by in each], axis=0)
