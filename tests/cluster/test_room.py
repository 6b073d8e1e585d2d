"""What hosts have room for, by hand: hosts are what ``ray.nodes()`` lists, without Ray."""

import pytest
import ray

from fpt_ray.cluster import computing_hosts, ray_session, require_resources, room_for, working_hosts
from fpt_ray.errors import ConfigError
from fpt_ray.models.hardware import Hardware
from fpt_ray.preload.extraction import READING_CPUS
from fpt_ray.preload.pace import lpm_layouts
from fpt_ray.tune.resources import plan_packing

CPUS, GPU = {"CPU": 16.0}, {"CPU": 4.0, "GPU": 1.0}
CARD = Hardware(device="cuda", name="a card", has_bfloat16=True, memory_bytes=24 * 2**30)
CPU = Hardware(device="cpu", name="cpu", has_bfloat16=False)


@pytest.fixture
def hosts(monkeypatch):
    """Sets the hosts of the cluster; ``of_type`` is the node type that an autoscaler writes on them."""

    def have(*hosts, of_type=None):
        labels = {"ray.io/node-group": of_type} if of_type else {}
        nodes = [{"Alive": True, "Resources": host, "Labels": labels} for host in hosts]
        gone = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}, "Labels": {}}
        monkeypatch.setattr(ray, "nodes", lambda: [*nodes, gone])
        total = {name: sum(host.get(name, 0) for host in hosts) for name in ("CPU", "GPU")}
        monkeypatch.setattr(ray, "cluster_resources", lambda: total)

    return have


@pytest.mark.parametrize(
    ("share", "hosts", "workers"),
    [
        ({"CPU": 1.0}, [CPUS, GPU], 20),
        ({"CPU": 3.0}, [CPUS, GPU], 6),  # 5 and 1, where 20 CPUs in one place would hold no more
        ({"CPU": 12.0}, [CPUS, CPUS], 2),
        ({"CPU": 5.0, "GPU": 1.0}, [CPUS, GPU], 0),
        ({"CPU": 1.0, "GPU": 0.3}, [GPU], 3),
        ({"CPU": 0.1}, [{"CPU": 1.0}], 10),
    ],
)
def test_a_worker_has_its_share_on_one_host(share, hosts, workers):
    assert room_for(share, hosts) == workers


@pytest.mark.parametrize(
    "each",
    [
        [CPUS, GPU],
        [{"CPU": 64.0, "GPU": 8.0}, GPU],
        [{"CPU": 1.0, "GPU": 4.0}],
        [CPUS, {"CPU": 4.0}],
        [{"CPU": 1.0}],
    ],
)
def test_every_preload_actor_has_room_and_leaves_some_to_read_images(hosts, each):
    hosts(*each)
    layouts = lpm_layouts(working_hosts(), computing_hosts(), shards=100)
    assert layouts
    for one in layouts:
        assert one.actors >= 1
        assert room_for({"CPU": one.cpus, "GPU": one.gpus}, each) >= one.actors
        assert one.actors * one.cpus + READING_CPUS * one.readers <= sum(host["CPU"] for host in each) + 1e-9
        assert one.readers >= 1
        assert (one.cpus, one.gpus) != (READING_CPUS, 0)


def test_actors_on_gpus_take_a_quarter_of_the_gpu_hosts_cpus(hosts):
    hosts(CPUS, GPU)
    (layout,) = lpm_layouts(working_hosts(), computing_hosts(), shards=100)
    assert (layout.actors, layout.cpus, layout.gpus, layout.threads) == (1, 1.0, 1.0, 1)


def test_actors_without_gpus_use_every_core_of_their_host_and_are_no_more_than_shards_and_memory_allow(hosts):
    """Of a few threads each, up to one with all; the host with the fewest cores has room for each."""
    hosts(CPUS)
    layouts = lpm_layouts(working_hosts(), computing_hosts(), shards=100)
    assert [(one.actors, one.threads) for one in layouts] == [(16, 1), (8, 2), (4, 4), (2, 8), (1, 16)]
    few = lpm_layouts(working_hosts(), computing_hosts(), shards=3)
    assert [(one.actors, one.threads) for one in few] == [(2, 8), (1, 16)]
    hosts(CPUS, {"CPU": 4.0})
    assert [(one.actors, one.threads) for one in lpm_layouts(working_hosts(), computing_hosts(), shards=100)] == [
        (20, 1),
        (10, 2),
        (5, 4),
    ]
    hosts({"CPU": 16.0, "memory": 9.0 * 2**30})
    held = lpm_layouts(working_hosts(), computing_hosts(), shards=100)
    assert [(one.actors, one.threads) for one in held] == [(4, 4), (2, 8), (1, 16)]


def test_an_address_where_no_cluster_is_is_named(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head")
    with pytest.raises(ConfigError, match="RAY_ADDRESS is head, where no cluster can be joined"), ray_session():
        pass


def test_what_no_host_has_is_refused_though_the_cluster_has_it_in_all(hosts):
    hosts(CPUS, GPU)
    with pytest.raises(ConfigError, match=r"a trial needs 5 CPUs and 0.02 GPUs, on one host; .*16 CPUs and 0 GPUs, 4 "):
        plan_packing(1, 5.0, None, CARD)
    hosts(CPUS, {"CPU": 8.0}, {"CPU": 8.0})
    with pytest.raises(ConfigError, match=r"12 CPUs and 0 GPUs, each for 2 workers.*has 16 CPUs and 0 GPUs, 2 x 8 C"):
        require_resources("training", cpus=12, gpus=0, workers=2)


def test_where_hosts_join_by_themselves_it_is_waited_for_and_said(hosts, capsys):
    hosts(GPU, of_type="gpu")
    require_resources("a trial", cpus=8, gpus=1)
    said = capsys.readouterr().err
    assert "a trial needs 8 CPUs and 1 GPUs, on one host; its hosts have 4 CPUs and 1 GPUs; waiting" in said


def test_trials_run_at_once_where_they_have_room(hosts):
    hosts(CPUS, GPU)
    packing, at_once = plan_packing(1, None, None, CARD)
    assert (packing.node_cpus, at_once) == (4, 4)
    hosts(CPUS, {"CPU": 4.0})
    packing, at_once = plan_packing(2, 3.0, None, CPU)
    assert (packing.node_cpus, at_once) == (4, 3)


def test_where_hosts_join_by_themselves_trials_use_each_that_joins(hosts):
    hosts(GPU, of_type="gpu")
    assert plan_packing(1, None, None, CARD)[1] is None
    assert plan_packing(2, None, None, CARD)[1] == 2  # its trials hold nothing that would stop the next
