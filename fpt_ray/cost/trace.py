"""Training on fake tensors: the log of every storage that two steps make, and the peak memory it comes to on a GPU.

Fake tensors have shapes and no bytes, so any machine can trace any configuration. They are CPU tensors here, because
fake CUDA tensors cannot go backward without a GPU; what CUDA has and they do not is added: its autocast's float32 layer
norm and softmax, the scores of importance that it holds at once, cuBLAS's workspaces, and temporaries of kernels. Steps
are those of ``models/step.py``.
Not modelled: cuDNN's workspaces, ``torch.compile``, the buckets of data-parallel training, expandable segments, and
what AdaLoRA adds to a step (its regulariser, the allocation of its ranks), and the training images that a network
remembers (``knn``: one token each).
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from fpt_ray.cost.allocator import allocate_all
from fpt_ray.cost.execution import (
    Execution,
    as_on_gpus,
    fuse_at_once,
    hold_scores,
    kept_until_next,
    run_whole_blocks,
    unfuse_attention,
)
from fpt_ray.cost.repeated import bare_copy, replay_bare
from fpt_ray.cost.storages import Kind, Owned, StorageLog, Unlike, described, give_storages, repeat
from fpt_ray.models.step import Inputs, Learner, learns, loss_then_gradients, update

_aten: Any = torch.ops.aten
_SOFTMAX = {torch.softmax, Tensor.softmax, F.softmax}


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Peak memory of training, in bytes. The first six are the allocated peak's parts and add up to it."""

    weights: int
    gradients: int
    optimizer: int
    """AdamW's two moments."""
    activations: int
    """What the forward pass keeps for the backward pass, autocast's 16-bit copies of weights included."""
    batch: int
    """Inputs as they are moved to the device; keys and values stay in their stored type."""
    transient: int
    """The rest: cuBLAS's workspaces, gradients of activations, temporaries of kernels and of the optimizer."""
    allocated_bytes: int
    """What ``torch.cuda.max_memory_allocated()`` would say."""
    reserved_bytes: int
    """What ``torch.cuda.max_memory_reserved()`` would say."""
    context_bytes: int

    @property
    def process_bytes(self) -> int:
        """What ``nvidia-smi`` would say, and the paper's "Mem."."""
        return self.reserved_bytes + self.context_bytes


def trace_training(model: nn.Module, inputs: Callable[[], Inputs], execution: Execution) -> Memory:
    """Peak memory of training a model that is on ``meta``; parameters that require no gradient stay frozen.

    ``inputs`` makes a batch on the device, with every temporary that moving it there takes. A model that learns nothing
    goes forward alone.
    """
    try:
        return trace(bare_copy(model), inputs, execution, whole=False)
    except Unlike:
        return trace(copy.deepcopy(model), inputs, execution, whole=True)


def trace(model: nn.Module, inputs: Callable[[], Inputs], execution: Execution, *, whole: bool) -> Memory:
    """``trace_training`` in one way: the second step is run if the trace is ``whole``, else written from the first.

    The model is used up. Blocks of it that are bare are replayed.

    Raises:
        Unlike: something does not repeat itself; never of a whole trace of a model without bare blocks.
    """
    hold_scores(model, execution.score_bytes)
    as_on_gpus(model)
    if not execution.fused_attention:
        unfuse_attention(model, scores_stay=execution.authors_layout)
    if execution.whole_blocks:
        run_whole_blocks(model)
    if execution.authors_layout:
        fuse_at_once(model)
        inputs = kept_until_next(inputs)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, StorageLog(execution.workspace_bytes, fake) as log:
        log.kind = "weights"
        give_storages(model.train(), log)
        log.kind = "transient"
        replay_bare(model, log)
        if learns(model):
            _trace_steps(_traced_learner(model, execution, log), inputs, log, whole=whole)
        else:
            model(*_labelled(inputs, log))
    peak = allocate_all(log.events, log.kinds)
    return Memory(
        **{kind: peak.parts.get(kind, 0) for kind in get_args(Kind)},
        allocated_bytes=peak.allocated_bytes,
        reserved_bytes=peak.reserved_bytes,
        context_bytes=execution.context_bytes,
    )


def _traced_learner(model: nn.Module, execution: Execution, log: StorageLog) -> Learner:
    """What ``make_learner`` makes, with an optimizer for fake tensors and without AdaLoRA's additions."""
    learnable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = _TracedAdamW(learnable, log, execution.optimizer_copies)
    return Learner(
        model=model,
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2),
        arithmetic=getattr(torch, execution.precision),
        clip_norm=1.0,
    )


def _trace_steps(learner: Learner, inputs: Callable[[], Inputs], log: StorageLog, *, whole: bool) -> None:
    """Two steps: the optimizer's moments, which are there throughout the second, exist from the end of the first."""
    first = _run_step(learner, inputs, log, 1)
    if whole:
        _run_step(learner, inputs, log, 2)
    else:
        _repeat_step(learner, inputs, log, first)


class _Marks(NamedTuple):
    """Where a step stands in the log: the events before its parts, and numbers of storages."""

    inputs: list[int]
    gradients: list[int]
    forward: int
    backward: int
    update: int


def _run_step(learner: Learner, inputs: Callable[[], Inputs], log: StorageLog, number: int) -> _Marks:
    """Follows a step and says of what kind the storages are that it makes."""
    batch = [_labelled(inputs, log)]
    given, forward = _numbers(batch[0], log), len(log.events)
    backward = _run_passes(learner, batch.pop, log)
    gradients = _numbers([parameter.grad for parameter in learner.optimizer.param_groups[0]["params"]], log)
    log.kinds.update(dict.fromkeys(gradients, "gradients"))
    marks = _Marks(given, gradients, forward, backward, len(log.events))
    update(learner, number)
    return marks


def _run_passes(learner: Learner, inputs: Callable[[], Inputs], log: StorageLog) -> int:
    """Goes forward and backward; returns how many events are before the backward pass."""
    backward = 0
    with _CudaAutocast():
        for _ in loss_then_gradients(learner, inputs, lambda logits: torch.zeros(len(logits), dtype=torch.int64)):
            log.relabel_transient("activations")
            log.backward, backward = True, len(log.events)
    return backward


def _repeat_step(learner: Learner, inputs: Callable[[], Inputs], log: StorageLog, first: _Marks) -> None:
    """Writes what another step makes, which is what the first made; its inputs are made."""
    owners = {number: Owned("input", place) for place, number in enumerate(first.inputs)}
    ends = {"forward": first.backward, "backward": first.update, "update": len(log.events)}
    spans = {name: described(log, getattr(first, name), end, name, owners) for name, end in ends.items()}
    if not log.alive & owners.keys() <= {*first.inputs, *first.gradients}:
        raise Unlike("something but gradients is left by a step")
    batch = _labelled(inputs, log)
    numbers = {"input": _numbers(batch, log), "forward": [], "backward": [], "update": []}
    repeat(log, spans["forward"], "forward", numbers)
    log.relabel_transient("activations")
    learner.model.zero_grad()
    repeat(log, spans["backward"], "backward", numbers)
    for owner, place in map(owners.__getitem__, first.gradients):
        log.kinds[numbers[owner][place]] = "gradients"
    repeat(log, spans["update"], "update", numbers)


def _labelled(inputs: Callable[[], Inputs], log: StorageLog) -> Inputs:
    log.backward, log.kind = False, "batch"
    made = inputs()
    log.kind = "transient"
    return made


def _numbers(tensors: Sequence[Tensor | None], log: StorageLog) -> list[int]:
    return [log.number(tensor) for tensor in tensors if tensor is not None]


class _TracedAdamW(torch.optim.Optimizer):
    """``adamw_step`` as an optimizer, whose moments appear in its first step."""

    def __init__(self, parameters: Sequence[nn.Parameter], log: StorageLog, copies: int) -> None:
        super().__init__(parameters, {"lr": 1e-3})
        self.parameters, self.log, self.copies = parameters, log, copies
        self.moments: list[Tensor] = []
        self.steps = 0

    @override
    def step(self, closure: Any = None) -> Any:
        """One update; no closure is called."""
        if not self.moments:
            self.moments = [torch.zeros_like(parameter) for parameter in self.parameters for _ in range(2)]
            self.log.label(self.moments, "optimizer")
            self.log.lasting.update(map(self.log.number, self.moments))
        self.steps += 1
        adamw_step(self.parameters, self.moments, self.steps, copies=self.copies)


def adamw_step(parameters: Sequence[nn.Parameter], moments: Sequence[Tensor], step: int, *, copies: int = 1) -> None:
    """PyTorch's AdamW over lists of tensors, its default on a GPU, with its temporaries and default hyperparameters.

    ``moments`` are the first and second of each parameter in turn; steps count from 1. PyTorch's own step reads its
    counter from a tensor, which a fake one does not allow.
    """
    rate, decay, beta1, beta2, eps = 1e-3, 1e-2, 0.9, 0.999, 1e-8
    with torch.no_grad():
        gradients = [parameter.grad for parameter in parameters]
        means, squares = moments[::2], moments[1::2]
        _aten._foreach_mul_(parameters, 1 - rate * decay)
        _aten._foreach_lerp_(means, gradients, 1 - beta1)
        _aten._foreach_mul_(squares, beta2)
        _aten._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        roots = _aten._foreach_sqrt(squares)
        _aten._foreach_div_(roots, math.sqrt(1 - beta2**step))
        divisors = _aten._foreach_add(roots, eps) if copies == 2 else _add_in_place(roots, eps)
        _aten._foreach_addcdiv_(parameters, means, divisors, -rate / (1 - beta1**step))


def _add_in_place(tensors: list[Tensor], value: float) -> list[Tensor]:
    _aten._foreach_add_(tensors, value)
    return tensors


class _CudaAutocast(TorchFunctionMode):
    """CPU autocast, made to do what CUDA's does: layer norm in float32, softmax of halves to floats in one kernel.

    A softmax that is given a type keeps it.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.is_autocast_enabled("cpu"):
            if func is F.layer_norm:
                args = (args[0].float(), *args[1:])
            elif func in _SOFTMAX and args[0].dtype != torch.float32:
                dim = args[1] if len(args) > 1 else kwargs["dim"]
                return _aten._softmax(args[0], dim, not (kwargs or {}).get("dtype"))
        return func(*args, **(kwargs or {}))
