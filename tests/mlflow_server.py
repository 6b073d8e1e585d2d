"""A real MLflow server on loopback, as the tests start and kill it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request

from tests.s3_server import free_ports


class Server:
    """``mlflow server`` on loopback, over a database and a folder of its own."""

    def __init__(self, folder):
        (port,) = free_ports(1)
        self.folder, self.uri, self.process = folder, f"http://127.0.0.1:{port}", None
        self.command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        self.command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
        self.command += ["--artifacts-destination", f"{folder}/artifacts"]

    def start(self):
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = (self.folder / "server.log").open("a")
        with log:
            self.process = subprocess.Popen(
                self.command, start_new_session=True, stdout=log, stderr=log, env=environment, cwd=self.folder
            )
        deadline = time.monotonic() + 120
        while True:
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            time.sleep(0.1)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
