"""A search whose hosts are taken away one after the other, against what MLflow holds of it."""

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from fpt_ray.config.space_yaml import load_space
from fpt_ray.preload.pipeline import preload
from fpt_ray.search.messages import RESTARTS
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.server import default_uri, open_tracking
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.study import run_study
from tests.conftest import SMOKE
from tests.searches import of_store
from tests.stores import draw_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
MEMORY: dict[str, Any] = {"object_store_memory": 150 * 2**20}


@pytest.fixture
def hosts():
    """A head that computes nothing, and one host beside it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, **MEMORY})
    cluster.add_node(num_cpus=2, **MEMORY)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def epochs_told(study):
    return sum(len(told.read_text().splitlines()) for told in study.glob("tune-*/*/result.json"))


def take_hosts_away(cluster, study, times, searched):
    """Kills the host that trains and adds a new one, so many times, whenever an epoch more was told."""
    for _ in range(times):
        before = epochs_told(study)
        while epochs_told(study) == before:
            assert not searched.done(), searched.result()
            time.sleep(0.05)
        (host,) = cluster.worker_nodes
        cluster.remove_node(host, allow_graceful=False)
        cluster.add_node(num_cpus=2, **MEMORY)


def test_a_trial_ends_though_it_loses_more_hosts_than_it_has_restarts(hosts, tmp_path):
    store = preload(draw_images(tmp_path / "images"), load_space(SMOKE).stores()[0], str(tmp_path))
    options = StudyOptions(
        **of_store(store, workdir=str(tmp_path), study="h"), num_trials=1, set=("training.epochs=60",)
    )
    with ThreadPoolExecutor(1) as pool:  # hosts can be added in the main thread alone
        searched = pool.submit(run_study, options)
        take_hosts_away(hosts, tmp_path / "studies" / "h", RESTARTS + 3, searched)
        searched.result()
    client = open_tracking(default_uri(tmp_path))
    (record,) = tracking.read_trials(client, tracking.find_study(client, "h"))
    assert (record.status, record.reason, record.pruned) == ("FINISHED", "", "")
    assert record.metrics["epochs"] == 60
    assert "test_auc" in record.metrics
