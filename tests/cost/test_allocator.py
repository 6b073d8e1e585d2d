"""fpt_ray.allocator against hand computation from the documented rules of PyTorch's CUDA caching allocator."""

import itertools
import random

import pytest

from fpt_ray.cost.allocator import CachingAllocator, Event, allocate_all
from fpt_ray.display.units import MIB


@pytest.mark.parametrize(
    ("request_bytes", "block_bytes", "segment_bytes"),
    [
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        (10 * MIB + 1, 10 * MIB + 512, 12 * MIB),  # the rest is above 1 MiB: split off
        (11 * MIB, 12 * MIB, 12 * MIB),  # the rest is 1 MiB: it stays with the block
        (11 * MIB - 512, 11 * MIB - 512, 12 * MIB),
    ],
)
def test_a_first_request_is_rounded_and_takes_a_segment(request_bytes, block_bytes, segment_bytes):
    allocator = CachingAllocator()
    assert allocator.allocate(request_bytes) == (0, block_bytes)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (block_bytes, segment_bytes)


def test_requests_share_a_segment_until_none_fits():
    allocator = CachingAllocator()
    addresses = [allocator.allocate(6 * MIB)[0] for _ in range(4)]
    assert addresses == [0, 6 * MIB, 12 * MIB, 20 * MIB]  # 2 MiB are left of the first segment
    assert allocator.allocate(2 * MIB)[0] == 18 * MIB
    assert allocator.reserved_bytes == 40 * MIB


def test_the_smallest_hole_that_fits_is_taken_and_split():
    allocator = CachingAllocator()
    large, _, small, _ = (allocator.allocate(size * MIB)[0] for size in (8, 2, 5, 2))
    allocator.free(large)
    allocator.free(small)
    assert allocator.allocate(4 * MIB)[0] == small
    assert allocator.allocate(6 * MIB)[0] == large
    assert allocator.allocate(2 * MIB)[0] == large + 6 * MIB
    assert allocator.reserved_bytes == 20 * MIB


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2)])
def test_neighbours_merge_in_whatever_order_they_are_freed(order):
    allocator = CachingAllocator()
    addresses = [allocator.allocate(6 * MIB)[0] for _ in range(3)]
    for which in order:
        allocator.free(addresses[which])
    assert allocator.allocated_bytes == 0
    assert allocator.allocate(20 * MIB) == (0, 20 * MIB)
    assert allocator.reserved_bytes == 20 * MIB


def test_segments_do_not_merge_and_small_requests_keep_apart():
    allocator = CachingAllocator()
    for address in [allocator.allocate(10 * MIB)[0] for _ in range(2)]:
        allocator.free(address)
    allocator.allocate(20 * MIB)
    assert allocator.reserved_bytes == 40 * MIB
    allocator.allocate(MIB)  # 20 MiB are free, but not for small requests
    assert allocator.reserved_bytes == 42 * MIB


def test_blocks_in_use_never_overlap_and_all_comes_back():
    chance = random.Random(0)
    allocator = CachingAllocator()
    used: dict[int, int] = {}
    for _ in range(3000):
        if used and chance.random() < 0.5:
            address = chance.choice(list(used))
            allocator.free(address)
            del used[address]
        else:
            size_bytes = int(2 ** chance.uniform(0, 25))
            address, taken = allocator.allocate(size_bytes)
            assert taken >= size_bytes
            used[address] = taken
        ends = sorted((address, address + size) for address, size in used.items())
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))
        assert allocator.allocated_bytes == sum(used.values()) <= allocator.reserved_bytes
    reserved_bytes = allocator.reserved_bytes
    for address in used:
        allocator.free(address)
    assert allocator.allocated_bytes == 0
    assert sum(size for free in allocator._free.values() for size, _ in free) == reserved_bytes


def test_replay_finds_the_peak_and_its_parts():
    kinds = {0: "weights", 1: "activations", 2: "activations", 3: "transient"}
    births = {0: 3 * MIB, 1: 100, 2: 5 * MIB, 3: 4 * MIB}
    events = [Event(number, births[number]) for number in (0, 1, 2)]  # 8 MiB and 512 bytes: the peak
    events += [Event(2, None), Event(3, births[3]), Event(1, None)]  # 7 MiB and 512 bytes
    peak = allocate_all(events, kinds)
    assert peak.allocated_bytes == 8 * MIB + 512
    assert peak.parts == {"weights": 3 * MIB, "activations": 5 * MIB + 512}
    assert peak.reserved_bytes == 22 * MIB
