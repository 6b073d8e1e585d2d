"""Optuna inside Ray Tune: a study's proposals for Tune's trials, and what became of them.

Optuna's own ask and tell stand behind Tune's public Searcher interface. Ray's OptunaSearch was not used: it tells
crashed trials as FAIL, which TPE ignores and proposes again, leaves trials with NaN running for ever, tells stopped
trials as complete, enqueues its first points again at every restart, and knows no constraints.
"""

import contextlib
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from fpt_ray.config.space import SearchSpace
from fpt_ray.config.trial import TrialConfig
from fpt_ray.display.terminal import say
from fpt_ray.search.attributes import (
    Standing,
    asked_values,
    is_infeasible,
    is_needed,
    proposal_of,
    purpose_of,
    remember_infeasible,
    remember_reason,
    remember_result,
    standing,
    was_enqueued,
)
from fpt_ray.search.drivers import ask_again, beat, close_lost, heartbeat_seconds, keep_alive
from fpt_ray.search.ladder import enqueue_next, rung_to_ask
from fpt_ray.search.limits import has_known_limits, tell_known_limits, tell_shown_limits
from fpt_ray.search.messages import (
    NEVER_RAN,
    TAKEN_FOR_DEAD,
    Message,
    final_metrics,
    metric,
    pack_proposal,
    unpack_message,
    why_incomplete,
)
from fpt_ray.search.optuna_study import make_sampler, propose
from fpt_ray.search.queue import earlier_twin, enqueue_grid

_REPEATS, _ASKS = 3, 40
"""Repeated points in a row before proposals are drawn at random, and before one of them is run again."""
_REFUSALS = 200
"""Infeasible proposals in a row before the search gives up."""
_EXHAUSTED = 3
"""Times that nothing but known infeasible points is found before the search gives up."""
_REST_SECONDS = 1
"""Before the storage is asked again whether there is something to run."""


class StudySearcher(Searcher):
    """Tune's view of an Optuna study, which other drivers may search at the same time.

    ``num_trials`` are those of the search that all drivers run together; None: as many as Tune asks for. ``costs`` says
    what a trial costs before it is trained; what breaks a constraint of the space is told to Optuna, and to ``refused``
    (number, values, costs, reason), without being trained. ``never_ran`` is given Tune's name of a trial that has lost
    its worker, and says whether that was dead before; then the trial is asked again. ``disowned`` is told the name of
    such a trial, and of one that another driver has taken for dead and asked again before it ended here, and why.
    ``is_ready`` says whether what a trial reads is there. Where it is not, the trial is ``held``: Tune is told that
    none follows, and has it as the first of its next run.
    """

    def __init__(
        self,
        space: SearchSpace,
        study: optuna.Study,
        costs: Callable[[TrialConfig], Mapping[str, float]] | None = None,
        refused: Callable[[int, dict[str, Any], Mapping[str, float], str], None] | None = None,
        num_trials: int | None = None,
        disowned: Callable[[str, str], None] | None = None,
        never_ran: Callable[[str], bool] | None = None,
        is_ready: Callable[[TrialConfig], bool] | None = None,
    ) -> None:
        super().__init__()
        self.space, self.study, self.num_trials = space, study, num_trials
        self.costs, self.refused, self.disowned, self.never_ran = costs, refused, disowned, never_ran
        self.is_ready = is_ready
        self.trials: dict[str, optuna.Trial] = {}
        self.held: tuple[optuna.Trial, dict[str, Any]] | None = None
        """A trial and its values that wait until what it reads is there."""
        self.exhausted = False
        """Whether nothing new is left to propose."""
        self.rests_until = self.looks_at = 0.0
        """By the monotonic clock: when the storage is asked again, and when it is searched for lost trials."""
        self.said_waiting = False

    def keeping_alive(self) -> contextlib.AbstractContextManager[None]:
        """While the block lasts, other drivers see that this one's trials run."""
        return keep_alive(self.study, self._running_ids)

    def _running_ids(self) -> list[int]:
        return [trial._trial_id for trial in self._own()]

    def _own(self) -> list[optuna.Trial]:
        held = self.held
        return [*self.trials.values(), *([held[0]] if held else [])]

    # Ray's own annotation leaves out Searcher.FINISHED, a string.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next proposal that was not made before and keeps to the constraints.

        It is dotted names and values, and the trial's number in the study. None: there is none just now, and there may
        be one later, if another driver dies.
        """
        if time.monotonic() < self.rests_until:
            return None
        self._close_lost()
        found = self._standing()
        if self.space.sampler == "grid" and found.waiting == 0 and found.running == 0 and not self._has_all(found):
            enqueue_grid(self.space, self.study)  # what a driver lost that died while it asked a point again
            found = self._standing()
            self.exhausted = found.waiting == 0
        proposal = self.held or (self._next() if self._may_ask(found) else None)
        if proposal is not None and self.is_ready is not None and not self.is_ready(self.space.trial(proposal[1])):
            self.held = proposal
            return Searcher.FINISHED
        if proposal is not None:
            self.trials[trial_id], self.held = proposal[0], None
            costs = self.costs(self.space.trial(proposal[1])) if self.costs else {}
            return pack_proposal(proposal_of(*proposal, self.space, costs))
        if self.is_done():
            return Searcher.FINISHED
        self._say_waiting()
        self.rests_until = time.monotonic() + _REST_SECONDS
        return None

    def is_done(self) -> bool:
        """Whether the study has its number of trials, nothing follows them, and none runs in another driver."""
        found = self._standing()
        ended = (self._has_all(found) or self.exhausted) and found.follow_ups == 0 and found.elsewhere == 0
        return ended and self.held is None

    def _standing(self) -> Standing:
        return standing(self.study, self.space, [trial.number for trial in self._own()])

    def _has_all(self, found: Standing) -> bool:
        return self.num_trials is not None and found.finished >= self.num_trials

    def _may_ask(self, found: Standing) -> bool:
        if found.follow_ups > 0:
            return True
        full = self.num_trials is not None and found.finished + found.running >= self.num_trials
        due = found.waiting > 0 or rung_to_ask(self.space, self.study) is not None
        return not full and not self.exhausted and (due or not self.space.enqueues)

    def _close_lost(self) -> None:
        if time.monotonic() >= self.looks_at:
            beat(self.study, self._running_ids())  # this driver may have slept
            close_lost(self.study)
            self.looks_at = time.monotonic() + heartbeat_seconds()

    def _say_waiting(self) -> None:
        if not self.trials and not self.said_waiting:
            say(f"search: {self._standing().elsewhere} trials run in other drivers; this one waits for them")
            self.said_waiting = True

    def _next(self) -> tuple[optuna.Trial, dict[str, Any]] | None:
        """A trial to run and its values; None: there is none just now, or nothing is left to propose."""
        exhausted = 0
        for _ in range(_REFUSALS):
            asked = self._ask()
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

    def _ask(self) -> tuple[optuna.Trial, dict[str, Any], int | None] | None:
        """A proposal of a point that has not ended and does not run, unless the space is as good as used up.

        Then it is one of a point that was there before, with the number of the earlier trial. None: there is no trial
        to be run just now.
        """
        for asked in range(_ASKS):
            if not self._may_ask(self._standing()):
                return None
            # A sampler that insists on points it knows is left aside: draw at random for once.
            trial, proposal = self._draw(at_random=asked >= _REPEATS)
            if not self._is_wanted(trial):
                return None
            earlier = earlier_twin(self.study, trial)
            if earlier is None or (asked == _ASKS - 1 and self.space.sampler != "grid"):
                return trial, proposal, earlier
            remember_reason(trial, f"the same as trial {earlier}, not run")
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def _draw(self, *, at_random: bool) -> tuple[optuna.Trial, dict[str, Any]]:
        enqueue_next(self.space, self.study, at_random=at_random)
        num_asked = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = RandomSampler(seed=num_asked) if at_random else make_sampler(self.space, num_asked)
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

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna.

        Only a trial that ended as planned with finite objectives is complete; all others are pruned, which TPE turns
        away from (it ignores failed ones). Their last numbers are kept as an attribute.
        """
        trial = self.trials.pop(trial_id, None)
        self.rests_until = 0.0
        if trial is None:
            return
        again = error and self.never_ran is not None and self.never_ran(trial_id)
        why = NEVER_RAN if again else None
        try:
            if again:
                self._ask_again(trial)
            else:
                self._tell(trial, unpack_message(result), error)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            if not self.study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                raise
            say(f"trial {trial.number}: another driver took its driver for dead and asked it again; not counted here")
            why = TAKEN_FOR_DEAD
        if why is not None and self.disowned is not None:
            self.disowned(trial_id, why)

    def _ask_again(self, trial: optuna.Trial) -> None:
        say(f"trial {trial.number}: {NEVER_RAN}")
        remember_reason(trial, NEVER_RAN)
        self.study.tell(trial, state=TrialState.FAIL)
        ask_again(self.study, self.study.get_trials(deepcopy=False)[trial.number])

    def _tell(self, trial: optuna.Trial, message: Message | None, error: bool) -> None:
        tell_shown_limits(self.space, trial, message, error)
        reason = why_incomplete(message, error, self.space)
        remember_result(trial, final_metrics(message))
        if reason is None:
            values: list[Any] = [metric(message, name) for name in self.space.objectives]
            self.study.tell(trial, values)
            return
        remember_reason(trial, reason)
        self.study.tell(trial, state=TrialState.PRUNED)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher into its own snapshot, which is never read, and the storage's URL has its password.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept here: the study's storage is the truth."""
        Path(checkpoint_path).write_text(self.study.study_name)

    def restore(self, checkpoint_path: str) -> None:
        """Nothing is kept here: the study's storage is the truth."""
