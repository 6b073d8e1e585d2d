"""Starting Ray: the cluster this process belongs to, or one of its own on this machine, and what it must have free."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray Train's reports wait for the controller's next poll: 2 s by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # Trials shorter than seconds make Tune warn about its own snapshots.
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Result tables come from report, not from Tune's reporter.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Tune would take an interrupt for the search's end, and what comes after it would go on.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


@contextmanager
def ray_session(
    *, local: bool = False, dashboard: bool = False, num_cpus: int | None = None, num_gpus: int | None = None
) -> Iterator[None]:
    """Joins the cluster named by RAY_ADDRESS, or starts one on this machine and ends it again.

    ``local`` starts one here whatever RAY_ADDRESS says. A session that already runs in this process is used as it is.
    ``num_cpus`` and ``num_gpus`` are what the one started here counts, whatever the machine has.
    ``dashboard`` is needed where trials start trainers of their own (their clean-up asks it). Meanwhile SIGTERM, which
    ``ray job stop`` and clusters send, interrupts as Ctrl-C does, so that what runs is closed properly.
    """
    if ray.is_initialized():
        yield
        return
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    before = signal.getsignal(signal.SIGTERM)
    joins = "RAY_ADDRESS" in os.environ and not local
    if joins:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with _interrupted_by_sigterm(before):
        try:
            if joins:
                _await_first_worker()
            yield
        finally:
            ray.shutdown()


@contextmanager
def _interrupted_by_sigterm(before: Any) -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, where ray.init has set a handler that exits at once; then ``before`` is back.

    Only the main thread may set handlers; elsewhere, as in a server's or a notebook's threads, all stays as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _await_first_worker() -> None:
    """Has an autoscaling cluster that has shrunk to a head that computes nothing start a worker.

    What a cluster is made of is read off its workers. Ray does not tell which kinds its autoscaler could start: whether
    they have GPUs is said by FPT_RAY_WORKER_GPUS in the head's environment, which drivers inherit.
    """
    cpus, gpus = cluster_resources()
    wanted = _worker_gpus()
    if cpus == 0 or gpus < wanted:
        kind = "worker with a GPU" if wanted else "worker"
        say(f"cluster: it has no {kind}; waiting until it has started one")
        ray.get(ray.remote(num_cpus=1, num_gpus=wanted)(lambda: None).remote())


def _worker_gpus() -> int:
    """GPUs of a worker that the cluster's autoscaler can start, as its files say."""
    value = os.environ.get("FPT_RAY_WORKER_GPUS", "0")
    if not value.isdecimal():
        raise ConfigError(f"FPT_RAY_WORKER_GPUS is {value!r}; give a worker's GPUs as a whole number, or 0 for none")
    return int(value)


def cluster_resources() -> tuple[int, int]:
    """(CPUs, GPUs) of the cluster."""
    resources = ray.cluster_resources()
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))


def computing_hosts() -> list[dict[str, float]]:
    """What each host counts that has a CPU at least."""
    hosts = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [host for host in hosts if host.get("CPU", 0) >= 1]


def require_resources(purpose: str, *, cpus: float, gpus: float) -> None:
    """ConfigError, instead of a job that waits for ever, if the whole cluster has less than something needs."""
    have_cpus, have_gpus = cluster_resources()
    if cpus > have_cpus or gpus > have_gpus:
        raise ConfigError(
            f"{purpose} needs {cpus:g} CPUs and {gpus:g} GPUs at once; this cluster has {have_cpus} CPUs and "
            f"{have_gpus} GPUs. Ask for fewer workers, or join a larger cluster (RAY_ADDRESS)"
        )
