"""Optuna inside Ray Tune: a study's proposals for Tune's trials, and what became of them.

Optuna's own ask and tell stand behind Tune's public Searcher interface. Ray's OptunaSearch was not used: it tells
crashed trials as FAIL, which TPE ignores and proposes again, leaves trials with NaN running for ever, tells stopped
trials as complete, enqueues its first points again at every restart, and knows no constraints.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from fpt_ray.config.space import SearchSpace
from fpt_ray.config.trial import TrialConfig
from fpt_ray.display.terminal import say
from fpt_ray.search.asking import Asked, Asking
from fpt_ray.search.attributes import proposal_of, remember_reason, remember_result
from fpt_ray.search.drivers import ask_again, beat, close_lost, heartbeat_seconds, keep_alive
from fpt_ray.search.limits import tell_shown_limits
from fpt_ray.search.messages import (
    NEVER_RAN,
    TAKEN_FOR_DEAD,
    Message,
    Proposal,
    final_metrics,
    metric,
    pack_proposals,
    unpack_messages,
    why_incomplete,
)

_REST_SECONDS = 1
"""Before the storage is asked again whether there is something to run."""


class StudySearcher(Searcher):
    """Tune's view of an Optuna study, which other drivers may search at the same time.

    ``num_trials`` are those of the search that all drivers run together; None: as many as Tune asks for. ``costs`` says
    what a trial costs before it is trained; what breaks a constraint of the space is told to Optuna, and to ``refused``
    (number, values, costs, reason), without being trained. ``never_ran`` is given Tune's name of a trial that has lost
    its worker, and says whether that was dead before; then the trial is asked again. ``disowned`` is told the number of
    such a trial, and of one that another driver has taken for dead and asked again before it ended here, and why.
    ``is_ready`` says whether what a trial reads is there. Where it is not, the trial is ``held``: Tune is told that
    none follows, and has it as the first of its next run. ``together`` says of a proposal how many trials of its shape
    train as one model: they are one of Tune's.
    """

    def __init__(
        self,
        space: SearchSpace,
        study: optuna.Study,
        costs: Callable[[TrialConfig], Mapping[str, float]] | None = None,
        refused: Callable[[int, dict[str, Any], Mapping[str, float], str], None] | None = None,
        num_trials: int | None = None,
        disowned: Callable[[int, str], None] | None = None,
        never_ran: Callable[[str], bool] | None = None,
        is_ready: Callable[[TrialConfig], bool] | None = None,
        together: Callable[[Proposal, int], int] | None = None,
    ) -> None:
        super().__init__()
        self.space, self.study, self.costs = space, study, costs
        self.disowned, self.never_ran, self.is_ready, self.together = disowned, never_ran, is_ready, together
        self.asking = Asking(space, study, costs, refused, num_trials, self._own)
        self.trials: dict[str, list[optuna.Trial]] = {}
        """{Tune's trial: the study's that it runs}: several where they train as one model."""
        self.held: list[Asked] = []
        """Trials that wait: until what they read is there, or as the first of another shape than those before it."""
        self.rests_until = self.looks_at = 0.0
        """By the monotonic clock: when the storage is asked again, and when it is searched for lost trials."""
        self.said_waiting = False
        self.failure: Exception | None = None
        """What went wrong when a trial's end was told."""

    def keeping_alive(self) -> contextlib.AbstractContextManager[None]:
        """While the block lasts, other drivers see that this one's trials run."""
        return keep_alive(self.study, self._running_ids)

    def _running_ids(self) -> list[int]:
        return [trial._trial_id for trial in self._own()]

    def _own(self) -> list[optuna.Trial]:
        return [*itertools.chain(*self.trials.values()), *(trial for trial, _ in self.held)]

    # Ray's own annotation leaves out Searcher.FINISHED, a string.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The next proposal that was not made before and keeps to the constraints.

        It is dotted names and values, and the trial's number in the study. None: there is none just now, and there may
        be one later, if another driver dies.
        """
        if time.monotonic() < self.rests_until:
            return None
        self._close_lost()
        self.asking.find_lost_points()
        first = self.held.pop(0) if self.held else self.asking.next()
        if first is not None and self.is_ready is not None and not self.is_ready(self.space.trial(first[1])):
            self.held.insert(0, first)
            return Searcher.FINISHED
        if first is not None:
            self.trials[trial_id] = [first[0]]
            return pack_proposals(*map(self._proposal, self._with_others(trial_id, first)))
        if self.is_done():
            return Searcher.FINISHED
        self._say_waiting()
        self.rests_until = time.monotonic() + _REST_SECONDS
        return None

    def is_done(self) -> bool:
        """Whether the study has its number of trials, nothing follows them, and none runs in another driver."""
        return self.asking.is_done() and not self.held

    def _close_lost(self) -> None:
        if time.monotonic() >= self.looks_at:
            beat(self.study, self._running_ids())  # this driver may have slept
            close_lost(self.study)
            self.looks_at = time.monotonic() + heartbeat_seconds()

    def _proposal(self, asked: Asked) -> Proposal:
        costs = self.costs(self.space.trial(asked[1])) if self.costs else {}
        return proposal_of(*asked, self.space, costs)

    def _with_others(self, trial_id: str, first: Asked) -> list[Asked]:
        """A trial with those that follow it and train with it as one model; the first that does not is held.

        A sampler proposes the rest of their values; what is enqueued, as a grid is, comes shape by shape.
        """
        proposal, asked = self._proposal(first), [first]
        most = 1 if self.together is None else self.together(proposal, 1 + len(self.held) + self.asking.left())
        fixed = self.space.shape_of(first[1]) if most > 1 else None
        while fixed is not None and len(asked) < most:
            if not self.held and (one := self.asking.next(fixed)) is not None:
                self.held.append(one)
            if not self.held or not self._fits(self.held[0], proposal, fixed):
                break
            asked.append(self.held[0])
            self.trials[trial_id].append(self.held.pop(0)[0])
        return asked

    def _fits(self, asked: Asked, proposal: Proposal, shape: Mapping[str, Any]) -> bool:
        own = self._proposal(asked)
        return self.space.shape_of(asked[1]) == shape and (own.stage, own.seeds) == (proposal.stage, proposal.seeds)

    def _say_waiting(self) -> None:
        if not self.trials and not self.said_waiting:
            say(f"search: {self.asking.standing().elsewhere} trials run in other drivers; this one waits for them")
            self.said_waiting = True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tells Optuna.

        Only a trial that ended as planned with finite objectives is complete; all others are pruned, which TPE turns
        away from (it ignores failed ones). Their last numbers are kept as an attribute.
        """
        trials = self.trials.pop(trial_id, [])
        self.rests_until = 0.0
        again = bool(trials and error and self.never_ran is not None and self.never_ran(trial_id))
        messages = unpack_messages(result if trials else None) or (None,) * len(trials)
        try:
            for trial, message in zip(trials, messages, strict=True):
                self._end(trial, message, error, again=again)
        except Exception as failure:
            self.failure = self.failure or failure
            raise

    def _end(self, trial: optuna.Trial, message: Message | None, error: bool, *, again: bool) -> None:
        why = NEVER_RAN if again else None
        try:
            if again:
                self._ask_again(trial)
            else:
                self._tell(trial, message, error)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            if not self.study.get_trials(deepcopy=False)[trial.number].state.is_finished():
                raise
            say(f"trial {trial.number}: another driver took its driver for dead and asked it again; not counted here")
            why = TAKEN_FOR_DEAD
        if why is not None and self.disowned is not None:
            self.disowned(trial.number, why)

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
