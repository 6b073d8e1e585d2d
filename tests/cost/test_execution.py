"""fpt_ray.authors_layout computes what the modules compute that it makes run in another way."""

from functools import partial

import pytest
import timm
import torch

from fpt_ray.config.trial import override
from fpt_ray.cost.execution import eager_attention, fuse_at_once, kept_until_next, run_whole_blocks, unfuse_attention
from fpt_ray.models.side_network import SideNetwork


@pytest.mark.parametrize("scores_stay", [False, True])
def test_eager_attention_computes_what_timms_does(scores_stay):
    attention = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1).blocks[0].attn
    tokens = torch.randn(2, 5, 192)
    torch.testing.assert_close(eager_attention(attention, tokens, scores_stay=scores_stay), attention(tokens))


@pytest.mark.parametrize("method", ["fpt+", "fpt"])
def test_prompts_fused_at_once_are_those_fused_layer_by_layer(method, small_trial, small_shape):
    trial = override(small_trial, {"method": method, "side.prompt_dropout": 0.0})
    network = SideNetwork(trial, small_shape, 3)
    torch.nn.init.normal_(network.fusion.prompts)
    keys, values = torch.randn(2, 4, 2, small_shape.num_heads, 5, small_shape.head_width).transpose(1, 2)
    images = torch.randn(4, 3, 32, 32)
    expected = network(images, keys, values)
    fuse_at_once(network)
    torch.testing.assert_close(network(images, keys, values, None), expected)


@pytest.mark.parametrize("change", [run_whole_blocks, partial(unfuse_attention, scores_stay=True)])
def test_whole_blocks_and_kept_maps_give_the_same_logits(change, small_trial, small_shape):
    network = SideNetwork(small_trial, small_shape, 3).eval()
    keys, values = torch.randn(2, 2, 4, small_shape.num_heads, 5, small_shape.head_width)
    images = torch.randn(4, 3, 32, 32)
    expected = network(images, keys, values)
    change(network)
    tokens = []
    network.blocks[-1].mlp.register_forward_hook(lambda _module, given, _: tokens.append(given[0].shape[1]))
    torch.testing.assert_close(network(images, keys, values), expected)
    assert tokens == [network.pos_embed.shape[1] + small_trial.side.num_prompts if change is run_whole_blocks else 1]


def test_a_side_network_alone_is_left_as_it_is(small_trial, small_shape):
    network = SideNetwork(override(small_trial, {"side.num_prompts": 0}), small_shape, 3)
    fuse_at_once(network)
    assert "forward" not in vars(network)


def test_a_batch_lives_until_the_next_one_is_made():
    batches = [(torch.zeros(1),), (torch.ones(1),)]
    living = kept_until_next(lambda: batches.pop(0))
    living()
    assert living()[0].item() == 1
