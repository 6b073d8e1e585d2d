"""The first worker of a cluster that has shrunk to its head, compared with the kinds that Ray's autoscaler could start.

The autoscaler is Ray's own over its fake provider, whose nodes are processes here; their GPUs are counted, not there.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
import ray

from fpt_ray import cluster
from fpt_ray.errors import ConfigError
from tests.hosts.namespaces import wait_until
from tests.s3_server import free_ports

HEAD = "ray.head.default"  # as the fake provider calls it
CONFIG = {
    "cluster_name": "fake",
    "max_workers": 2,
    "idle_timeout_minutes": 10,
    "auth": {"ssh_user": "nobody"},
    "docker": {},
    "upscaling_speed": 1.0,
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
    **{f"{kind}_commands": [] for kind in ("initialization", "setup", "head_setup", "worker_setup")},
    **{f"{kind}_start_ray_commands": [] for kind in ("head", "worker")},
    "head_node": {},
    "worker_nodes": {},
    "head_node_type": HEAD,
    "available_node_types": {
        HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1},
        "gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    },
}
PROGRAM = """
import ray
from fpt_ray.cluster import cluster_resources, ray_session

with ray_session():
    print("found", *cluster_resources())
"""


@pytest.fixture
def head():
    """The environment of a driver on an autoscaling head that has no worker; what it started ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="fpt", dir="/tmp"))  # sockets lie in it, whose paths must be short
    port, *others = free_ports(6)
    address = f"{ray.util.get_node_ip_address()}:{port}"
    provider = {"type": "fake_multinode", "gcs_address": address}
    (folder / "cluster.json").write_text(json.dumps({**CONFIG, "provider": provider}))
    names = ("dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
    names += ("ray-client-server-port",)
    options = {"port": port, **dict(zip(names, others, strict=True)), "num-cpus": 0, "num-gpus": 0}
    options |= {"min-worker-port": 0, "max-worker-port": 0, "object-store-memory": 100 * 2**20, "temp-dir": folder}
    options |= {"autoscaling-config": folder / "cluster.json"}
    environment = {name: value for name, value in os.environ.items() if name != "FPT_RAY_WORKER_GPUS"}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder / "log").open("w") as log:
        started = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    family = [psutil.Process(started.pid)]
    try:
        wait_until("Ray's head is up", lambda: "Ray runtime started" in (folder / "log").read_text())
        yield {**environment, "RAY_ADDRESS": address}
    finally:
        family += family[0].children(recursive=True)
        started.terminate()
        for one in psutil.wait_procs(family, timeout=5)[1]:
            one.kill()
        started.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("said", "found"), [({}, "found 1 0"), ({"FPT_RAY_WORKER_GPUS": "1"}, "found 1 1")])
def test_the_first_worker_is_of_the_kind_that_the_head_says(head, said, found):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**head, **said}, capture_output=True, text=True, timeout=120
    )
    assert found in done.stdout, done.stdout + done.stderr


def test_another_number_of_gpus_than_a_whole_one_is_refused(monkeypatch):
    monkeypatch.setenv("FPT_RAY_WORKER_GPUS", "yes")
    monkeypatch.setattr(cluster, "cluster_resources", lambda: (0, 0))
    with pytest.raises(ConfigError, match="FPT_RAY_WORKER_GPUS is 'yes'"):
        cluster._await_first_worker()
