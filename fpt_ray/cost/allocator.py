"""A model of CUDA's caching allocator, as PyTorch configures it by default (c10/cuda/CUDACachingAllocator.cpp).

Requests are rounded to 512 bytes and served from the smallest cached block that fits, which is split; if none fits, a
segment is asked of the driver. Freed blocks merge with their free neighbours. Segments are never given back: the model
knows no full device. Not modelled: expandable segments, several streams, garbage collection, CUDA graphs.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fpt_ray.display.units import MIB

ROUNDING_BYTES = 512
SMALL_REQUEST_BYTES = 1 * MIB
"""Up to here requests share segments of their own."""
SMALL_SEGMENT_BYTES = 2 * MIB
LARGE_SEGMENT_BYTES = 20 * MIB
HUGE_REQUEST_BYTES = 10 * MIB
"""From here on a request gets a segment of its size, rounded up."""
HUGE_ROUNDING_BYTES = 2 * MIB


class Event(NamedTuple):
    """A storage appears with its size or, with none, goes."""

    storage: int
    birth_bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Peak:
    """What a log of storages came to, in bytes."""

    allocated_bytes: int
    """The most that stood in blocks in use at once."""
    reserved_bytes: int
    """What was asked of the driver."""
    parts: Mapping[str, int]
    """``allocated_bytes`` by kind of storage."""


@dataclass(eq=False, kw_only=True, slots=True)
class _Block:
    address: int
    size: int
    small: bool
    """Whether it belongs to a segment of small requests."""
    free: bool = True
    before: "_Block | None" = None
    after: "_Block | None" = None


@dataclass(eq=False, kw_only=True, slots=True)
class CachingAllocator:
    """The allocator's state: its segments and blocks."""

    allocated_bytes: int = 0
    """Blocks in use."""
    reserved_bytes: int = 0
    """Segments."""
    _free: dict[bool, list[tuple[int, int]]] = field(default_factory=lambda: {True: [], False: []})
    _blocks: dict[int, _Block] = field(default_factory=dict)

    def allocate(self, size_bytes: int) -> tuple[int, int]:
        """Address and size of a block of at least ``size_bytes`` (more than 0)."""
        size = -(-size_bytes // ROUNDING_BYTES) * ROUNDING_BYTES
        small = size <= SMALL_REQUEST_BYTES
        free = self._free[small]
        best = bisect_left(free, (size, 0))
        block = self._blocks[free.pop(best)[1]] if best < len(free) else self._add_segment(size, small)
        rest = block.size - size
        if rest >= ROUNDING_BYTES if small else rest > SMALL_REQUEST_BYTES:
            self._split(block, size)
        block.free = False
        self.allocated_bytes += block.size
        return block.address, block.size

    def free(self, address: int) -> None:
        """Takes the block at an address back and merges it with its free neighbours."""
        block = self._blocks[address]
        self.allocated_bytes -= block.size
        block.free = True
        if block.before is not None and block.before.free:
            self._unlist(block.before)
            block = self._merge(block.before, block)
        if block.after is not None and block.after.free:
            self._unlist(block.after)
            block = self._merge(block, block.after)
        insort(self._free[block.small], (block.size, block.address))

    def _unlist(self, block: _Block) -> None:
        free = self._free[block.small]
        del free[bisect_left(free, (block.size, block.address))]

    def _add_segment(self, size: int, small: bool) -> _Block:
        if small:
            length = SMALL_SEGMENT_BYTES
        elif size < HUGE_REQUEST_BYTES:
            length = LARGE_SEGMENT_BYTES
        else:
            length = -(-size // HUGE_ROUNDING_BYTES) * HUGE_ROUNDING_BYTES
        block = _Block(address=self.reserved_bytes, size=length, small=small)
        self._blocks[block.address] = block
        self.reserved_bytes += length
        return block

    def _split(self, block: _Block, size: int) -> None:
        """Cuts a block to ``size``; what is left becomes a free block after it."""
        rest = _Block(
            address=block.address + size, size=block.size - size, small=block.small, before=block, after=block.after
        )
        if block.after is not None:
            block.after.before = rest
        block.size, block.after = size, rest
        self._blocks[rest.address] = rest
        insort(self._free[block.small], (rest.size, rest.address))

    def _merge(self, left: _Block, right: _Block) -> _Block:
        left.size += right.size
        left.after = right.after
        if right.after is not None:
            right.after.before = left
        del self._blocks[right.address]
        return left


def allocate_all(events: Iterable[Event], kinds: Mapping[int, str]) -> Peak:
    """The peaks of a log of storages, each of the kind that ``kinds`` says."""
    allocator = CachingAllocator()
    blocks: dict[int, tuple[int, int]] = {}
    parts: Counter[str] = Counter()
    peak_bytes, peak_parts = 0, dict(parts)
    for storage, birth_bytes in events:
        if birth_bytes is None:
            address, size = blocks.pop(storage)
            parts[kinds[storage]] -= size
            allocator.free(address)
            continue
        blocks[storage] = allocator.allocate(birth_bytes)
        parts[kinds[storage]] += blocks[storage][1]
        if allocator.allocated_bytes > peak_bytes:
            peak_bytes, peak_parts = allocator.allocated_bytes, dict(parts)
    return Peak(allocated_bytes=peak_bytes, reserved_bytes=allocator.reserved_bytes, parts=peak_parts)
