"""A trace of which a part is replayed, against the whole trace of the same network."""

import copy

import pytest
import torch
from torch import nn

from fpt_ray.config.trial import Method, TrialConfig, trial_from
from fpt_ray.cost import trace
from fpt_ray.cost.execution import PAPER_BASELINES, PAPER_FPT, Execution
from fpt_ray.cost.prediction import _model, batch_maker
from fpt_ray.cost.repeated import BareBlock, bare_copy
from fpt_ray.cost.storages import Unlike
from tests.conftest import SMALL

OURS = Execution(precision="bfloat16")
SIDE = {"side.depth": 6, "side.num_prompts": 3, "side.reduction": 4, "side.resolution": 32}


def _trial(method: Method, **others) -> TrialConfig:
    small = {"backbone.name": SMALL, "features.resolution": 96, "training.batch_size": 2, **SIDE}
    return trial_from({**small, "method": method, **others})


def _traced(trial, execution, *, whole):
    model = _model(trial, 3)
    model = copy.deepcopy(model) if whole else bare_copy(model)
    return trace.trace(model, batch_maker(trial, execution), execution, whole=whole), model


@pytest.mark.parametrize(
    ("method", "others", "executions"),
    [
        ("full_fine_tuning", {}, (OURS, PAPER_BASELINES, Execution(precision="float32"))),
        ("linear_probing", {}, (OURS,)),
        pytest.param("prompt_tuning", {}, (OURS, PAPER_BASELINES), marks=pytest.mark.slow),
        pytest.param("attention_tuning", {}, (OURS,), marks=pytest.mark.slow),
        pytest.param("bitfit", {}, (OURS, PAPER_BASELINES), marks=pytest.mark.slow),
        ("lora", {}, (PAPER_BASELINES,)),
        ("fpt+", {}, (OURS, PAPER_FPT)),
        ("fpt", {}, (PAPER_FPT,)),
        ("full_fine_tuning", {"backbone.name": "vit_small_patch14_reg4_dinov2", "features.resolution": 112}, (OURS,)),
    ],
)
def test_what_is_replayed_comes_to_the_bytes_of_what_is_run(method, others, executions):
    trial = _trial(method, **others)
    for execution in executions:
        wanted, _ = _traced(trial, execution, whole=True)
        found, model = _traced(trial, execution, whole=False)
        assert found == wanted
        assert any(isinstance(module, BareBlock) for module in model.modules())


@pytest.mark.slow
def test_an_lpm_that_is_read_in_some_blocks_is_run_whole():
    trial = _trial("fpt+", **{"features.preloaded": False})
    with pytest.raises(Unlike):
        _traced(trial, OURS, whole=False)
    wanted, _ = _traced(trial, OURS, whole=True)
    assert trace.trace_training(_model(trial, 3), batch_maker(trial, OURS), OURS) == wanted


class _Block(nn.Module):
    """A linear layer with a residual. What it runs behind that, no plain attribute tells."""

    def __init__(self, width, late=False):
        super().__init__()
        self.linear, self.act = nn.Linear(width, width), nn.GELU()
        self.runs = [self.act] if late else []

    def forward(self, tokens):
        found = self.linear(tokens)
        for run in self.runs:
            found = run(found)
        return tokens + found


class _Network(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.first, self.blocks, self.head = nn.Linear(64, 64), nn.Sequential(*blocks), nn.Linear(64, 2)

    def forward(self, images):
        return self.head(self.blocks(self.first(images)))


class _Hoarder(_Network):
    """Keeps its logits of every step."""

    def forward(self, images):
        self.kept = [*getattr(self, "kept", []), super().forward(images).detach()]
        return self.kept[-1] + super().forward(images)


def _batch():
    return (torch.empty(4096, 64),)


def _whole(model):
    return trace.trace(copy.deepcopy(model), _batch, OURS, whole=True)


@pytest.mark.parametrize("odd", [1, 6])
def test_blocks_that_look_alike_and_are_not_are_all_run(odd):
    """The second block (1) or the last but one (6) differs from the others in what no attribute tells."""
    with torch.device("meta"):
        model = _Network([_Block(64, late=place == odd) for place in range(8)])
    with pytest.raises(Unlike):
        trace.trace(bare_copy(model), _batch, OURS, whole=False)
    assert trace.trace_training(model, _batch, OURS) == _whole(model)


def test_blocks_that_do_not_look_alike_are_not_replayed():
    with torch.device("meta"):
        model = _Network([_Block(64) for _ in range(8)])
        model.blocks[3].linear = nn.Linear(64, 64, bias=False)
    assert not any(isinstance(module, BareBlock) for module in bare_copy(model).modules())
    assert trace.trace_training(model, _batch, OURS) == _whole(model)


def test_a_step_that_leaves_something_is_not_written_again():
    with torch.device("meta"):
        model = _Hoarder([_Block(64) for _ in range(3)])
    with pytest.raises(Unlike, match="left by a step"):
        trace.trace(copy.deepcopy(model), _batch, OURS, whole=False)
    assert trace.trace_training(model, _batch, OURS) == _whole(model)


def test_the_model_is_left_as_it_was():
    with torch.device("meta"):
        model = _Network([_Block(64) for _ in range(8)])
        model.none = nn.ModuleList()
    model.eval()
    before = list(model.parameters())
    trace.trace_training(model, _batch, OURS)
    assert all(one is other and one.is_meta for one, other in zip(before, model.parameters(), strict=True))
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module.training for module in model.modules())
