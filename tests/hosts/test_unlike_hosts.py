"""A driver on a head that computes nothing, and two unlike hosts beside it: one has a GPU in Ray's books, and its
answer to what it computes on differs from the driver's. Compared with the same work in this process.
"""

import logging
import os
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from fpt_ray.cluster import ask_worker, run_on_workers
from fpt_ray.config.space_yaml import load_space
from fpt_ray.config.trial import TrialConfig
from fpt_ray.cost.prediction import Arithmetic, training_memory, trial_costs
from fpt_ray.errors import ConfigError
from fpt_ray.models.hardware import Hardware, hardware_here
from fpt_ray.preload import pipeline
from fpt_ray.tune.resources import plan_packing
from tests.conftest import SMOKE
from tests.stores import draw_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def unlike_hosts():
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    memory: dict[str, Any] = {"object_store_memory": 150 * 2**20}
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory})
    cluster.add_node(num_cpus=16, **memory, env_vars={"FPT_RAY_TEST_HOST": "cpus"})
    # Its GPU is in Ray's books alone: named to a process, it would be one that PyTorch cannot use.
    no_gpu = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
    cluster.add_node(num_cpus=4, num_gpus=1, **memory, env_vars={"FPT_RAY_TEST_HOST": "gpu", **no_gpu})
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def asked():
    """What a process of the GPU's host says of itself: bfloat16 is there if it is not here."""
    there = not hardware_here().has_bfloat16

    def hardware() -> Hardware:
        if os.environ.get("FPT_RAY_TEST_HOST") != "gpu":
            return hardware_here()
        return Hardware(device="cuda", name="a card", has_bfloat16=there, memory_bytes=24 * 2**30)

    return hardware


def test_the_hardware_is_that_of_the_host_with_the_gpu(unlike_hosts, asked):
    assert ask_worker(asked).name == "a card"
    assert asked().name == "cpu"


def test_a_stores_name_and_the_costs_follow_the_worker_not_the_driver(
    unlike_hosts, asked, tmp_path, monkeypatch, capsys
):
    """The actor's share fits the GPU's host, so preload ends at all."""
    monkeypatch.setattr(pipeline, "_hardware_of_worker", asked)
    hardware, trial = ask_worker(asked), load_space(SMOKE).stores()[0]
    store = pipeline.preload(draw_images(tmp_path / "images"), trial, str(tmp_path / "work"))
    kinds: dict[bool, Arithmetic] = {True: "bfloat16", False: "float32"}
    assert store.spec.precision == kinds[hardware.has_bfloat16] != kinds[hardware_here().has_bfloat16]
    assert "on 1 x a card in" in capsys.readouterr().err
    packing, at_once = plan_packing(1, None, None, hardware)
    assert at_once == 4
    costs = trial_costs(TrialConfig(), 5, packing.hardware)
    expected = training_memory(TrialConfig(), 5, precision=kinds[hardware.has_bfloat16])
    assert costs["peak_memory_bytes"] == expected.process_bytes


def test_calls_run_beside_each_other_and_what_one_raises_is_told(unlike_hosts):
    def host():
        return os.environ["FPT_RAY_TEST_HOST"]

    def fail():
        raise ConfigError("side.depth is 99")

    shares = {"a": {"CPU": 1.0, "GPU": 0.5}, "b": {"CPU": 1.0, "GPU": 0.5}, "c": {"CPU": 10.0}}
    assert dict(run_on_workers(dict.fromkeys(shares, host), shares)) == {"a": "gpu", "b": "gpu", "c": "cpus"}
    with pytest.raises(ConfigError, match=r"side\.depth is 99"):
        list(run_on_workers({"a": fail}, shares))


def test_a_share_that_no_host_has_is_refused_at_once(unlike_hosts, asked):
    with pytest.raises(ConfigError, match=r"a trial needs 5 CPUs and 0\.02 GPUs, on one host; .*4 CPUs and 1 GPUs"):
        plan_packing(1, 5.0, None, ask_worker(asked))
