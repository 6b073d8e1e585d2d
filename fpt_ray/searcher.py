"""Optuna inside Ray Tune: a study's proposals for Tune's trials, and what became of them.

Optuna's own ask and tell stand behind Tune's public Searcher interface. Ray's OptunaSearch was not used: it tells
crashed trials as FAIL, which TPE ignores and proposes again, leaves trials with NaN running for ever, tells stopped
trials as complete, and enqueues its first points again at every restart.
"""

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher

from fpt_ray.config import ConfigError, TrialConfig, flatten
from fpt_ray.space import POINT, SearchRow, SearchSpace

NUMBER = "number"
"""Key beside the proposed values: the trial's number in the study."""
SEEDS = "seeds"
"""Key beside the proposed values: how many seeds the trial trains, one after the other."""
STAGE = "stage"
"""Attribute of a trial: "choose" while values are chosen on the validation split, "final" for what tables show."""
FINISHED = "finished"
"""Key of a result: training has ended as planned, the result's values are final."""
REASON = "reason"
_REPEATS, _ASKS = 3, 40
"""Repeated points in a row before proposals are drawn at random, and before one of them is run again."""


def open_study(space: SearchSpace, name: str, journal: Path, *, resume: bool) -> optuna.Study:
    """The study in its journal file, new or resumed.

    A new study starts with the paper's configuration, or the point of the space nearest to it. In a resumed one, trials
    that a dead driver left running are closed and asked again.

    Raises:
        ConfigError: the study exists and is not to be resumed, or the other way round.
    """
    if journal.exists() != resume:
        state, remedy = (
            ("exists", "continue it with --resume") if journal.exists() else ("is not there", "leave out --resume")
        )
        raise ConfigError(f"study {name!r} {state} ({journal}); {remedy}, or choose another --study")
    journal.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name=name,
        sampler=make_sampler(space),
        directions=["maximize" if mode == "max" else "minimize" for mode in space.objectives.values()],
        load_if_exists=resume,
    )
    if resume:
        _ask_again(study)
    elif space.sampler == "grid":
        for proposal in space.grid():
            study.enqueue_trial(proposal, user_attrs={STAGE: "choose" if space.choose else "final"})
    else:
        study.enqueue_trial(dict(paper_point(space)))
    return study


def plain_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """A proposal without what stands beside its values."""
    return {name: value for name, value in config.items() if name not in (NUMBER, SEEDS, STAGE)}


def enqueue_chosen(space: SearchSpace, study: optuna.Study) -> int:
    """Enqueues the best of each group of grid points that differ in chosen rows only, to be repeated.

    Returns how many there are in all, those of an interrupted session included. A group none of whose points came to a
    result is enqueued with its first point, so that a table shows why it is empty.
    """
    if not space.choose:
        return 0
    best: dict[str, optuna.trial.FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
        if trial.user_attrs.get(STAGE) == "choose":
            key = json.dumps({name: value for name, value in trial.params.items() if name not in space.choose})
            best[key] = max(best.get(key, trial), trial, key=lambda one: one.user_attrs.get("val_auc", -math.inf))
    known = [trial.system_attrs.get("fixed_params", trial.params) for trial in _final(study)]
    for trial in best.values():
        if trial.params not in known:
            study.enqueue_trial(trial.params, user_attrs={STAGE: "final"})
    return len(best)


def _final(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.user_attrs.get(STAGE) == "final" and trial.state != TrialState.FAIL]


def finished_trials(study: optuna.Study) -> int:
    """Trials that have ended with a result or a reason."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _ask_again(study: optuna.Study) -> None:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.enqueue_trial(trial.params, user_attrs={STAGE: trial.user_attrs.get(STAGE, "final")})
        study.tell(trial.number, state=TrialState.FAIL)


def make_sampler(space: SearchSpace) -> BaseSampler:
    """Optuna's sampler of that name; a third of the trials, at most ten, are drawn at random first."""
    startup = max(2, min(10, space.num_trials // 3))
    samplers: Mapping[str, Any] = {
        "tpe": lambda: TPESampler(seed=space.seed, n_startup_trials=startup),
        "nsga2": lambda: NSGAIISampler(seed=space.seed, population_size=max(4, startup)),
        "random": lambda: RandomSampler(seed=space.seed),
        "grid": lambda: RandomSampler(seed=space.seed),  # every proposal is enqueued
    }
    return samplers[space.sampler]()


def propose(space: SearchSpace, trial: optuna.Trial) -> dict[str, Any]:
    """The proposal's values, {dotted name: value}; rows whose condition does not hold are left out."""
    proposal: dict[str, Any] = {}
    if space.points:
        proposal[POINT] = trial.suggest_categorical(POINT, list(space.points))
    values: dict[str, Any] = flatten(space.trial(proposal))
    for row in space.rows:
        if row.active(values):
            proposal[row.name] = values[row.name] = _suggest(row, trial)
    return proposal


def _suggest(row: SearchRow, trial: optuna.Trial) -> Any:
    if row.choices is not None:
        return trial.suggest_categorical(row.name, row.choices)
    assert row.low is not None
    assert row.high is not None
    if isinstance(row.low, int):
        return trial.suggest_int(row.name, row.low, int(row.high), step=int(row.step or 1), log=row.log)
    return trial.suggest_float(row.name, row.low, row.high, step=row.step, log=row.log)


def paper_point(space: SearchSpace) -> Mapping[str, Any]:
    """The paper's configuration (section 4.2.1) as a point of the space; a value out of range moves to the nearest."""
    paper = flatten(TrialConfig())
    first = {POINT: next(iter(space.points))} if space.points else {}
    return first | {row.name: _nearest(row, paper[row.name]) for row in space.rows}


def _nearest(row: SearchRow, value: Any) -> Any:
    numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
    if row.choices is not None:
        if value in row.choices or not numeric:
            return value if value in row.choices else row.choices[0]
        return min(row.choices, key=lambda choice: abs(choice - value))  # type: ignore[operator]
    assert row.low is not None
    assert row.high is not None
    if row.step is not None:
        return min(row.values(), key=lambda choice: abs(choice - value))
    return min(max(value, row.low), row.high)


class StudySearcher(Searcher):
    """Tune's view of an Optuna study."""

    def __init__(self, space: SearchSpace, study: optuna.Study) -> None:
        super().__init__()
        self.space, self.study = space, study
        self.trials: dict[str, optuna.Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The next proposal that was not made before: dotted names and values, and the trial's number in the study."""
        sampler = self.study.sampler
        for asked in range(_ASKS):
            if asked == _REPEATS:  # the sampler insists on points it knows: draw at random for once
                self.study.sampler = RandomSampler(seed=self.space.seed + len(self.study.get_trials(deepcopy=False)))
            trial = self.study.ask()
            with warnings.catch_warnings():
                # An enqueued point may lie outside a range by a rounding; Optuna then warns and draws.
                warnings.simplefilter("ignore", UserWarning)
                proposal = propose(self.space, trial)
            stage = trial.user_attrs.get(STAGE, "final")
            earlier = self._same(trial, stage)
            if earlier is None:
                break
            trial.set_user_attr(REASON, f"the same as trial {earlier}, not run")
            self.study.tell(trial, state=TrialState.FAIL)
        else:  # the space is as good as used up: run a point again
            trial = self.study.ask()
            proposal, stage = propose(self.space, trial), "final"
        self.study.sampler = sampler
        self.trials[trial_id] = trial
        seeds = 1 if stage == "choose" else self.space.repeats
        return {**proposal, NUMBER: trial.number, SEEDS: seeds, STAGE: stage}

    def _same(self, trial: optuna.Trial, stage: str) -> int | None:
        """An earlier trial of the same point and stage that has ended or runs."""
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        for other in self.study.get_trials(deepcopy=False, states=states):
            same = other.params == trial.params and other.user_attrs.get(STAGE, "final") == stage
            if other.number < trial.number and same:
                return other.number
        return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna. Only a trial that ended as planned with finite objectives is complete; all others are pruned,
        which TPE turns away from (it ignores failed ones), with their partial values kept as an attribute."""
        trial = self.trials.pop(trial_id, None)
        if trial is None:
            return
        result = result or {}
        values: list[Any] = [result.get(name) for name in self.space.objectives]
        reason = result.get(REASON) or why_not(result, error, self.space)
        if _finite(result.get("val_auc")):
            trial.set_user_attr("val_auc", result["val_auc"])
        if reason is None:
            self.study.tell(trial, values)
            return
        trial.set_user_attr(REASON, reason)
        known = {name: value for name, value in zip(self.space.objectives, values, strict=True) if _finite(value)}
        trial.set_user_attr("partial", json.dumps(known))
        self.study.tell(trial, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept here: the study's storage is the truth."""
        Path(checkpoint_path).write_text(self.study.study_name)

    def restore(self, checkpoint_path: str) -> None:
        """Nothing is kept here: the study's storage is the truth."""


def why_not(result: Mapping[str, Any], error: bool, space: SearchSpace) -> str | None:
    """Why a trial's result does not count as complete; None if it does."""
    if error:
        return "the trial failed"
    for name in space.objectives:
        if not _finite(result.get(name)):
            return f"{name} is {result.get(name)}"
    return None if result.get(FINISHED) else "stopped before its last epoch"


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
