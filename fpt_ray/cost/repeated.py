"""Blocks that are alike make the same storages: four of a network's blocks are traced, those between are replayed.

The second block shows which storages a block makes in its forward pass. The last but one, where the backward pass comes
by first, shows which it makes there, and in which order all of them die. What the blocks between would have made is
written into the log from that. Both blocks must have come to the same in both passes; otherwise nothing of it holds
(``Unlike``), and all blocks have to be run.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from fpt_ray.cost.remembered import Layout, layout_of
from fpt_ray.cost.storages import Owned, Owners, Step, StorageLog, Unlike, described, on_storage, repeat

_FEWEST = 5
"""Blocks of which one is replayed."""


class BareBlock(nn.Module):
    """A block of which nothing is left but its parameters and buffers."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._parameters.update(module._parameters)
        self._buffers.update(module._buffers)
        bare = {name: BareBlock(child) for name, child in module.named_children()}
        full = {name: one for name, one in bare.items() if one._parameters or one._buffers or one._modules}
        self._modules.update(full)


class _Forward(NamedTuple):
    """A block's forward pass."""

    steps: list[Step]
    output: Owned
    layout: Layout
    learns: bool


class _Backward(NamedTuple):
    """A block's backward pass."""

    steps: list[Step]
    gradients: list[tuple[Owned, Layout] | None]
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


@dataclass(eq=False, kw_only=True, slots=True)
class _Row:
    """Blocks that are alike, as far as they have been traced."""

    log: StorageLog
    second: _Call | None = None
    """In this step."""
    forward: _Forward | None = None
    backward: _Backward | None = None


def bare_copy(model: nn.Module) -> nn.Module:
    """A copy of a model whose blocks are bare where they can be replayed: they look alike and are none of the ends.

    It has the model's own parameters and buffers, in modules of its own. To copy those deeply takes a tenth of a trace.
    """
    rows = [blocks for blocks in _rows(model) if _alike(blocks[1:-1])]
    return _copied(model, {id(block): BareBlock(block) for blocks in rows for block in blocks[2:-2]})


def _copied(module: nn.Module, copies: dict[int, nn.Module]) -> nn.Module:
    """``copies`` are of modules, by their identity."""
    if id(module) not in copies:
        made = copies[id(module)] = type(module).__new__(type(module))
        vars(made).update(
            {name: copy.copy(one) if isinstance(one, dict) else one for name, one in vars(module).items()}
        )
        made._modules.update(
            {name: child if child is None else _copied(child, copies) for name, child in module._modules.items()}
        )
    return copies[id(module)]


def replay_bare(model: nn.Module, log: StorageLog) -> None:
    """Makes the bare blocks of a model be replayed, from what the others show."""
    for blocks in _rows(model):
        if isinstance(blocks[2], BareBlock):
            row = _Row(log=log)
            for block in blocks[2:-2]:
                block.forward = partial(_replay, row, block)  # type: ignore[method-assign]
            for block, is_second in ((blocks[1], True), (blocks[-2], False)):
                block.forward = partial(_run, row, block, block.forward, is_second)  # type: ignore[method-assign]


def _rows(model: nn.Module) -> Iterator[list[nn.Module]]:
    for module in model.modules():
        found = module._modules.get("blocks")
        blocks = [] if found is None else list(found.children())
        if len(blocks) >= _FEWEST:
            yield blocks


def _alike(blocks: Sequence[nn.Module]) -> bool:
    look = _look(blocks[0])
    return all(_look(block) == look for block in blocks[1:])


def _look(module: nn.Module) -> Any:
    """What blocks that are alike have in common."""
    plain = [(name, value) for name, value in vars(module).items() if isinstance(value, (int, float, str, tuple))]
    tensors = (*module._parameters.values(), *module._buffers.values())
    own = [one if one is None else (one.shape, one.dtype, one.requires_grad) for one in tensors]
    return type(module), plain, own, [(name, _look(child)) for name, child in module.named_children()]


def _arguments(tokens: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """What a block is called with; tensors beside its tokens have to be the same ones."""
    others = [id(one) if isinstance(one, Tensor) else one for one in (*args, *kwargs, *kwargs.values())]
    return [layout_of(tokens), tokens.requires_grad, others]


# --- blocks that are run ------------------------------------------------------------------------------------------


def _run(
    row: _Row, block: nn.Module, run: Callable[..., Tensor], is_second: bool, tokens: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Runs a block and notes what it makes."""
    log, start = row.log, len(row.log.events)
    output = run(tokens, *args, **kwargs)
    owners: Owners = {}
    steps = described(log, start, len(log.events), "forward", owners)
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
    found = _Forward(steps, _owned(log, output, owners), layout_of(output), output.requires_grad)
    row.forward = _agreed(found, row.forward)
    if output.requires_grad:
        if not tokens.requires_grad:
            raise Unlike("the input takes no gradient")
        output.register_hook(partial(_begin_backward, row, call))
        tokens.register_hook(partial(_end_backward, row, call))
    return output


def _begin_backward(row: _Row, call: _Call, gradient: Tensor) -> None:
    call.start, call.gradient_number = len(row.log.events), row.log.number(gradient)


def _end_backward(row: _Row, call: _Call, gradient: Tensor) -> None:
    log = row.log
    owners = {number: Owned("forward", place) for place, number in enumerate(call.numbers)}
    owners |= {call.input_number: Owned("input", 0), call.gradient_number: Owned("gradient", 0)}
    steps = described(log, call.start, len(log.events), "backward", owners)
    made = [gradient, *(parameter.grad for parameter in call.block.parameters())]
    gradients = [None if one is None else (_owned(log, one, owners), layout_of(one)) for one in made]
    kept = [one[0] for one in gradients if one is not None]
    left = {owned for number, owned in owners.items() if owned.owner == "backward" and number in log.alive}
    if not left <= set(kept) or len(kept) > len(set(kept)) or Owned("gradient", 0) in kept[1:]:
        raise Unlike("gradients share storages, or something else stays")
    row.backward = _agreed(_Backward(steps, gradients), row.backward)


def _owned(log: StorageLog, tensor: Tensor, owners: Owners) -> Owned:
    found = owners.get(log.number(tensor))
    if found is None:
        raise Unlike("a result lies on a storage that was made elsewhere")
    return found


def _agreed(found: Any, before: Any) -> Any:
    if before is not None and found != before:
        raise Unlike("two blocks make other storages")
    return found


# --- blocks that are replayed -------------------------------------------------------------------------------------


def _replay(row: _Row, block: nn.Module, tokens: Tensor, *args: Any, **kwargs: Any) -> Any:
    """What a block would give, were it run."""
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
        steps, output, layout, _ = row.forward
        numbers: list[int] = []
        repeat(log, steps, "forward", {"forward": numbers})
        for place, (number, leader) in enumerate(zip(numbers, second.numbers, strict=True)):
            if leader in log.alive and place != output.place:
                log.followers.setdefault(leader, []).append(number)  # what autocast keeps ends outside of the block
        ctx.row, ctx.block, ctx.numbers, ctx.input_number = row, block, numbers, log.number(tokens)
        if second.input_number in log.alive:
            ctx.held = tokens  # by something that the backward pass needs
        return on_storage(log, numbers[output.place], layout)

    @override
    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        """The gradient of its input; its parameters are given theirs."""
        row, (gradient,) = ctx.row, grad_outputs
        if row.backward is None:
            raise Unlike("the backward pass comes by in another order")
        given = {"input": [ctx.input_number], "gradient": [row.log.number(gradient)]}
        numbers = {"forward": ctx.numbers, "backward": [], **given}
        repeat(row.log, row.backward.steps, "backward", numbers)
        ctx.held = None
        made = [one and _gradient(row.log, numbers, one, gradient) for one in row.backward.gradients]
        for parameter, one in zip(ctx.block.parameters(), made[1:], strict=True):
            if parameter.grad is not None:
                raise Unlike("a gradient is there before")
            parameter.grad = one
        return made[0], None, None


def _gradient(
    log: StorageLog, numbers: Mapping[str, list[int]], found: tuple[Owned, Layout], of_output: Tensor
) -> Tensor:
    owned, layout = found
    if owned.owner == "gradient":
        return of_output  # it was added to
    return on_storage(log, numbers[owned.owner][owned.place], layout)
