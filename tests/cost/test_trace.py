"""fpt_ray.trace against PyTorch's own AdamW, and against hand computation on networks of one layer."""

import copy

import pytest
import timm
import torch
from torch import nn

from fpt_ray.cost.execution import CUBLAS_WORKSPACE_BYTES, Execution
from fpt_ray.cost.trace import adamw_step, trace_training
from fpt_ray.display.units import MIB

FLOAT32 = Execution(precision="float32")


def _meta(build):
    with torch.device("meta"):
        return build()


@pytest.mark.parametrize("copies", [1, 2])
def test_the_update_is_pytorchs_adamw(copies):
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
    theirs = copy.deepcopy(ours)
    optimizer = torch.optim.AdamW(theirs.parameters())
    parameters = list(ours.parameters())
    moments = [torch.zeros_like(parameter) for parameter in parameters for _ in range(2)]
    for step in (1, 2, 3):
        images = torch.randn(4, 5)
        for model in (ours, theirs):
            model.zero_grad()
            model(images).square().sum().backward()
        adamw_step(parameters, moments, step, copies=copies)
        optimizer.step()
    for mine, its in zip(parameters, theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("copies", [1, 2])
def test_the_parts_of_one_large_layer(copies):
    """1024 x 1024 weights of 4 MiB and a batch of 8 images: the optimizer's step is the peak."""
    model = _meta(lambda: nn.Linear(1024, 1024, bias=False))
    execution = Execution(precision="float32", optimizer_copies=copies)
    memory = trace_training(model, lambda: (torch.empty(8, 1024),), execution)
    assert (memory.weights, memory.gradients, memory.optimizer) == (4 * MIB, 4 * MIB, 8 * MIB)
    assert (memory.activations, memory.batch) == (0, 0)
    assert memory.transient == 2 * CUBLAS_WORKSPACE_BYTES + copies * 4 * MIB
    assert memory.allocated_bytes == 16 * MIB + memory.transient
    # Segments of 20: weights, a workspace, gradients | a workspace, moments | the copies; and 2 for what is small.
    assert memory.reserved_bytes == 62 * MIB
    assert memory.process_bytes == memory.reserved_bytes + memory.context_bytes


def test_a_frozen_layer_has_neither_gradient_nor_moments():
    model = _meta(lambda: nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.Linear(1024, 2, bias=False)))
    model[0].requires_grad_(False)
    memory = trace_training(model, lambda: (torch.empty(512, 1024),), FLOAT32)
    assert memory.weights == 4 * MIB + 8192
    assert memory.gradients <= 8192
    assert memory.optimizer <= 2 * 8192


class _NormAndSoftmax(nn.Module):
    """Notes the types that layer norm, softmax and products come to."""

    def __init__(self, note):
        super().__init__()
        self.linear, self.norm = nn.Linear(64, 64), nn.LayerNorm(64)
        self.note = note

    def forward(self, images):
        product = self.linear(images)
        normed, maps = self.norm(product), product.softmax(dim=-1)
        self.note({"product": product.dtype, "norm": normed.dtype, "softmax": maps.dtype})
        return normed + maps


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
def test_autocast_is_cudas(precision):
    """CPU autocast would leave layer norm and softmax in 16 bit."""
    seen = {}
    model = _meta(lambda: _NormAndSoftmax(lambda types: seen.update(types)))
    trace_training(model, lambda: (torch.empty(4, 64),), Execution(precision=precision))
    assert seen == {"product": getattr(torch, precision), "norm": torch.float32, "softmax": torch.float32}


def test_two_traces_of_the_same_agree():
    memories = [
        trace_training(
            _meta(lambda: timm.create_model("vit_tiny_patch16_224", depth=2)),
            lambda: (torch.empty(2, 3, 224, 224),),
            FLOAT32,
        )
        for _ in range(2)
    ]
    assert memories[0] == memories[1]
