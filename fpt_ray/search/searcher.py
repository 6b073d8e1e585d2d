"""Optuna inside Ray Tune: a study's proposals for Tune's trials, and what became of them.

Optuna's own ask and tell stand behind Tune's public Searcher interface. Ray's OptunaSearch was not used: it tells
crashed trials as FAIL, which TPE ignores and proposes again, leaves trials with NaN running for ever, tells stopped
trials as complete, enqueues its first points again at every restart, and knows no constraints.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from fpt_ray.config.space import KNOWN_BEFORE, POINT, SearchRow, SearchSpace
from fpt_ray.config.trial import TrialConfig, flatten
from fpt_ray.display.terminal import say
from fpt_ray.search.attributes import (
    confirms,
    is_infeasible,
    remember_infeasible,
    remember_reason,
    remember_result,
    repeats_of,
    stage_of,
)
from fpt_ray.search.messages import (
    RESTARTS,
    Message,
    Proposal,
    TrialFailure,
    final_metrics,
    is_finite,
    metric,
    pack_proposal,
    unpack_message,
    why_incomplete,
)
from fpt_ray.search.optuna_study import keep_alive, make_sampler

_REPEATS, _ASKS = 3, 40
"""Repeated points in a row before proposals are drawn at random, and before one of them is run again."""
_REFUSALS = 200
"""Infeasible proposals in a row before the search gives up."""
_EXHAUSTED = 3
"""Times that nothing but known infeasible points is found before the search gives up."""


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


class StudySearcher(Searcher):
    """Tune's view of an Optuna study.

    ``costs`` says what a trial costs before it is trained; what breaks a constraint of the space is told to Optuna, and
    to ``refused`` (number, values, costs, reason), without being trained.
    """

    def __init__(
        self,
        space: SearchSpace,
        study: optuna.Study,
        costs: Callable[[TrialConfig], Mapping[str, float]] | None = None,
        refused: Callable[[int, dict[str, Any], Mapping[str, float], str], None] | None = None,
    ) -> None:
        super().__init__()
        self.space, self.study, self.costs, self.refused = space, study, costs, refused
        self.trials: dict[str, optuna.Trial] = {}
        keep_alive(study, self.trials)

    # Ray's own annotation leaves out Searcher.FINISHED, a string.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next proposal that was not made before and keeps to the constraints.

        It is dotted names and values, and the trial's number in the study.
        """
        exhausted = 0
        for _ in range(_REFUSALS):
            if self.space.sampler == "grid" and not self._waiting():
                return Searcher.FINISHED
            trial, proposal, earlier = self._ask()
            if earlier is not None and is_infeasible(self.study.get_trials(deepcopy=False)[earlier]):
                self.study.tell(trial, state=TrialState.FAIL)
                exhausted += 1
                if exhausted == _EXHAUSTED:
                    break
                continue
            if self._keeps_to_constraints(trial, proposal):
                self.trials[trial_id] = trial
                return pack_proposal(self._proposal(trial, proposal))
        say("search: no further point keeps to the constraints; loosen the constraints, or widen the space")
        return Searcher.FINISHED

    def _proposal(self, trial: optuna.Trial, values: dict[str, Any]) -> Proposal:
        """A trial's values with its stage and seeds; one that confirms another takes seeds the search has not used."""
        stage, number = stage_of(trial), trial.number
        if stage != "confirm":
            seeds = 1 if stage == "choose" else self.space.repeats
            return Proposal(number=number, values=values, stage=stage, seeds=seeds)
        return Proposal(
            number=number,
            values=values,
            stage=stage,
            seeds=repeats_of(trial),
            first_seed=self.space.repeats,
            confirms=confirms(trial),
        )

    def _waiting(self) -> bool:
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _ask(self) -> tuple[optuna.Trial, dict[str, Any], int | None]:
        """A proposal of a point that has not ended and does not run, unless the space is as good as used up.

        Then it is one of a point that was there before, with the number of the earlier trial.
        """
        for asked in range(_ASKS - 1):
            # A sampler that insists on points it knows is left aside: draw at random for once.
            trial, proposal = self._draw(at_random=asked >= _REPEATS)
            earlier = self._same(trial)
            if earlier is None:
                return trial, proposal, None
            remember_reason(trial, f"the same as trial {earlier}, not run")
            self.study.tell(trial, state=TrialState.FAIL)
        trial, proposal = self._draw(at_random=True)
        return trial, proposal, self._same(trial)

    def _draw(self, *, at_random: bool) -> tuple[optuna.Trial, dict[str, Any]]:
        num_asked = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = RandomSampler(seed=num_asked) if at_random else make_sampler(self.space, num_asked)
        with warnings.catch_warnings():
            # An enqueued point may lie outside a range by a rounding; Optuna then warns and draws. It also warns that
            # heartbeats are for its own loop; ``keep_alive`` sends them here.
            warnings.simplefilter("ignore", UserWarning)
            trial = self.study.ask()
            return trial, propose(self.space, trial)

    def _same(self, trial: optuna.Trial) -> int | None:
        """An earlier trial of the same point and stage that has ended or runs."""
        stage = stage_of(trial)
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        for other in self.study.get_trials(deepcopy=False, states=states):
            same = other.params == trial.params and stage_of(other) == stage
            if other.number < trial.number and same:
                return other.number
        return None

    def _keeps_to_constraints(self, trial: optuna.Trial, proposal: dict[str, Any]) -> bool:
        limits = {name: limit for name, limit in self.space.constraints.items() if name in KNOWN_BEFORE}
        if not limits or self.costs is None:
            return True
        costs = self.costs(self.space.trial(proposal))
        excess = {name: limit.excess(costs[name]) for name, limit in limits.items()}
        for name, value in excess.items():
            trial.set_constraint(name, value)
        broken = [f"{name} is {costs[name]:.6g}" for name, value in excess.items() if value > 0]
        if not broken:
            return True
        reason = f"infeasible before training: {', '.join(broken)}"
        remember_reason(trial, reason)
        remember_infeasible(trial, costs)
        self.study.tell(trial, state=TrialState.PRUNED)
        if self.refused is not None:
            self.refused(trial.number, proposal, costs, reason)
        return False

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna.

        Only a trial that ended as planned with finite objectives is complete; all others are pruned, which TPE turns
        away from (it ignores failed ones). Their last numbers are kept as an attribute.
        """
        trial = self.trials.pop(trial_id, None)
        if trial is None:
            return
        message = unpack_message(result)
        self._tell_constraints(trial, message, error)
        reason = why_incomplete(message, error, self.space)
        remember_result(trial, final_metrics(message))
        if reason is None:
            values: list[Any] = [metric(message, name) for name in self.space.objectives]
            self.study.tell(trial, values)
            return
        remember_reason(trial, reason)
        self.study.tell(trial, state=TrialState.PRUNED)

    def _tell_constraints(self, trial: optuna.Trial, message: Message | None, error: bool) -> None:
        """Limits of what only training shows; memory that ran out is a broken limit, whatever the space says."""
        for name, limit in self.space.constraints.items():
            value = metric(message, name)
            if name not in KNOWN_BEFORE and is_finite(value):
                trial.set_constraint(name, limit.excess(value))
        if isinstance(message, TrialFailure) and message.out_of_memory_bytes is not None:
            trial.set_constraint("out_of_memory_bytes", max(1.0, float(message.out_of_memory_bytes)))
        if error:
            trial.set_constraint("deaths", float(RESTARTS + 1))

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher into its own snapshot, which is never read, and the storage's URL has its password.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept here: the study's storage is the truth."""
        Path(checkpoint_path).write_text(self.study.study_name)

    def restore(self, checkpoint_path: str) -> None:
        """Nothing is kept here: the study's storage is the truth."""
