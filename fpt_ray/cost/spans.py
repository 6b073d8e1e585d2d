"""Spans of a log of storages, described so that they can be written again for other storages."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from fpt_ray.cost.allocator import Event
from fpt_ray.cost.remembered import Layout, laid_out
from fpt_ray.cost.storages import StorageLog


class Unlike(Exception):
    """What was expected to repeat itself does not: all has to be run."""


class Owned(NamedTuple):
    """A storage by what it belongs to: the ``place``-th that was born in a span, or that was given to it."""

    owner: str
    place: int


Step = int | Owned
"""A storage is born with so many bytes, or one dies."""
Owners = dict[int, Owned]
"""{number of a storage: what it is}"""


def described(log: StorageLog, start: int, end: int, name: str, owners: Owners) -> list[Step]:
    """The events from ``start`` to ``end`` as a span of some name, whose storages are added to ``owners``.

    Raises:
        Unlike: another storage dies in it.
    """
    steps: list[Step] = []
    births = 0
    for storage, birth_bytes in log.events[start:end]:
        if storage in log.lasting:
            continue
        if birth_bytes is not None:
            owners[storage] = Owned(name, births)
            births += 1
            steps.append(birth_bytes)
        elif storage in owners:
            steps.append(owners[storage])
        else:
            raise Unlike("a storage dies that was made elsewhere")
    return steps


def repeat(log: StorageLog, steps: Sequence[Step], name: str, numbers: Mapping[str, list[int]]) -> None:
    """Writes a span again; ``numbers`` of its storages, by their owners, are added to those of its name."""
    for step in steps:
        if isinstance(step, int):
            numbers[name].append(log.bear(step))
        else:
            log.die(numbers[step.owner][step.place])


def on_storage(log: StorageLog, number: int, layout: Layout) -> Tensor:
    """A tensor on a storage that has been born."""
    assert log.fake is not None
    tensor = laid_out(log.fake, layout)
    log.number(tensor, born=number)
    return tensor
