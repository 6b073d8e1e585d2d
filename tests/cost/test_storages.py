"""Storages of fake tensors."""

import copy

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fpt_ray.cost.storages import StorageLog, give_storages


def _model() -> nn.Module:
    """Own parameters beside children, buffers, one of them not there, and what learns and does not."""
    with torch.device("meta"):
        model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3).requires_grad_(False), nn.MultiheadAttention(4, 2))
        model.register_parameter("gain", nn.Parameter(torch.empty(2, 3).t()))
        model.register_buffer("absent", None)
        model.register_buffer("part", torch.empty(1000, 10)[:2])
        model.register_parameter("wide", nn.Parameter(torch.empty(1, 8).expand(1000, 8)))
    return model


def test_a_model_is_given_what_to_empty_gives_it():
    logs, models = [], []
    for give in (give_storages, lambda model, _: model.to_empty(device="cpu")):
        model, fake = copy.deepcopy(_model()), FakeTensorMode(allow_non_fake_inputs=True)
        with fake, StorageLog(fake=fake) as log:
            log.kind = "weights"
            give(model, log)
        logs.append((log.events, log.kinds, log.alive))
        models.append(model)
    assert logs[0] == logs[1]
    assert len(logs[0][0]) == sum(1 for _ in (*models[0].parameters(), *models[0].buffers())) == 14
    tensors = [{**dict(model.named_parameters()), **dict(model.named_buffers())} for model in models]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        other = tensors[1][name]
        assert (tensor.shape, tensor.stride(), tensor.dtype) == (other.shape, other.stride(), other.dtype), name
        assert tensor.requires_grad == other.requires_grad, name
        assert isinstance(tensor, nn.Parameter) == isinstance(other, nn.Parameter), name
        assert tensor.device.type == other.device.type == "cpu"
