"""Counts are the paper's (Tables 1 and 4); fusion is compared with a by-hand loop of Eq. 7 and 8."""

import dataclasses
from functools import partial

import pytest
import torch
from timm.models.vision_transformer import Block

from fpt_ray.config.trial import SideConfig, TrainingConfig, TrialConfig
from fpt_ray.errors import ConfigError
from fpt_ray.models.backbone import BackboneShape, backbone_shape
from fpt_ray.models.side_network import SideNetwork

VIT_B = "vit_base_patch16_384"


@pytest.fixture
def small_shape() -> BackboneShape:
    return BackboneShape(
        name="small",
        depth=4,
        width=32,
        num_heads=2,
        head_width=16,
        patch_size=8,
        num_prefix_tokens=1,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


@pytest.fixture
def small_trial() -> TrialConfig:
    return TrialConfig(
        side=SideConfig(depth=2, num_prompts=3, reduction=2, resolution=16),
        training=TrainingConfig(epochs=3, batch_size=4, learning_rate=2e-3, precision="float32"),
    )


def learnable(trial):
    return sum(parameter.numel() for parameter in SideNetwork(trial, backbone_shape(VIT_B), 5).parameters())


@pytest.mark.parametrize(
    ("prompts", "count"),
    [(4, 845_669), (8, 864_101), (16, 900_965), (32, 974_693), (64, 1_122_149), (128, 1_417_061)],
)
def test_learnable_parameters_of_table_4(prompts, count):
    assert learnable(TrialConfig(side=SideConfig(num_prompts=prompts))) == count


def test_learnable_parameters_of_fpt():
    assert learnable(TrialConfig(method="fpt", side=SideConfig(depth=12, resolution=224))) == 1_602_341


def features(trial, shape, batch=2, tokens=5):
    size = (trial.side.depth, batch, shape.num_heads, tokens, shape.head_width)
    return torch.randn(size), torch.randn(size)


@pytest.mark.parametrize("method", ["fpt+", "fpt"])
def test_fusion_equals_by_hand(method, small_trial, small_shape):
    trial = dataclasses.replace(small_trial, method=method)
    fusion = SideNetwork(trial, small_shape, 3).eval().fusion
    torch.nn.init.normal_(fusion.prompts)
    keys, values = features(trial, small_shape)
    for layer in range(trial.side.depth):
        prompts = fusion.prompts[layer]
        query = fusion.norms[0](prompts) if method == "fpt+" else fusion.in_proj[0](prompts)
        rows = []
        for image in range(2):
            for prompt in query:
                heads = []
                for head in range(small_shape.num_heads):
                    part = prompt[head * 16 : (head + 1) * 16]
                    weights = torch.softmax(keys[layer, image, head] @ part / 4, dim=0)
                    heads.append(weights @ values[layer, image, head])
                rows.append(torch.cat(heads))
        summary = torch.stack(rows).reshape(2, 3, 32)
        project = fusion.out_proj[0]
        expected = project(summary + prompts) if method == "fpt+" else project(summary) + prompts
        torch.testing.assert_close(fusion(layer, keys[layer], values[layer]), expected, atol=1e-5, rtol=1e-4)


def test_prompts_start_as_good_as_zero(small_trial, small_shape):
    assert SideNetwork(small_trial, small_shape, 3).fusion.prompts.abs().max() < 1e-5


def test_without_prompts_the_lpm_is_never_read(small_trial, small_shape):
    alone = dataclasses.replace(small_trial, side=dataclasses.replace(small_trial.side, num_prompts=0))
    network = SideNetwork(alone, small_shape, 3).eval()
    assert network.fusion is None
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 3)


def test_unshared_norm_and_projector_are_one_a_layer(small_trial, small_shape):
    side = dataclasses.replace(small_trial.side, shared_norm=False, shared_projector=False)
    fusion = SideNetwork(dataclasses.replace(small_trial, side=side), small_shape, 3).fusion
    assert (len(fusion.norms), len(fusion.out_proj)) == (2, 2)


def test_keep_masks_stand_for_the_dropout(small_trial, small_shape):
    network = SideNetwork(small_trial, small_shape, 3).train()
    keys, values = features(small_trial, small_shape)
    images, ones = torch.randn(2, 3, 16, 16), torch.ones(2, 2, 3, 16)
    torch.testing.assert_close(network(images, keys, values, ones), network.eval()(images, keys, values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reduction": 3}, r"side\.reduction is 3; .* must divide 16"),
        ({"depth": 9}, r"side\.depth is 9; .* take at most 4"),
        ({"resolution": 20}, r"side\.resolution is 20; .* take 16 or 24"),
        ({"prompt_width": 8}, r"side\.prompt_width is 8; .* width of 32"),
    ],
)
def test_what_cannot_be_built_is_named(change, message, small_trial, small_shape):
    trial = dataclasses.replace(small_trial, side=dataclasses.replace(small_trial.side, **change))
    with pytest.raises(ConfigError, match=message):
        SideNetwork(trial, small_shape, 3)


def whole_block(block):
    """timm's own block of the same weights."""
    width, heads = block.attn.qkv.in_features, block.attn.num_heads
    plain = Block(width, heads, qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-12)).double()
    plain.load_state_dict(dict(block.named_parameters()), assign=True)  # gradients arrive at the same parameters
    return plain


def by_hand(network, method, images, keys, values, masks):
    """Eq. 5 to 8, one image after another: a layer's prompts join its sequence, are dropped again, and the class token
    is read."""
    fusion, logits = network.fusion, []
    norm, project = (fusion.norms if method == "fpt+" else fusion.in_proj)[0], fusion.out_proj[0]
    for image in range(len(images)):
        patches = [images[image, :, y : y + 8, x : x + 8] for y in (0, 8) for x in (0, 8)]
        kernel, bias = network.patch_embed.weight, network.patch_embed.bias
        tokens = [network.cls_token[0, 0], *((kernel * patch).sum(dim=(1, 2, 3)) + bias for patch in patches)]
        tokens = torch.stack(tokens) + network.pos_embed[0]
        for layer, block in enumerate(network.blocks):
            prompts = fusion.prompts[layer]
            heads = norm(prompts).unflatten(-1, (2, 16))
            chances = torch.einsum("phe,hte->hpt", heads, keys[layer, image]).div(4).softmax(-1)
            summary = torch.einsum("hpt,hte->phe", chances, values[layer, image]).flatten(1)
            fused = project(summary + prompts) if method == "fpt+" else project(summary) + prompts
            sequence = torch.cat([tokens, fused * masks[layer, image]])
            tokens = whole_block(block)(sequence[None])[0, :5]
        logits.append(network.head(network.norm(tokens[0])))
    return torch.stack(logits)


@pytest.mark.parametrize("method", ["fpt+", "fpt"])
@pytest.mark.parametrize("in_one_kernel", [None, True])
def test_logits_and_gradients_equal_those_by_hand(method, in_one_kernel, small_trial, small_shape):
    """Of a network of whole blocks, in float64."""
    network = SideNetwork(dataclasses.replace(small_trial, method=method), small_shape, 3).double()
    torch.nn.init.normal_(network.fusion.prompts)
    for block in network.blocks:
        block.attn.in_one_kernel = in_one_kernel
    images, (keys, values) = torch.randn(2, 3, 16, 16).double(), features(small_trial, small_shape)
    inputs = images, keys.double(), values.double(), 2.0 * torch.randint(0, 2, (2, 2, 3, 16)).double()
    expected, found = by_hand(network, method, *inputs), network(*inputs)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    weights = dict(network.named_parameters())
    theirs, ours = (torch.autograd.grad(logits.logsumexp(1).sum(), weights.values()) for logits in (expected, found))
    for name, one, other in zip(weights, theirs, ours, strict=True):
        assert float((one - other).abs().max()) <= 1e-10 * float(one.abs().max()), name
