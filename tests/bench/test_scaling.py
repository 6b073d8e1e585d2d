"""The simulation is compared with schedules by hand, with the best schedule of all (by trying all of them), and with
bounds that hold for any: Graham's (2 - 1/m) times the best from above; work, longest job and driver from below."""

import itertools

import numpy as np
import pytest

from fpt_ray.bench.scaling import (
    Cluster,
    Job,
    Span,
    Trial,
    Workload,
    bounds,
    hosts_ready,
    informed,
    makespan,
    preloading,
    recorded_driver_seconds,
    recorded_startup_seconds,
    scaling_text,
    schedule,
    search,
)


def ends(seconds, ready, driver_seconds=0.0, shares=None):
    jobs = [Job(seconds=one, share=share) for one, share in zip(seconds, shares or [100] * len(seconds), strict=True)]
    return [span.ended for span in schedule(jobs, ready, driver_seconds)]


@pytest.mark.parametrize(
    ("seconds", "ready", "driver", "expected"),
    [
        ((3, 2, 2), (0, 0), 0, [3, 2, 4]),
        ((2, 2, 3), (0, 0), 0, [2, 2, 5]),  # the longest last is what list scheduling is bad at
        ((4, 4), (0, 0, 0), 0, [4, 4]),  # a GPU stays idle
        ((5, 5, 5), (1, 2), 0, [6, 7, 11]),
        ((5, 5, 5), (0, 0), 1, [6, 7, 12]),  # the second is asked for when the driver has done with the first
        ((1, 1, 1, 1), (0, 0, 0, 0), 2, [3, 5, 7, 9]),  # the driver is all that counts
    ],
)
def test_schedules_by_hand(seconds, ready, driver, expected):
    assert ends(seconds, ready, driver) == expected


def test_small_trials_share_a_gpu_and_large_ones_wait_for_all_of_it():
    assert ends((3, 3, 3), (0,), shares=(50, 50, 50)) == [3, 3, 6]
    assert ends((3, 5, 1, 1), (0,), shares=(50, 50, 100, 50)) == [3, 5, 6, 7]
    assert ends((2, 2, 2, 2), (0, 0), shares=(50, 100, 50, 100)) == [2, 2, 2, 4]


def best_makespan(seconds, gpus):
    """Of all ways to give jobs to GPUs."""
    return min(
        max(sum(np.array(seconds)[np.array(where) == gpu]) for gpu in range(gpus))
        for where in itertools.product(range(gpus), repeat=len(seconds))
    )


@pytest.mark.parametrize("seed", range(20))
def test_no_better_than_the_best_and_no_worse_than_grahams_bound(seed):
    generator = np.random.default_rng(seed)
    gpus = int(generator.integers(2, 4))
    seconds = generator.exponential(10, 7).tolist()
    jobs, best = [Job(seconds=one) for one in seconds], best_makespan(seconds, gpus)
    found = makespan(schedule(jobs, [0.0] * gpus))
    assert max(bounds(jobs, [0.0] * gpus).values()) <= best + 1e-9
    assert best - 1e-9 <= found <= (2 - 1 / gpus) * best + 1e-9


@pytest.mark.parametrize("seed", range(20))
def test_bounds_with_a_driver_hosts_that_start_late_and_shares(seed):
    generator = np.random.default_rng(seed)
    gpus, share = int(generator.integers(1, 9)), int(generator.choice([100, 50, 25]))
    jobs = [Job(seconds=one, share=share) for one in generator.exponential(10, 40)]
    ready, driver = sorted(generator.uniform(0, 5, gpus)), float(generator.uniform(0, 1))
    limits, found = bounds(jobs, ready, driver), makespan(schedule(jobs, ready, driver))
    assert max(limits.values()) <= found
    slots = gpus * (100 // share)
    work, longest = sum(job.seconds for job in jobs) / slots, max(job.seconds for job in jobs)
    # Until the last job begins, all slots compute or the driver is busy.
    assert found <= ready[-1] + work + (1 - 1 / slots) * longest + driver * len(jobs)


def test_how_many_trials_were_asked_for_with_results_at_hand():
    spans = [Span(asked=0, ended=4), Span(asked=0, ended=6), Span(asked=4, ended=8), Span(asked=6, ended=9)]
    assert informed(spans, 1) == 0.5
    assert informed(spans, 2) == 0.25
    assert informed(spans, 3) == 0


WORK = Workload(
    trials=tuple(Trial(fit_seconds=fit) for fit in (8.0, 8.0, 8.0, 20.0)),
    startup_seconds=1.0,
    worker_seconds=3.0,
    driver_seconds=0.0,
    feature_bytes=2 * 10**9,
    shard_rows=(10, 10, 10, 10),
    image_seconds=1.0,
)


def test_preloading_by_hand():
    """40 s of work in four shards, after 10 s."""
    found = {gpus: preloading(WORK, Cluster(actor_seconds=10), gpus) for gpus in (1, 2, 3, 8)}
    assert {gpus: one.seconds for gpus, one in found.items()} == {1: 50, 2: 30, 3: 30, 8: 20}
    assert found[2].strong == pytest.approx(50 / 60)
    assert (found[8].strong, found[8].limit) == (50 / 160, "longest")
    assert [one.weak for one in found.values()] == [1, 1, 1, 1]
    assert preloading(WORK, Cluster(actor_seconds=10, preload_speed=10), 2).seconds == 12


def test_a_search_by_hand():
    """Trials of 9, 9, 9 and 21 s on hosts that have read 2 GB after 2 s and start their workers in 3."""
    one, two, four = (search(WORK, Cluster(), gpus) for gpus in (1, 2, 4))
    assert (one.seconds, two.seconds, four.seconds) == (5 + 48, 5 + 9 + 21, 5 + 21)
    assert (one.strong, two.strong, four.limit) == (1, 53 / 70, "longest")
    assert two.weak == pytest.approx(53 / (5 + 57))  # 9 9 | 9 21 9 9 | 9 21: 5 + max(9+9+9+9+21, 9+21+9)
    assert search(WORK, Cluster(speed=2), 4).seconds == 5 + 11  # the start-up stays


def test_hosts_get_the_features_one_after_the_other():
    assert hosts_ready(WORK, Cluster(gpus_per_host=2, gigabytes_per_second=2), 5) == [4, 4, 5, 5, 6]


def test_what_was_recorded_by_hand():
    spans = [(0.0, 10.0), (0.1, 7.0), (7.5, 12.0), (10.25, 20.0), (90.0, 95.0)]  # two at once; the last after a break
    assert recorded_driver_seconds(spans) == 0.5
    assert recorded_driver_seconds(spans[:1]) == 0
    assert recorded_startup_seconds([14.0, 11.0, 11.5], [10.0, 10.0, 10.0]) == (1.5, 2.5)


def test_the_text_has_a_row_for_each_number_of_gpus_and_says_what_it_assumes():
    text = scaling_text(WORK, Cluster(), (1, 2, 64))
    assert [line.split()[0] for line in text.splitlines()[-3:]] == ["1", "2", "64"]
    assert "trials that share a GPU are as fast as alone" in text
    assert "longest shard" in text.splitlines()[-1]
    assert "longest trial" in text.splitlines()[-1]
