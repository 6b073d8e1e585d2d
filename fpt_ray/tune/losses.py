"""What a trial's lost workers count for: that a host was taken away is not the trial's fault."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray._private import state
from ray.tune.experiment import Trial
from typing_extensions import override

_NOTICE_SECONDS = 60
"""Ray may take so long to notice that a host is gone, after a worker of it was missed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Death:
    """A trial's worker that died, not known yet whether alone."""

    host: str
    """Ray's name of the host it ran on."""
    at: float
    """``time.monotonic()`` as it was noticed."""


def lost_with_host(deaths: Sequence[Death], live: Collection[str]) -> list[Death]:
    """Those whose host is no longer there."""
    return [death for death in deaths if death.host not in live]


def still_open(deaths: Sequence[Death], live: Collection[str], now: float) -> list[Death]:
    """Those whose host is there, and may be gone all the same; what is older died alone."""
    return [death for death in deaths if death.host in live and now - death.at < _NOTICE_SECONDS]


class HostLosses(tune.Callback):
    """Has Tune begin a trial once more for each time it was lost with its host.

    Tune compares a trial's failures with its ``max_failures`` as each happens, so that a loss may be noticed later than
    it happened as long as the trial has restarts left.
    """

    def __init__(self) -> None:
        self.hosts: dict[str, str] = {}
        """{Tune's trial: the host its worker runs on}."""
        self.failures: dict[str, int] = {}
        """{Tune's trial: the failures that Tune counts}; it leaves out preemptions that were announced."""
        self.deaths: dict[str, list[Death]] = {}
        """{Tune's trial: deaths of which it is open whether the host is gone}."""
        self.trials: list[Any] = []
        """Tune's own list of its trials."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune's own snapshot of the experiment, which is never read

    def never_ran(self, trial_id: str) -> bool:
        """Whether a trial that Tune gives up was still waiting for the worker it was given.

        Tune keeps a worker for the next trial. If it has died meanwhile, as with its host, Tune gives that trial up,
        whatever restarts it has left, and may have counted the one death several times.
        """
        return any(trial.trial_id == trial_id and trial.status == Trial.PENDING for trial in self.trials)

    @override
    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Notes where Tune keeps its trials."""
        self.trials = trials

    @override
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes where it runs."""
        self.hosts[trial.trial_id] = host_of(trial.temporary_state.ray_actor)
        self._allow(trial)

    @override
    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Looks again where a death is open."""
        self._allow(trial)

    @override
    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes a death after which Tune begins the trial again."""
        name = trial.trial_id
        if trial.num_failures > self.failures.get(name, 0) and name in self.hosts:
            self.deaths.setdefault(name, []).append(Death(host=self.hosts[name], at=time.monotonic()))
        self.failures[name] = trial.num_failures
        self._allow(trial)

    def _allow(self, trial: Any) -> None:
        """Adds to the trial's failures those it is not to blame for."""
        if not (deaths := self.deaths.get(trial.trial_id)):
            return
        live = live_hosts()
        trial.max_failures += len(lost_with_host(deaths, live))
        self.deaths[trial.trial_id] = still_open(deaths, live, time.monotonic())


def host_of(actor: Any) -> str:
    """Ray's name of the host that an actor runs on.

    Ray's public state API needs a dashboard, which a cluster may lack; this asks the same books directly.
    """
    return state.actors(actor._actor_id.hex())["Address"]["NodeID"]


def live_hosts() -> set[str]:
    """Ray's names of the hosts that are there."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
