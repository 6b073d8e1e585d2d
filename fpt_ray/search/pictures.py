"""How a search came along and what mattered in it: pages of Plotly's that Optuna's own pictures are the model of.

What mattered is stored as numbers, too, for the study's report.

Optuna's own copy a study several times, and recompute the hyper-volume with memory of the front's size squared.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import plotly.graph_objects as go
from jaxtyping import Float
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fpt_ray.config.space import SearchSpace
from fpt_ray.config.tasks import TITLES
from fpt_ray.display.terminal import say
from fpt_ray.metrics.hypervolume import EXACT_OBJECTIVES, volume_history
from fpt_ray.search.attributes import stage_of, val_score
from fpt_ray.search.importances import FILE, Importances, as_json

_FEWEST = 5
"""Completed trials from which the importance of parameters is estimated."""
_ENOUGH = 100
"""Completed trials from which PED-ANOVA estimates it: it looks at the best tenth, which then are ten trials at least.
fANOVA's time grows with the square of the trials."""
_BEST = 100
"""The best tenth is so many trials at most: choosing among a large front takes time that grows with their number."""


def draw_study_pictures(study: optuna.Study, space: SearchSpace, folder: Path) -> Iterator[Path]:
    """Draws what can be drawn into the folder, a page each; says in a line what cannot be and why.

    The numbers of the importances are a file beside theirs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    searched = _searched(study)
    mattered = importances(searched, space)
    if isinstance(mattered, Importances):
        numbers = folder / FILE
        numbers.write_text(as_json(mattered), encoding="utf-8")
        yield numbers
    bars = mattered if isinstance(mattered, str) else _bars(mattered)
    for name, drawn in (("history", history(searched, space)), ("importances", bars)):
        if isinstance(drawn, str):
            say(f"no picture of {name}: {drawn}")
            continue
        page = folder / f"{name}.html"
        drawn.write_html(page, include_plotlyjs=True, full_html=True, div_id=name)
        yield page


def _searched(study: optuna.Study) -> optuna.Study:
    """A copy in memory of the completed trials of the search itself, without those that confirm or only choose."""
    copy = optuna.create_study(directions=study.directions)
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    copy.add_trials([trial for trial in trials if stage_of(trial) == "final"])
    return copy


def reference_point(study: optuna.Study) -> list[float]:
    """The worst value of each objective among the completed trials; nothing beyond it counts as volume."""
    columns = zip(*(trial.values for trial in study.get_trials(deepcopy=False)), strict=True)
    maximised = (direction == StudyDirection.MAXIMIZE for direction in study.directions)
    return [min(column) if is_max else max(column) for column, is_max in zip(columns, maximised, strict=True)]


def history(study: optuna.Study, space: SearchSpace) -> Any:
    """The hyper-volume of the front over the trials, or the best value with one objective; or why there is none."""
    trials = study.get_trials(deepcopy=False)
    if len(trials) < 2:
        return f"{len(trials)} trials have finished, 2 are needed"
    if len(space.objectives) == 1:
        (name,) = space.objectives
        return optuna.visualization.plot_optimization_history(study, target_name=name)
    reference = reference_point(study)
    volumes = volume_history(_gains(study, reference))
    figure = go.Figure(go.Scatter(x=[trial.number for trial in trials], y=volumes, mode="lines+markers"))
    worst = ", ".join(f"{name} {value:.4g}" for name, value in zip(space.objectives, reference, strict=True))
    estimated = ", estimated" if len(reference) > EXACT_OBJECTIVES else ""
    return figure.update_layout(
        title=f"Hyper-volume of the front{estimated}; reference, the worst of all trials: {worst}",
        xaxis={"title": "Trial"},
        yaxis={"title": "Hyper-volume"},
    )


def _gains(study: optuna.Study, reference: Sequence[float]) -> Float[np.ndarray, "M K"]:
    """How much better than the reference each trial is, in each objective; one that breaks a constraint is not."""
    trials = study.get_trials(deepcopy=False)
    signs = [1.0 if direction == StudyDirection.MAXIMIZE else -1.0 for direction in study.directions]
    gains = (np.array([trial.values for trial in trials], np.float64) - reference) * signs
    kept = [all(excess <= 0 for excess in trial.constraints.values()) for trial in trials]
    return np.where(np.array(kept)[:, None], gains, 0.0)


def importances(study: optuna.Study, space: SearchSpace) -> Importances | str:
    """How much each parameter matters for the validation score; or why it cannot be told.

    Of few trials it is what the parameter explains of the variance (fANOVA, fixed seed; parameters that not every trial
    has are left out). Of many it is how the parameter's values differ between the best tenth, 100 trials at most, and
    all (PED-ANOVA); with several objectives there is a second bar, for which the best are those nearest to the front.
    """
    known = [trial for trial in study.get_trials(deepcopy=False) if math.isfinite(val_score(trial, space))]
    score = f"validation {TITLES[space.score.removeprefix('val_')]}"
    if len(known) < _FEWEST or len(known) < len(study.get_trials(deepcopy=False)):
        return f"{len(known)} trials have a {score}, {_FEWEST} are needed"
    if len({val_score(trial, space) for trial in known}) == 1:
        return f"the {score} is the same in all trials"
    if not any(_varied(known)):
        return "no parameter differs between the trials"
    if len(known) < _ENOUGH:
        found = {space.score: _shares(study, FanovaImportanceEvaluator(seed=0), lambda trial: val_score(trial, space))}
        return Importances(title=f"What each parameter explains of the variance of the {score} (fANOVA)", shares=found)
    best = min(len(known) // 10, _BEST)
    evaluator = PedAnovaImportanceEvaluator(target_quantile=best / len(known))
    found = {space.score: _shares(study, evaluator, lambda trial: -val_score(trial, space))}
    if len(study.directions) > 1:
        found["the front"] = _shares(study, evaluator, None)
    title = f"What each parameter does for being among the best {best} trials (PED-ANOVA)"
    return Importances(title=title, shares=found)


def _shares(
    study: optuna.Study,
    evaluator: FanovaImportanceEvaluator | PedAnovaImportanceEvaluator,
    target: Callable[[FrozenTrial], float] | None,
) -> Mapping[str, float]:
    """{parameter: its share}; they add up to 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.simplefilter("ignore", UserWarning)  # PED-ANOVA says that less is better, as is meant here
        return optuna.importance.get_param_importances(study, evaluator=evaluator, target=target)


def _bars(found: Importances) -> go.Figure:
    """Bars of each target, by the order of the first."""
    order = list(next(iter(found.shares.values())))[::-1]
    bars = [
        go.Bar(
            x=[shares[name] for name in order],
            y=order,
            name=target,
            text=[f"{shares[name]:.2f}" if shares[name] >= 0.01 else "<0.01" for name in order],
            textposition="outside",
            cliponaxis=False,
            orientation="h",
        )
        for target, shares in found.shares.items()
    ]
    return go.Figure(bars).update_layout(title=found.title, xaxis={"title": "share"}, showlegend=len(bars) > 1)


def _varied(trials: list[FrozenTrial]) -> Iterator[bool]:
    """Of each parameter that all trials have: whether it takes several values."""
    for name in set.intersection(*(set(trial.params) for trial in trials)):
        yield len({trial.params[name] for trial in trials}) > 1
