"""What an Optuna study proposes next, within its constraints and not twice, while other drivers may ask as well."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from fpt_ray.config.space import SearchSpace
from fpt_ray.config.trial import TrialConfig
from fpt_ray.display.terminal import say
from fpt_ray.search.attributes import (
    Standing,
    asked_values,
    is_infeasible,
    is_needed,
    purpose_of,
    remember_infeasible,
    remember_reason,
    standing,
    was_enqueued,
)
from fpt_ray.search.drivers import beat
from fpt_ray.search.ladder import enqueue_next, left_in_rung, rung_to_ask
from fpt_ray.search.limits import has_known_limits, tell_known_limits
from fpt_ray.search.optuna_study import keeping_to, make_sampler, propose
from fpt_ray.search.queue import earlier_twin, enqueue_grid

Asked = tuple[optuna.Trial, dict[str, Any]]
"""A trial of a study and its values, {dotted name: value}."""
_REPEATS, _ASKS = 3, 40
"""Repeated points in a row before proposals are drawn at random, and before one of them is run again."""
_REFUSALS = 200
"""Infeasible proposals in a row before the search gives up."""
_EXHAUSTED = 3
"""Times that nothing but known infeasible points is found before the search gives up."""


class Asking:
    """A driver's asking of a study; options as of ``StudySearcher``, ``own`` are the driver's trials that run."""

    def __init__(
        self,
        space: SearchSpace,
        study: optuna.Study,
        costs: Callable[[TrialConfig], Mapping[str, float]] | None,
        refused: Callable[[int, dict[str, Any], Mapping[str, float], str], None] | None,
        num_trials: int | None,
        own: Callable[[], Iterable[optuna.Trial]],
    ) -> None:
        self.space, self.study, self.num_trials = space, study, num_trials
        self.costs, self.refused, self.own = costs, refused, own
        self.exhausted = False
        """Whether nothing new is left to propose."""

    def standing(self) -> Standing:
        """How far the study has come."""
        return standing(self.study, self.space, [trial.number for trial in self.own()])

    def is_done(self) -> bool:
        """Whether the study has its number of trials, nothing follows them, and none runs in another driver."""
        found = self.standing()
        return (self._has_all(found) or self.exhausted) and found.follow_ups == 0 and found.elsewhere == 0

    def find_lost_points(self) -> None:
        """Enqueues what of a grid a driver lost that died while it asked a point again."""
        found = self.standing()
        if self.space.sampler == "grid" and found.waiting == 0 and found.running == 0 and not self._has_all(found):
            enqueue_grid(self.space, self.study)
            self.exhausted = self.standing().waiting == 0

    def left(self) -> int:
        """How many trials are to be asked yet, as far as that is known."""
        found = self.standing()
        if found.follow_ups:
            return found.follow_ups
        if self.space.rungs:
            return left_in_rung(self.space, self.study)
        due = found.waiting if self.num_trials is None else max(0, self.num_trials - found.finished - found.running)
        return min(found.waiting, due) if self.space.sampler == "grid" else due

    def _has_all(self, found: Standing) -> bool:
        return self.num_trials is not None and found.finished >= self.num_trials

    def _may_ask(self, found: Standing) -> bool:
        if found.follow_ups > 0:
            return True
        full = self.num_trials is not None and found.finished + found.running >= self.num_trials
        due = found.waiting > 0 or rung_to_ask(self.space, self.study) is not None
        return not full and not self.exhausted and (due or not self.space.enqueues)

    def next(self, fixed: Mapping[str, Any] | None = None) -> Asked | None:
        """A trial to run and its values; None: there is none just now, or nothing is left to propose.

        ``fixed`` are values that a sampler keeps to.
        """
        exhausted = 0
        for _ in range(_REFUSALS):
            asked = self._ask(fixed)
            if asked is None:
                return None
            trial, proposal, earlier = asked
            if earlier is not None and is_infeasible(self.study.get_trials(deepcopy=False)[earlier]):
                self.study.tell(trial, state=TrialState.FAIL)
                exhausted += 1
                if exhausted == _EXHAUSTED:
                    break
                continue
            if self._keeps_to_constraints(trial, proposal):
                return trial, proposal
        say("search: no further point keeps to the constraints; loosen the constraints, or widen the space")
        self.exhausted = True
        return None

    def _ask(self, fixed: Mapping[str, Any] | None) -> tuple[optuna.Trial, dict[str, Any], int | None] | None:
        """A proposal of a point that has not ended and does not run, unless the space is as good as used up.

        Then it is one of a point that was there before, with the number of the earlier trial. None: there is no trial
        to be run just now, or of those with the fixed values.
        """
        for asked in range(_ASKS if fixed is None else _REPEATS):
            if not self._may_ask(self.standing()):
                return None
            # A sampler that insists on points it knows is left aside: draw at random for once.
            trial, proposal = self._draw(fixed, at_random=asked >= _REPEATS)
            if not self._is_wanted(trial):
                if self.standing().follow_ups:  # which were enqueued after it
                    continue
                return None
            earlier = earlier_twin(self.study, trial)
            if earlier is None or (asked == _ASKS - 1 and self.space.sampler != "grid"):
                return trial, proposal, earlier
            remember_reason(trial, f"the same as trial {earlier}, not run")
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def _draw(self, fixed: Mapping[str, Any] | None, *, at_random: bool) -> Asked:
        enqueue_next(self.space, self.study, fixed, at_random=at_random)
        num_asked = len(self.study.get_trials(deepcopy=False))
        sampler = RandomSampler(seed=num_asked) if at_random else make_sampler(self.space, num_asked)
        self.study.sampler = keeping_to(fixed, sampler)
        with warnings.catch_warnings():
            # An enqueued point may lie outside a range by a rounding; Optuna then warns and draws. It also warns that
            # heartbeats are for its own loop; they are sent here.
            warnings.simplefilter("ignore", UserWarning)
            trial = self.study.ask()
            beat(self.study, [trial._trial_id])
            return trial, propose(self.space, trial)

    def _is_wanted(self, trial: optuna.Trial) -> bool:
        """Closes a trial that other drivers have made superfluous since it was asked for, as they may at any time."""
        asked = self.study.get_trials(deepcopy=False)[trial.number]
        stray = self.space.enqueues and not was_enqueued(asked)
        many = self.num_trials is not None and not is_needed(self.study, self.space, trial.number, self.num_trials)
        if not stray and not many:
            return True
        remember_reason(trial, "not needed, since another driver was faster; not run")
        self.study.tell(trial, state=TrialState.FAIL)
        if was_enqueued(asked):  # for a later session with more trials
            self.study.enqueue_trial(asked_values(asked), user_attrs=purpose_of(asked))
        return False

    def _keeps_to_constraints(self, trial: optuna.Trial, proposal: dict[str, Any]) -> bool:
        if self.costs is None or not has_known_limits(self.space):
            return True
        costs = self.costs(self.space.trial(proposal))
        broken = tell_known_limits(self.space, trial, costs)
        if not broken:
            return True
        reason = f"infeasible before training: {', '.join(broken)}"
        remember_reason(trial, reason)
        remember_infeasible(trial, costs)
        self.study.tell(trial, state=TrialState.PRUNED)
        if self.refused is not None:
            self.refused(trial.number, proposal, costs, reason)
        return False
