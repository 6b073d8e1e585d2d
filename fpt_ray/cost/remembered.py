"""Operators on fake tensors, each asked of PyTorch once for arguments of the same shapes.

What a fake operator gives follows from the shapes, strides and types of its arguments. PyTorch remembers that too, but
takes most of its time to see that it does: a trace of a training step calls some thousand operators, nearly all of them
on shapes that were there before.
"""

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

_MOST = 100_000
"""Calls that are remembered; then it begins anew."""
_aten: Any = torch.ops.aten
_META, _CPU = torch.device("meta"), torch.device("cpu")
_DEVICE = torch.ops.prim.device.default  # type: ignore[attr-defined]
_NEVER = {_aten.set_, _aten.resize_, _aten.lift_fresh, _aten.lift_fresh_copy, _aten._local_scalar_dense}


_ALIKE = _aten.empty_like.default
"""Of a tensor on ``meta`` too, as when a module gets its storages."""


class _Tensor(NamedTuple):
    """A result: one of the arguments itself, a view of one, or new."""

    of: int | None
    """Which of the arguments' tensors; None: it has a storage of its own."""
    itself: bool
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype


class _Many(NamedTuple):
    """Several results."""

    kind: type
    items: tuple[Any, ...]


_UNKNOWN = object()
"""The results of a call that cannot be made from what is remembered."""


@cache
def _remembered() -> dict[Any, Any]:
    """{call: its results}, of all traces of this process: it does not depend on them."""
    return {}


def call(mode: FakeTensorMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """``func`` of fake tensors of a mode, on the CPU."""
    if func is _DEVICE:
        return _CPU
    if func._schema.name.startswith("aten::_foreach_") and not kwargs:
        return _of_each(mode, func, args, kwargs)
    return _once(mode, func, args, kwargs)


def _of_each(mode: FakeTensorMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operator over lists of tensors, asked of the tensors one by one: their shapes are few, lists are many."""
    if not func._schema.returns:
        return None  # in place
    found: list[Any] = []
    for place in range(max(len(arg) for arg in args if isinstance(arg, (list, tuple)))):
        one = [[arg[place]] if isinstance(arg, (list, tuple)) else arg for arg in args]
        found += _once(mode, func, one, kwargs)
    return found


def _once(mode: FakeTensorMode, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    numbers: dict[Tensor, int] = {}
    key = func, _key(args, numbers), _key(tuple(kwargs.items()), numbers)
    tensors = list(numbers)
    if func.overloadpacket in _NEVER or not tensors or not (func is _ALIKE or all(map(_is_plain, tensors))):
        return func(*args, **kwargs)
    known = _remembered()
    results = known.get(key)
    if results is _UNKNOWN:
        return func(*args, **kwargs)
    if results is not None:
        return _made(mode, results, tensors)
    if len(known) >= _MOST:
        known.clear()
    storages = {tensor.untyped_storage()._cdata: index for index, tensor in enumerate(tensors)}
    if func.is_view:  # is the same on any device
        with in_kernel_invocation_manager(mode):
            viewed = func(*args, **kwargs)
        known[key] = _described(viewed, numbers, storages)
        return _once(mode, func, args, kwargs)
    result = func(*args, **kwargs)
    known[key] = _described(result, numbers, storages)
    return result


def _is_plain(tensor: Tensor) -> bool:
    return isinstance(tensor, FakeTensor) and tensor.constant is None


def _key(value: Any, numbers: dict[Tensor, int]) -> Any:
    """What a call is remembered by. Tensors are numbered as they are met: one twice is another call than two."""
    if isinstance(value, Tensor):
        number = numbers.setdefault(value, len(numbers))
        return tuple(value.shape), value.stride(), value.storage_offset(), value.dtype, number
    if isinstance(value, (tuple, list)):
        return tuple([_key(item, numbers) for item in value])
    return type(value), value


def _described(result: Any, numbers: Mapping[Tensor, int], storages: Mapping[int, int]) -> Any:
    """What is remembered of a result; ``storages`` says which argument has a storage."""
    if isinstance(result, Tensor):
        return _described_tensor(result, numbers, storages)
    if isinstance(result, (tuple, list)):
        items = tuple(_described(item, numbers, storages) for item in result)
        unknown = any(item is _UNKNOWN for item in items) or type(result) not in (tuple, list)
        return _UNKNOWN if unknown else _Many(type(result), items)
    return _Many(type(None), ()) if result is None else _UNKNOWN


def _described_tensor(result: Tensor, numbers: Mapping[Tensor, int], storages: Mapping[int, int]) -> Any:
    if not ((_is_plain(result) and result.device == _CPU) or (type(result) is Tensor and result.is_meta)):
        return _UNKNOWN
    size, stride, offset, dtype = tuple(result.shape), result.stride(), int(result.storage_offset()), result.dtype
    of = numbers.get(result, storages.get(result.untyped_storage()._cdata))
    if of is None:
        alike = torch.empty_strided(size, stride, dtype=dtype, device=_META).untyped_storage().nbytes()
        if offset or alike != result.untyped_storage().nbytes():
            return _UNKNOWN
    return _Tensor(of, result in numbers, size, stride, offset, dtype)


def _made(mode: FakeTensorMode, results: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(results, _Many):
        if results.kind is type(None):
            return None
        return results.kind(_made(mode, item, tensors) for item in results.items)
    of, itself, size, stride, offset, dtype = results
    if itself:
        return tensors[of]
    return _fake(mode, size, stride, offset, dtype, None if of is None else tensors[of])


def _fake(mode: FakeTensorMode, size: Any, stride: Any, offset: int, dtype: Any, base: Tensor | None) -> FakeTensor:
    """A fake tensor on the storage of ``base`` or, without one, on its own."""
    storage = None if base is None else base.untyped_storage()
    guard = torch._C._DisableTorchDispatch()
    made = torch.empty_strided(size, stride, dtype=dtype, device=_META)
    if storage is not None:
        made.set_(storage, offset, size, stride)
    del guard
    # What FakeTensor's constructor does, which takes five times as long.
    fake = Tensor._make_subclass(FakeTensor, made, False, dispatch_device=True, device_for_backend_keys=_CPU)
    torch._C._set_throw_on_mutable_data_ptr(fake)
    vars(fake).update(vars(_blank(mode)))
    return fake


class Layout(NamedTuple):
    """Where a tensor's elements lie in its storage."""

    storage_bytes: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype


def layout_of(tensor: Tensor) -> Layout:
    """Of a fake tensor."""
    storage_bytes = tensor.untyped_storage().nbytes()
    return Layout(storage_bytes, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), tensor.dtype)


def laid_out(mode: FakeTensorMode, layout: Layout) -> FakeTensor:
    """A fake tensor on a storage of its own, which no operator was asked for."""
    base = _fake(mode, (layout.storage_bytes,), (1,), 0, torch.uint8, None)
    return _fake(mode, layout.size, layout.stride, layout.offset, layout.dtype, base)


@lru_cache(maxsize=1)
def _blank(mode: FakeTensorMode) -> FakeTensor:
    """A fake tensor whose attributes all others of its mode share."""
    guard = torch._C._DisableTorchDispatch()
    made = torch.empty(0, device=_META)
    del guard
    return FakeTensor(mode, made, _CPU)
