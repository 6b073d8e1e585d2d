"""Blocks that are alike make the same storages: four of a network's blocks are traced, those between are replayed.

The second block shows which storages a block makes in its forward pass. The last but one, where the backward pass comes
by first, shows which it makes there, and in which order all of them die. What the blocks between would have made is
written into the log from that. Both blocks must have come to the same in both passes; otherwise nothing of it holds
(``Unlike``), and all blocks have to be run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from fpt_ray.cost.allocator import Event
from fpt_ray.cost.remembered import Layout, laid_out, layout_of
from fpt_ray.cost.storages import StorageLog

_FEWEST = 5
"""Blocks of which one is replayed."""

Step = tuple[Literal["born", "forward", "backward", "input", "gradient"], int]
"""A storage is "born" with so many bytes, or one dies: the i-th that the "forward" or the "backward" pass of the block
made, that of its "input", or that of the "gradient" of its output."""


class Unlike(Exception):
    """Blocks that look alike are not run alike."""


class _Forward(NamedTuple):
    steps: list[Step]
    output: Step
    layout: Layout
    learns: bool


class _Backward(NamedTuple):
    steps: list[Step]
    gradients: list[tuple[Step, Layout] | None]
    """Of the block's input, then of its parameters."""


@dataclass(eq=False, kw_only=True, slots=True)
class _Call:
    """A block in a step."""

    block: nn.Module
    arguments: list[Any]
    input_number: int
    numbers: list[int]
    """Of the storages that its forward pass made."""
    gradient_number: int = -1
    start: int = 0
    """Events before its backward pass."""
    held: Tensor | None = None
    """The input, where a block that is replayed keeps it for its backward pass."""


@dataclass(eq=False, kw_only=True, slots=True)
class _Row:
    """Blocks that are alike, as far as they have been traced."""

    log: StorageLog
    second: _Call | None = None
    """In this step."""
    forward: _Forward | None = None
    backward: _Backward | None = None


def replay_alike(model: nn.Module, log: StorageLog) -> None:
    """Makes all blocks of a model be replayed that look alike and stand between two others."""
    for blocks in _rows(model):
        row = _Row(log=log)
        _run_for(row, blocks[1], is_second=True)
        _run_for(row, blocks[-2], is_second=False)
        for block in blocks[2:-2]:
            block.forward = partial(_replay, row, block)  # type: ignore[method-assign]


def _rows(model: nn.Module) -> Iterator[list[nn.Module]]:
    for module in model.modules():
        found = getattr(module, "blocks", None)
        blocks = list(found) if isinstance(found, (nn.ModuleList, nn.Sequential)) else []
        if len(blocks) >= _FEWEST:
            looks = [_look(block) for block in blocks[1:-1]]
            parameters = [parameter for block in blocks for parameter in block.parameters()]
            if all(look == looks[0] for look in looks) and len(parameters) == len(set(parameters)):
                yield blocks


def _look(block: nn.Module) -> list[Any]:
    """What blocks that are alike have in common."""
    return [
        (
            name,
            type(module),
            [(key, value) for key, value in vars(module).items() if isinstance(value, (int, float, str, tuple))],
            [(key, one.shape, one.dtype, one.requires_grad) for key, one in module.named_parameters(recurse=False)],
        )
        for name, module in block.named_modules()
    ]


def _arguments(tokens: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """What a block is called with; tensors beside its tokens have to be the same ones."""
    others = [id(one) if isinstance(one, Tensor) else one for one in (*args, *kwargs.items())]
    return [layout_of(tokens), tokens.requires_grad, others]


# --- blocks that are run ------------------------------------------------------------------------------------------


def _run_for(row: _Row, block: nn.Module, *, is_second: bool) -> None:
    """Makes a block that is run say what it makes."""
    run: Callable[..., Tensor] = block.forward
    log = row.log

    def forward(tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        start = len(log.events)
        output = run(tokens, *args, **kwargs)
        owners: dict[int, Step] = {}
        steps = _described(log.events[start:], "forward", owners)
        call = _Call(
            block=block,
            arguments=_arguments(tokens, args, kwargs),
            input_number=log.number(tokens),
            numbers=list(owners),
        )
        if is_second:
            row.second = call
        elif row.second is None or call.arguments != row.second.arguments:
            raise Unlike("called with other arguments")
        found = _Forward(steps, owners[log.number(output)], layout_of(output), output.requires_grad)
        row.forward = _agreed(found, row.forward)
        if output.requires_grad:
            if not tokens.requires_grad:
                raise Unlike("the input takes no gradient")
            output.register_hook(partial(_begin_backward, row, call))
            tokens.register_hook(partial(_end_backward, row, call))
        return output

    block.forward = forward  # type: ignore[method-assign]


def _begin_backward(row: _Row, call: _Call, gradient: Tensor) -> None:
    call.start, call.gradient_number = len(row.log.events), row.log.number(gradient)


def _end_backward(row: _Row, call: _Call, gradient: Tensor) -> None:
    log = row.log
    owners: dict[int, Step] = {number: ("forward", place) for place, number in enumerate(call.numbers)}
    owners |= {call.input_number: ("input", 0), call.gradient_number: ("gradient", 0)}
    steps = _described(log.events[call.start :], "backward", owners)
    made = [gradient, *(parameter.grad for parameter in call.block.parameters())]
    gradients = [None if one is None else (owners[log.number(one)], layout_of(one)) for one in made]
    left = {step for number, step in owners.items() if step[0] == "backward" and number in log.alive}
    if not left <= {one[0] for one in gradients if one is not None}:
        raise Unlike("something but gradients is left by the backward pass")
    row.backward = _agreed(_Backward(steps, gradients), row.backward)


def _described(events: Sequence[Event], own: Literal["forward", "backward"], owners: dict[int, Step]) -> list[Step]:
    """Events as steps of a block; ``owners`` says whose the storages are, to which those that are born are added."""
    steps: list[Step] = []
    births = 0
    for storage, birth_bytes in events:
        if birth_bytes is not None:
            owners[storage] = own, births
            births += 1
            steps.append(("born", birth_bytes))
        elif storage in owners:
            steps.append(owners[storage])
        else:
            raise Unlike("a storage dies that is not of this block")
    return steps


def _agreed(found: Any, before: Any) -> Any:
    if before is not None and found != before:
        raise Unlike("two blocks make other storages")
    return found


# --- blocks that are replayed -------------------------------------------------------------------------------------


def _replay(row: _Row, block: nn.Module, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if row.second is None or _arguments(tokens, args, kwargs) != row.second.arguments:
        raise Unlike("called with other arguments")
    return _Replay.apply(tokens, row, block)


class _Replay(torch.autograd.Function):
    """A block of which nothing is run."""

    @override
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, row: _Row, block: nn.Module) -> Tensor:
        """The block's output."""
        log, second = row.log, row.second
        assert second is not None
        assert row.forward is not None
        steps, (_, output), layout, _ = row.forward
        call = _Call(block=block, arguments=[], input_number=log.number(tokens), numbers=[])
        _take(log, steps, call, {"forward": call.numbers}, call.numbers)
        for place, (number, leader) in enumerate(zip(call.numbers, second.numbers, strict=True)):
            if leader in log.alive and place != output:
                log.followers.setdefault(leader, []).append(number)  # what autocast keeps ends outside of the block
        if second.input_number in log.alive:
            call.held = tokens
        ctx.row, ctx.call = row, call
        return _on_storage(log, call.numbers[output], layout)

    @override
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The gradient of its input; its parameters are given theirs."""
        row, call = ctx.row, ctx.call
        if row.backward is None:
            raise Unlike("the backward pass comes by in another order")
        log, made = row.log, []
        numbers = {"forward": call.numbers, "backward": made, "gradient": [log.number(gradient)]}
        steps, (of_input, *of_parameters) = row.backward
        _take(log, steps, call, numbers, made)
        call.held = None
        for parameter, found in zip(call.block.parameters(), of_parameters, strict=True):
            if parameter.grad is not None:
                raise Unlike("a gradient is there before")
            if found is not None:
                (kind, place), layout = found
                parameter.grad = _on_storage(log, numbers[kind][place], layout)
        (kind, place), layout = of_input
        return gradient if kind == "gradient" else _on_storage(log, numbers[kind][place], layout), None, None


def _take(
    log: StorageLog, steps: Sequence[Step], call: _Call, numbers: Mapping[str, list[int]], made: list[int]
) -> None:
    """Writes steps into the log; the numbers of storages that are born come to ``made``."""
    for kind, value in steps:
        if kind == "born":
            made.append(log.bear(value))
        elif kind == "input":
            call.held = None
        else:
            log.die(numbers[kind][value])


def _on_storage(log: StorageLog, number: int, layout: Layout) -> Tensor:
    """A tensor whose storage has been born."""
    assert log.fake is not None
    tensor = laid_out(log.fake, layout)
    log.number(tensor, born=number)
    return tensor
