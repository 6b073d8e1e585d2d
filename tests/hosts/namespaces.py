"""Hosts on one machine, each with its own address, processes and disk, and a cable between them that can be cut.

Where this process may make namespaces, a host has its own of networks, processes, mounts and names; elsewhere it is a
group of processes with an address of its own on loopback, and shares the disk.
"""

import contextlib
import fcntl
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
LIMIT_S = 120
"""For anything that is waited for."""
_BRIDGE, _NET = "fptbr0", "10.77.0"
_HEAD_PORT = 6379
_NOTICED = {  # of a host that is lost without a word, Ray by default hears after half a minute and more
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


def namespaces_allowed() -> bool:
    """Whether this process may make hosts of namespaces."""
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        return False
    made = subprocess.run(["ip", "netns", "add", "fptprobe"], capture_output=True).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", "fptprobe"], capture_output=True).returncode == 0


def wait_until(what: str, holds: Callable[[], object]) -> None:
    """Waits, also while nobody answers; AssertionError after two minutes."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        with contextlib.suppress(OSError):
            if holds():
                return
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@dataclass
class Command:
    """A command that was started, and where it writes."""

    process: subprocess.Popen
    out: Path
    errors: Path

    def told(self, timeout_s: float = 300) -> str:
        """What it has printed when it has ended; AssertionError if it failed."""
        code = self.process.wait(timeout_s)
        assert code == 0, f"exit {code}: {self.errors.read_text()[-4000:]}"
        return self.out.read_text()


@dataclass
class Host:
    """One host; its processes are the descendants of ``init``."""

    name: str
    address: str
    network: "Network"
    init: psutil.Popen | None = None
    started: list[Command] = field(default_factory=list)

    def start(self, *command: str, **environment: str) -> Command:
        """Starts a command on the host."""
        inside = ["nsenter", "--all", f"--target={self.init.children()[0].pid}"] if self.init else []
        inside += ["env", f"--chdir={self.network.disk}"]
        paths = [self.network.folder / f"{self.name}-{len(self.started)}.{kind}" for kind in ("out", "err")]
        with paths[0].open("w") as out, paths[1].open("w") as errors:
            environment = {**self.network.environment(), **environment}
            process = subprocess.Popen(
                [*inside, *command], env=environment, stdout=out, stderr=errors, start_new_session=True
            )
        self.started.append(Command(process, *paths))
        return self.started[-1]

    def join(self, head: "Host | None" = None, cpus: int = 1) -> None:
        """Starts Ray: a cluster of its own or, with a head, a worker of that one's."""
        command = ["ray", "start", "--block", "--disable-usage-stats", f"--node-ip-address={self.address}"]
        command += [f"--num-cpus={cpus}", f"--object-store-memory={150 * 2**20}"]
        if head is None:
            command += ["--head", f"--port={_HEAD_PORT}", f"--temp-dir={self.network.disk}/ray"]
            command += ["--include-dashboard=false", "--ray-client-server-port=20001"]
        else:
            command += [f"--address={head.address}:{_HEAD_PORT}"]
        if not self.init:  # all hosts listen on one machine's ports
            low = 20000 + 1000 * int(self.address.rpartition(".")[2])
            command += [f"--min-worker-port={low}", f"--max-worker-port={low + 900}"]
            command += [f"--dashboard-agent-listen-port={low + 901}", f"--dashboard-agent-grpc-port={low + 902}"]
            command += [f"--metrics-export-port={low + 903}", f"--runtime-env-agent-port={low + 904}"]
        self.start(*command, **_NOTICED)

    def processes(self) -> list[psutil.Process]:
        """All that runs on the host."""
        started = [psutil.Process(one.process.pid) for one in self.started if one.process.poll() is None]
        roots = [self.init, *started] if self.init else started
        found: list[psutil.Process] = []
        for root in roots:
            with contextlib.suppress(psutil.Error):
                found += [root, *root.children(recursive=True)]
        return found

    def runs(self, name: str) -> bool:
        """Whether a process of that name runs here."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if name in " ".join(process.cmdline()):
                    return True
        return False

    def die(self) -> None:
        """The cable is cut and all processes are gone at the same moment; nobody is told."""
        if self.init:
            subprocess.run(["ip", "link", "del", f"v{self.name}"], check=True)
            self.init.children()[0].kill()  # with a process namespace's first process, the kernel kills all others
            self.init.wait(10)
            subprocess.run(["ip", "netns", "del", self.name], check=True)
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for one in self.started:
            one.process.wait(10)
        self.network.hosts.remove(self)


@dataclass
class Network:
    """What connects the hosts; the machine that runs the tests is its gateway."""

    namespaced: bool
    folder: Path
    hosts: list[Host] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(2))

    @property
    def gateway(self) -> str:
        """The address at which hosts reach this machine."""
        return f"{_NET}.1" if self.namespaced else "127.0.0.1"

    @property
    def disk(self) -> Path:
        """A folder of the same name on every host; that of the first is this machine's, other hosts' are their own."""
        return self.folder / "disk"

    def environment(self) -> dict[str, str]:
        """What commands on the hosts have in theirs: this process's, without what belongs to its own Ray."""
        kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}
        own = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.disk),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "tests-token-" + 36 * "0",
        }
        return {**kept, **own}

    def host(self) -> Host:
        """A new host."""
        number = next(self.numbers)
        name = f"fpt{number}"
        host = Host(name, f"{_NET}.{number}" if self.namespaced else f"127.0.0.{number}", self)
        if self.namespaced:
            host.init = self._boot(host, own_disk=number > 2)
        self.hosts.append(host)
        return host

    def _boot(self, host: Host, *, own_disk: bool) -> psutil.Popen:
        name = host.name
        names = self.folder / f"{name}.hosts"
        names.write_text(f"127.0.0.1 localhost\n{host.address} {name}\n")
        for command in (
            f"ip netns add {name}",
            f"ip link add v{name} type veth peer name eth0 netns {name}",
            f"ip link set v{name} master {_BRIDGE} up",
            f"ip -n {name} addr add {host.address}/24 dev eth0",
            f"ip -n {name} link set lo up",
            f"ip -n {name} link set eth0 up",
        ):
            subprocess.run(command.split(), check=True)
        own = f"mount -t tmpfs none {self.disk};" if own_disk else ""
        boot = f"hostname {name}; mount --bind {names} /etc/hosts; {own} echo up; exec sleep infinity"
        unshared = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", boot]
        init = psutil.Popen(
            ["ip", "netns", "exec", name, *unshared],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        with init.stdout as told:
            assert told.readline() == "up\n", f"host {name} does not start"
        return init


@contextlib.contextmanager
def _bridge() -> Iterator[None]:
    """The machine's own, to which one run of the tests at a time has its hosts; of a killed one, they are removed."""
    with Path(tempfile.gettempdir(), f"{_BRIDGE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
        for left in re.findall(r"^fpt\d+", listed, re.MULTILINE):
            inside = subprocess.run(["ip", "netns", "pids", left], check=True, capture_output=True, text=True).stdout
            for number in inside.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(number), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", left], check=True)
        subprocess.run(f"ip link del {_BRIDGE}".split(), capture_output=True)
        subprocess.run(f"ip link add {_BRIDGE} type bridge".split(), check=True)
        try:
            subprocess.run(f"ip addr add {_NET}.1/24 dev {_BRIDGE}".split(), check=True)
            subprocess.run(f"ip link set {_BRIDGE} up".split(), check=True)
            yield
        finally:
            subprocess.run(f"ip link del {_BRIDGE}".split(), check=True)


@contextlib.contextmanager
def network(*, namespaced: bool) -> Iterator[Network]:
    """A network without hosts yet; all that was started on it ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="fpt", dir="/tmp"))  # sockets lie in it, whose paths must be short
    (folder / "disk").mkdir()
    found = Network(namespaced, folder)
    with _bridge() if namespaced else contextlib.nullcontext():
        try:
            yield found
        finally:
            for host in list(found.hosts):
                host.die()
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)
