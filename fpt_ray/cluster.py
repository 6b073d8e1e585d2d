"""Starting Ray: the cluster this process belongs to, or one of its own on this machine, and what it must have free."""

import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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

_RETRIES = 3
"""Of a call whose host is lost."""
_PATIENCE_S = 20
"""So long a worker may take to answer before it is said that it is waited for."""
Result = TypeVar("Result")


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
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            problem = f"RAY_ADDRESS is {os.environ['RAY_ADDRESS']}, where no cluster can be joined ({error})"
            raise ConfigError(
                f"{problem}; correct it, or unset it for Ray on this machine", fields=("local",)
            ) from None
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
    return [host for host in _counts(_live_nodes()) if host.get("CPU", 0) >= 1]


def working_hosts() -> list[dict[str, float]]:
    """What each host counts that does the work: those with GPUs where there are GPUs, else all that compute."""
    return [host for host in _counts(_live_nodes()) if host.get("GPU", 0) > 0] or computing_hosts()


def _live_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _counts(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    return [node["Resources"] for node in nodes]


# --- whether there is room ----------------------------------------------------------------------------------------


def whole_worker() -> dict[str, float]:
    """What a worker holds unless told otherwise: a CPU, and a GPU where there are GPUs."""
    return {"CPU": 1.0, "GPU": 1.0 if cluster_resources()[1] else 0.0}


def room_for(share: Mapping[str, float], hosts: Sequence[Mapping[str, float]]) -> int:
    """How many workers, each of which holds this share of one host, the hosts have room for."""
    asked = {name: part for name, part in share.items() if part > 0}
    return sum(min(int(host.get(name, 0) / part + 1e-6) for name, part in asked.items()) for host in hosts)


def autoscales(nodes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether hosts may join by themselves: ``ray up`` and KubeRay mark their nodes with the name of their type.

    Which types there are besides, neither tells.
    """
    return any("ray.io/node-group" in node.get("Labels", {}) for node in nodes)


def hosts_may_join() -> bool:
    """Whether this cluster grows by itself."""
    return autoscales(_live_nodes())


def require_resources(purpose: str, *, cpus: float, gpus: float, workers: int = 1) -> None:
    """ConfigError, instead of a job that waits for ever, if no hosts are there for so many workers of such a share.

    A worker has its CPUs and GPUs on one host. Where hosts may join by themselves, it is said that this is waited for.
    """
    nodes = _live_nodes()
    hosts = _counts(nodes)
    if room_for({"CPU": cpus, "GPU": gpus}, hosts) >= workers:
        return
    each = "on one host" if workers == 1 else f"each for {workers} workers, those of a worker on one host"
    needs = f"{purpose} needs {cpus:g} CPUs and {gpus:g} GPUs, {each}"
    if autoscales(nodes):
        say(f"cluster: {needs}; its hosts have {_hosts_text(hosts)}; waiting until the autoscaler has brought others")
        return
    raise ConfigError(
        f"{needs}; this cluster has {_hosts_text(hosts)}. Ask for fewer or smaller workers, or join a larger cluster "
        "(RAY_ADDRESS)"
    )


def _hosts_text(hosts: Sequence[Mapping[str, float]]) -> str:
    alike = Counter(f"{host.get('CPU', 0):g} CPUs and {host.get('GPU', 0):g} GPUs" for host in hosts)
    return ", ".join(f"{number} x {text}" if number > 1 else text for text, number in alike.items()) or "no host"


# --- asking workers -----------------------------------------------------------------------------------------------


def ask_worker(question: Callable[[], Result]) -> Result:
    """What a worker says of the kind that does the work: one with a GPU where there are GPUs.

    What depends on the hardware is asked there, since the driver's host may be of another kind.
    """
    return worker_asked(question)()


def worker_asked(question: Callable[[], Result]) -> Callable[[], Result]:
    """``ask_worker`` that lets the caller go on: it gives what waits for the answer."""
    share = {"GPU": 0.01} if cluster_resources()[1] else {"CPU": 0.01}
    asked = _start(question, share)

    def answer() -> Result:
        if not ray.wait([asked], timeout=_PATIENCE_S)[0]:
            say(f"cluster: all hosts are busy; waiting for {share} of one, to ask it what it computes on")
        return _result(asked)

    return answer


def on_every_host(call: Callable[[], Result]) -> list[Result]:
    """What each host says that computes; it takes no share of a host.

    Raises:
        ConfigError: a call has raised it.
    """
    start: Any = ray.remote(_make)
    nodes = [node["NodeID"] for node in _live_nodes() if node["Resources"].get("CPU", 0) >= 1]
    strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    answers = [start.options(num_cpus=0, scheduling_strategy=strategy).remote(call) for strategy in strategies]
    return [_result(answer) for answer in answers]


def run_on_workers(
    calls: Mapping[str, Callable[[], Result]], shares: Mapping[str, Mapping[str, float]]
) -> Iterator[tuple[str, Result]]:
    """Results of calls by their names, as they come, each computed on a worker with its share of a host.

    A call whose host is lost is made again elsewhere.

    Raises:
        ConfigError: a call has raised it.
    """
    waiting = {_start(call, shares[name]): name for name, call in calls.items()}
    try:
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), _result(done)
    finally:
        for call in waiting:
            ray.cancel(call)


def _start(call: Callable[[], Any], share: Mapping[str, float]) -> Any:
    options = {"num_cpus": share.get("CPU", 0), "num_gpus": share.get("GPU", 0), "max_retries": _RETRIES}
    start: Callable[..., Any] = ray.remote(_make).options(**options).remote
    return start(call)


def _make(call: Callable[[], Result]) -> Result:
    return call()


def _result(call: Any) -> Any:
    try:
        return ray.get(call)
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, ConfigError) else error from None
