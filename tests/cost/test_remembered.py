"""What is remembered of an operator, against PyTorch's own fake operator on the same arguments."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fpt_ray.config.trial import BackboneConfig, FeaturesConfig, SideConfig, TrainingConfig, TrialConfig
from fpt_ray.cost import storages
from fpt_ray.cost.execution import PAPER_BASELINES, PAPER_FPT, Execution
from fpt_ray.cost.prediction import _model, _network_memory, learnable_parameters, param_ratio
from fpt_ray.cost.remembered import _remembered, call
from fpt_ray.models.methods import make_model
from tests.conftest import SMALL

ATEN = torch.ops.aten


@pytest.fixture
def mode():
    _remembered().clear()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def described(result, arguments):
    if isinstance(result, torch.Tensor):
        shares = [one.untyped_storage()._cdata == result.untyped_storage()._cdata for one in arguments]
        same = [one is result for one in arguments]
        kind = type(result), result.dtype, result.device, result.requires_grad
        shape = result.shape, result.stride(), result.storage_offset(), result.untyped_storage().nbytes()
        return kind, shape, shares, same
    if isinstance(result, (tuple, list)):
        return type(result), [described(item, arguments) for item in result]
    return result


CALLS = {
    "new": lambda a, b: (ATEN.mm.default, (a, b.t())),
    "view": lambda a, b: (ATEN.slice.Tensor, (a, 1, 2, 4)),
    "expanded": lambda a, b: (ATEN.expand.default, (a[:1], [6, 5])),
    "in place": lambda a, b: (ATEN.add_.Tensor, (a, b)),
    "one twice": lambda a, b: (ATEN.mul_.Tensor, (a, a)),
    "a list": lambda a, b: (ATEN.unbind.int, (a, 1)),
    "of lists": lambda a, b: (ATEN._foreach_add.List, ([a, b], [b, a])),
    "lists in place": lambda a, b: (ATEN._foreach_mul_.Scalar, ([a, b], 2.0)),
    "some of several": lambda a, b: (
        ATEN.native_layer_norm_backward.default,
        (a, b, [5], a[:, :1], b[:, :1], a[0], None, [True, True, False]),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_second_call_gives_what_the_first_gave_and_is_not_asked(mode, name, monkeypatch):
    found = []
    for _ in range(3):
        a, b = torch.empty(3, 5), torch.empty(3, 5)
        func, args = CALLS[name](a, b)
        met = [one for one in (a, b, *args) if isinstance(one, torch.Tensor)]
        found.append(described(func(*args) if not found else call(mode, func, args, {}), met))
    assert found[0] == found[1] == found[2]
    monkeypatch.setattr(type(func), "__call__", lambda *_, **__: pytest.fail("it was asked again"))
    call(mode, func, args, {})


def test_other_shapes_types_numbers_and_the_same_tensor_twice_are_other_calls(mode):
    a, b = torch.empty(3, 5), torch.empty(3, 5)
    for args in ((a, b), (a, a), (a.double(), b), (a.t().contiguous().t(), b), (a, b[:1]), (a, 1), (a, 1.0), (a, True)):
        before = len(_remembered())
        call(mode, ATEN.add.Tensor, args, {})
        assert len(_remembered()) == before + 1
        call(mode, ATEN.add.Tensor, args, {})
        assert len(_remembered()) == before + 1
    half = call(mode, ATEN._to_copy.default, (a,), {"dtype": torch.float16})
    assert half.dtype == torch.float16
    assert call(mode, ATEN._to_copy.default, (a,), {"dtype": torch.float64}).dtype == torch.float64
    assert isinstance(half, FakeTensor)
    assert half.fake_mode is mode


@pytest.mark.parametrize("method", ["fpt+", "lora", "full_fine_tuning"])
@pytest.mark.parametrize("execution", [Execution(precision="bfloat16"), pytest.param(None, marks=pytest.mark.slow)])
def test_a_trace_comes_to_the_same_bytes(method, execution, monkeypatch):
    """Without what is remembered, as it is being remembered, and from what is remembered."""
    trial = TrialConfig(
        method=method,
        backbone=BackboneConfig(name=SMALL, weights="random"),
        features=FeaturesConfig(resolution=96),
        side=SideConfig(depth=2, num_prompts=3, reduction=4, resolution=32),
        training=TrainingConfig(batch_size=4),
    )
    execution = execution or (PAPER_FPT if method in ("fpt", "fpt+") else PAPER_BASELINES)
    with monkeypatch.context() as patch:
        patch.setattr(storages, "call", lambda mode, func, args, kwargs: func(*args, **kwargs))
        wanted = _network_memory.__wrapped__(trial, 3, execution)
    _remembered().clear()
    assert [_network_memory.__wrapped__(trial, 3, execution) for _ in range(2)] == [wanted, wanted]


@pytest.mark.parametrize("method", ["fpt+", "lora", "prompt_tuning", "full_fine_tuning"])
def test_a_network_that_is_kept_has_the_parameters_of_one_that_is_made(method):
    trial = TrialConfig(method=method, backbone=BackboneConfig(name=SMALL, weights="random"))
    with torch.device("meta"):
        made = make_model(trial, 3, load=False)
    kept = _model(trial, 3)
    shapes = [{name: (p.shape, p.dtype, p.requires_grad) for name, p in one.named_parameters()} for one in (made, kept)]
    assert shapes[0] == shapes[1]
    assert learnable_parameters(trial, 3) == sum(p.numel() for p in made.parameters() if p.requires_grad)
    assert 0 < param_ratio(trial, 3) <= 1
