"""How a search came along and what mattered in it: Optuna's own pictures.

They are pages, not PNG: Optuna's matplotlib versions are experimental and draw in pyplot's global state.
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from fpt_ray.config.space import SearchSpace
from fpt_ray.display.terminal import say
from fpt_ray.search.attributes import stage_of, val_auc

_FEWEST = 5
"""Completed trials from which the importance of parameters is estimated."""


def draw_study_pictures(study: optuna.Study, space: SearchSpace, folder: Path) -> Iterator[Path]:
    """Draws what can be drawn into the folder, a page each; says in a line what cannot be and why."""
    folder.mkdir(parents=True, exist_ok=True)
    searched = _searched(study)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        for name, drawn in (("history", history(searched, space)), ("importances", importances(searched))):
            if isinstance(drawn, str):
                say(f"no picture of {name}: {drawn}")
                continue
            page = folder / f"{name}.html"
            drawn.write_html(page, include_plotlyjs=True, full_html=True, div_id=name)
            yield page


def _searched(study: optuna.Study) -> optuna.Study:
    """A copy in memory of the completed trials of the search itself, without those that confirm or only choose."""
    copy = optuna.create_study(directions=study.directions)
    trials = study.get_trials(states=(TrialState.COMPLETE,))
    copy.add_trials([trial for trial in trials if stage_of(trial) == "final"])
    return copy


def reference_point(study: optuna.Study) -> list[float]:
    """The worst value of each objective among the completed trials; nothing beyond it counts as volume."""
    columns = zip(*(trial.values for trial in study.trials), strict=True)
    maximised = (direction == optuna.study.StudyDirection.MAXIMIZE for direction in study.directions)
    return [min(column) if is_max else max(column) for column, is_max in zip(columns, maximised, strict=True)]


def history(study: optuna.Study, space: SearchSpace) -> Any:
    """The hyper-volume of the front over the trials, or the best value with one objective; or why there is none."""
    if len(study.trials) < 2:
        return f"{len(study.trials)} trials have finished, 2 are needed"
    if len(space.objectives) == 1:
        (name,) = space.objectives
        return optuna.visualization.plot_optimization_history(study, target_name=name)
    reference = reference_point(study)
    figure = optuna.visualization.plot_hypervolume_history(study, reference)
    worst = ", ".join(f"{name} {value:.4g}" for name, value in zip(space.objectives, reference, strict=True))
    return figure.update_layout(title=f"Hyper-volume of the front; reference, the worst of all trials: {worst}")


def importances(study: optuna.Study) -> Any:
    """What each parameter explains of the validation AUC (fANOVA, fixed seed); or why it cannot be told.

    Parameters that not every trial has are left out, as Optuna does.
    """
    known = [trial for trial in study.trials if math.isfinite(val_auc(trial))]
    if len(known) < _FEWEST or len(known) < len(study.trials):
        return f"{len(known)} trials have a validation AUC, {_FEWEST} are needed"
    if len({val_auc(trial) for trial in known}) == 1:
        return "the validation AUC is the same in all trials"
    if not any(_varied(known)):
        return "no parameter differs between the trials"
    return optuna.visualization.plot_param_importances(
        study, evaluator=FanovaImportanceEvaluator(seed=0), target=val_auc, target_name="val_auc"
    )


def _varied(trials: list[FrozenTrial]) -> Iterator[bool]:
    """Of each parameter that all trials have: whether it takes several values."""
    for name in set.intersection(*(set(trial.params) for trial in trials)):
        yield len({trial.params[name] for trial in trials}) > 1
