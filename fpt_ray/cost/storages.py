"""The log of every storage that operators on fake tensors make, and spans of it that are written again for others."""

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fpt_ray.cost.allocator import Event
from fpt_ray.cost.execution import CUBLAS_WORKSPACE_BYTES
from fpt_ray.cost.remembered import Layout, call, laid_out, layout_of

Kind = Literal["weights", "gradients", "optimizer", "activations", "batch", "transient"]

_aten: Any = torch.ops.aten
_GEMMS = {_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.bmm.out, _aten.baddbmm.default}


class StorageLog(TorchDispatchMode):
    """Every storage's birth and death in order, as a GPU would see them. ``kinds`` are by the number of the storage."""

    def __init__(self, workspace_bytes: int = CUBLAS_WORKSPACE_BYTES, fake: FakeTensorMode | None = None) -> None:
        super().__init__()
        self.fake = fake
        """The mode within which it stands; None: storages are those of real tensors."""
        self.events: list[Event] = []
        self.kinds: dict[int, Kind] = {}
        self.kind: Kind = "transient"
        """Of the storages that are born now."""
        self.backward = False
        """On a GPU autograd runs in a thread of its own, with its own cuBLAS workspace."""
        self.alive: set[int] = set()
        """Numbers of the storages that have not died."""
        self.lasting: set[int] = set()
        """Those that are made once and stay: workspaces, the optimizer's moments."""
        self.followers: dict[int, list[int]] = {}
        """{storage: those that die with it, where they have not}"""
        self._numbers: dict[int, tuple[int, weakref.ref]] = {}
        self._workspace_bytes = workspace_bytes
        self._workspaces: set[bool] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and to keep the compiler away takes time at each operator

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _GEMMS and self.backward not in self._workspaces:
            self._workspaces.add(self.backward)
            self.lasting.add(self.bear(self._workspace_bytes))
        kwargs = kwargs or {}
        result = func(*args, **kwargs) if self.fake is None else call(self.fake, func, args, kwargs)
        for tensor in _tensors(result):
            self.number(tensor)
        temporary_bytes = _temporary_bytes(func, args)
        if temporary_bytes:
            self.die(self.bear(temporary_bytes))
        return result

    def label(self, tensors: Iterable[Tensor], kind: Kind) -> None:
        """Says of what kind the storages of tensors are."""
        for tensor in tensors:
            self.kinds[self.number(tensor)] = kind

    def relabel_transient(self, kind: Kind) -> None:
        """Says of what kind the tensors' storages are that live now and have had no other."""
        for number in self.alive - self.lasting:
            if self.kinds[number] == "transient":
                self.kinds[number] = kind

    def number(self, tensor: Tensor, born: int | None = None) -> int:
        """Of a tensor's storage, which is born if it is new, or has been as ``born``."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self._numbers:
            number = self.bear(storage.nbytes()) if born is None else born
            self._numbers[address] = number, weakref.ref(storage, lambda _: self._forget(address))
        return self._numbers[address][0]

    def bear(self, size_bytes: int) -> int:
        """A storage of no tensor, by its number."""
        number = len(self.kinds)
        self.kinds[number] = self.kind
        self.alive.add(number)
        self.events.append(Event(number, size_bytes))
        return number

    def die(self, number: int) -> None:
        """Ends a storage, if that has not happened, and those that follow it."""
        if number in self.alive:
            self.alive.remove(number)
            self.events.append(Event(number, None))
            for follower in self.followers.pop(number, ()):
                self.die(follower)

    def _forget(self, address: int) -> None:
        self.die(self._numbers.pop(address)[0])


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, (tuple, list)):
        for item in result:
            yield from _tensors(item)


def _temporary_bytes(func: Any, args: Sequence[Any]) -> int:
    """What CUDA's kernel of an operator allocates beside its results."""
    if func is _aten._softmax_backward_data.default:
        return args[0].numel() * args[0].element_size()  # the gradient times the output
    if func is _aten._scaled_dot_product_flash_attention_for_cpu_backward.default:
        batch, heads, tokens, width = args[1].shape
        if args[1].dtype == torch.float32:  # the memory-efficient kernel: a float for each query
            return batch * heads * tokens * 4
        # The flash kernel sums the queries' gradients in float32, rows padded to 128 and columns to 32.
        return batch * heads * _up(tokens, 128) * (_up(width, 32) + 1) * 4
    return 0


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


# --- spans of a log ---------------------------------------------------------------------------------------------------


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


def give_storages(model: torch.nn.Module, log: StorageLog) -> None:
    """Puts a model of ``meta`` tensors on storages, as ``to_empty`` would in five times the time."""
    for child in model.children():
        give_storages(child, log)
    for tensors in (model._parameters, model._buffers):
        for name, tensor in tensors.items():
            if tensor is not None:
                tensors[name] = _born(tensor, log)


def _born(tensor: Tensor, log: StorageLog) -> Any:
    """A tensor like another one, on a storage that is born; a parameter if that is one."""
    assert log.fake is not None
    layout = layout_of(tensor)
    if layout.storage_bytes != tensor.numel() * tensor.element_size():  # a view of more, or of less
        layout = layout_of(torch.empty_like(tensor, device="meta"))
    made: Any = laid_out(log.fake, layout)
    log.number(made)
    if isinstance(tensor, torch.nn.Parameter):
        made.requires_grad = tensor.requires_grad
        made._is_param = True
    return made
