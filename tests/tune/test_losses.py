"""Which of a trial's lost workers Tune counts against it, against deaths told by hand."""

from types import SimpleNamespace

from fpt_ray.search.messages import RESTARTS
from fpt_ray.tune import losses
from fpt_ray.tune.losses import HostLosses


def test_who_is_given_up_while_it_waits_for_its_worker_never_ran():
    log = HostLosses()
    log.on_step_begin(
        1, [SimpleNamespace(trial_id="waits", status="PENDING"), SimpleNamespace(trial_id="runs", status="RUNNING")]
    )
    assert log.never_ran("waits")
    assert not log.never_ran("runs")
    assert not log.never_ran("unknown")


def test_a_death_counts_unless_its_host_is_gone_within_a_minute(monkeypatch):
    """Hosts a, b and c: a goes with the trial, b stays, and c goes a while after the worker it had."""
    live, clock = {"a", "b", "c"}, [0.0]
    monkeypatch.setattr(losses, "live_hosts", lambda: live)
    monkeypatch.setattr(losses, "host_of", lambda actor: actor)
    monkeypatch.setattr(losses.time, "monotonic", lambda: clock[0])
    trial = SimpleNamespace(trial_id="t", num_failures=0, max_failures=RESTARTS, temporary_state=SimpleNamespace())
    told, log = (0, [trial], trial), HostLosses()

    def run_on(host):
        trial.temporary_state.ray_actor = host
        log.on_trial_start(*told)

    def die(counted=1):
        trial.num_failures += counted
        log.on_trial_recover(*told)
        return trial.max_failures - RESTARTS

    run_on("a")
    live.remove("a")
    assert die() == 1
    run_on("b")
    assert die() == 1
    clock[0] = 100.0
    run_on("c")
    live.remove("b")  # long after the worker that died on it alone
    assert die() == 1
    clock[0] = 110.0
    live.remove("c")
    run_on("d")
    assert trial.max_failures == RESTARTS + 2
    assert die(counted=0) == 2  # Tune does not count what was announced
    log.on_trial_result(*told, {})
    assert trial.max_failures == RESTARTS + 2
