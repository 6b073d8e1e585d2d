"""A model put together from arrays, compared with the one that was taken apart."""

import numpy as np
import pytest
import torch

from fpt_ray.config.trial import BackboneConfig
from fpt_ray.models.mapped import put_together, take_apart
from fpt_ray.models.weights import load_backbone
from tests.conftest import SMALL


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_works_on_arrays_that_cannot_be_written_to_and_gives_the_same_bits(dtype):
    model = load_backbone(BackboneConfig(name=SMALL, weights="random"), 64).to(dtype)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    bare, arrays = take_apart(model)
    assert {tensor.device.type for tensor in bare.state_dict().values()} == {"meta"}
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    for array in arrays.values():
        array.flags.writeable = False
    again = put_together(bare, arrays)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    weight = again.blocks[0].attn.qkv.weight
    assert weight.data_ptr() == arrays["blocks.0.attn.qkv.weight"].__array_interface__["data"][0]
    assert weight.requires_grad == model.blocks[0].attn.qkv.weight.requires_grad


def test_buffers_stay_buffers():
    model = torch.nn.BatchNorm1d(3)
    model.running_mean += torch.tensor([1.0, 2.0, 3.0])
    again = put_together(*take_apart(model))
    assert np.array_equal(again.running_mean, [1, 2, 3])
    assert set(dict(again.named_buffers())) == {"running_mean", "running_var", "num_batches_tracked"}
    assert again.num_batches_tracked.shape == ()
