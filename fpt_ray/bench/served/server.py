"""``fpt-ray serve`` as a process of its own, and what of memory its processes hold."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_PATIENCE_S = 300
"""So long a server may take to its first answer, and to its end."""
_SAYS = "serving at "


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server that answers."""

    address: str
    """Such as http://127.0.0.1:8000/."""
    token: str
    process: subprocess.Popen[bytes]
    replicas: tuple[psutil.Process, ...]

    @property
    def replica_bytes(self) -> int:
        """Resident, of all replicas."""
        return sum(replica.memory_info().rss for replica in self.replicas)

    @property
    def front_bytes(self) -> int:
        """Resident, of the process that speaks HTTP."""
        return psutil.Process(self.process.pid).memory_info().rss


@contextmanager
def serving(model: str, options: Sequence[str], folder: Path) -> Iterator[Server]:
    """Starts a server at a free port and ends it by SIGTERM; what it says lies in ``folder``.

    Raises:
        RuntimeError: it has ended, does not answer, or does not end with status 0.
    """
    token, said = secrets.token_urlsafe(32), folder / "stdout.txt"
    command = [sys.executable, "-m", "fpt_ray.serve", "--model", model, "--port", "0", *options]
    with said.open("wb") as out, (folder / "stderr.txt").open("wb") as errors:
        process = subprocess.Popen(
            command, stdout=out, stderr=errors, env={**os.environ, "FPT_RAY_SERVE_TOKEN": token}, start_new_session=True
        )
    try:
        address = _address(process, said)
        children = psutil.Process(process.pid).children(recursive=True)
        replicas = tuple(child for child in children if "ServeReplica" in " ".join(child.cmdline()))
        yield Server(address=address, token=token, process=process, replicas=replicas)
    finally:
        status = ended(process)
    if status:
        raise RuntimeError(f"the server ended with {status}: {(folder / 'stderr.txt').read_text()[-500:]}")


def ended(process: subprocess.Popen[bytes]) -> int:
    """Ends a server as clusters do; its exit status, or minus the signal that it took."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def _address(process: subprocess.Popen[bytes], said: Path) -> str:
    until = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < until:
        for line in said.read_text().splitlines():
            if line.startswith(_SAYS):
                return line.removeprefix(_SAYS)
        time.sleep(0.05)
    raise RuntimeError(f"the server does not answer: {said.with_name('stderr.txt').read_text()[-500:]}")
