"""The view of MLflow's pages in which a study's front is compared, as the state that these pages save under a link.

MLflow 3.17 keeps a saved view as a tag of the experiment, of JSON: its name, and the state of the page of runs.
"""

import json
from collections.abc import Mapping, Sequence

from fpt_ray.config.tasks import SHARES
from fpt_ray.tracking.names import metric_key
from fpt_ray.tracking.records import ON_FRONT

_TRIED, _WEIGHED = "What the front tries", "What it costs"


def saved_view(name: str, run_id: str, searched: Sequence[str], score: str, made_ms: int) -> tuple[str, str]:
    """(key, value) of the experiment's tag for the front of the study of this run, saved at ``made_ms``.

    The first chart has a line for each trial: what it tries, its score on the validation split, PPE and PME, where
    there are any of that score. Then come points: the score against memory and learnable parameters, PPE against PME.
    """
    shares, val = score in SHARES, metric_key(f"val_{score}", score)
    ppe, pme, memory, size = (metric_key(one) for one in ("ppe", "pme", "memory_ratio", "param_ratio"))
    aims = [*([ppe, pme] if shares else []), val]  # lines are coloured by the last
    charts = [
        _lines(searched, aims) | _card(_TRIED, 0),
        *(_points(x, y) | _card(_WEIGHED, at) for at, (x, y) in enumerate(((memory, val), (size, val)), start=1)),
        *([_points(pme, ppe) | _card(_WEIGHED, 3)] if shares else []),
    ]
    shown = [val, metric_key(f"test_{score}", score), *([ppe, pme] if shares else []), memory, size]
    state = {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{run_id}' AND tags.`{ON_FRONT}` = 'true'",
        "orderByKey": f"metrics.`{memory}`",
        "orderByAsc": True,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": [*(f"metrics.`{key}`" for key in shown), *(f"params.`{row}`" for row in searched)],
        "compareRunCharts": charts,
        "compareRunSections": [_section(_TRIED, 1), _section(_WEIGHED, 3)],
        "isAccordionReordered": True,  # else MLflow sorts the sections by their names
    }
    view = {"name": f"The front of {name}", "createdAt": made_ms, "state": json.dumps(state)}
    return f"mlflow.sharedViewState.{run_id}", json.dumps(view)


def _lines(params: Sequence[str], metrics: Sequence[str]) -> dict[str, object]:
    chosen = {"selectedParams": list(params), "selectedMetrics": list(metrics)}
    return {"type": "PARALLEL", "showAllRuns": True, **chosen}


def _points(x: str, y: str) -> dict[str, object]:
    axes = {axis: {"key": key, "type": "METRIC"} for axis, key in (("xaxis", x), ("yaxis", y))}
    return {"type": "SCATTER", **axes}


def _card(section: str, at: int) -> dict[str, object]:
    place = {"uuid": f"fpt_ray.{at}", "metricSectionId": section, "runsCountToCompare": 100}
    return {**place, "deleted": False, "isGenerated": False}


def _section(name: str, columns: int) -> Mapping[str, object]:
    return {"uuid": name, "name": name, "display": True, "isReordered": True, "columns": columns, "cardHeight": 320}
