"""Backbones with another attention or without class token, against timm's own parts in float64 and unfused."""

import pytest
import timm
import torch
from timm.layers import apply_rot_embed_cat
from timm.models.beit import Beit

from fpt_ray.config.trial import TrialConfig, trial_from
from fpt_ray.cost.prediction import trial_costs
from fpt_ray.errors import ConfigError
from fpt_ray.models.backbone import backbone_shape
from fpt_ray.models.hardware import Hardware
from fpt_ray.models.importance import extract
from fpt_ray.models.lpm_attention import Way
from fpt_ray.models.methods import check_trial, make_model
from fpt_ray.models.weights import _load_file, set_resolution

ROTARY = (
    "vit_small_patch16_dinov3",
    "vit_small_patch16_dinov3_qkvb",
    "eva02_tiny_patch14_224",
    "vit_small_patch16_rope_224",
    "vit_small_patch16_rope_mixed_224",
)
WITHOUT_CLASS_TOKEN = ("vit_base_patch16_siglip_224", "vit_base_patch16_siglip_gap_224", "vit_small_patch16_36x1_224")
SIZE = {"eva02_tiny_patch14_224": 56}


def model_of(name):
    torch.manual_seed(0)
    model = timm.create_model(name, img_size=SIZE.get(name, 64), num_classes=0).eval().requires_grad_(False)
    for parameter in model.parameters():  # some begin at 0, such as scales of layers and biases
        if parameter.abs().max() < 0.01:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def projected(attention, inputs):
    """Queries, keys and values B H N E before they are rotated."""
    if attention.qkv is None:
        found = [projection(inputs) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)]
    else:
        joint = inputs @ attention.qkv.weight.T
        biases = [getattr(attention, f"{kind}_bias", None) for kind in "qkv"]
        if biases[0] is not None:
            joint = joint + torch.cat(biases)
        elif attention.qkv.bias is not None:
            joint = joint + attention.qkv.bias
        found = joint.chunk(3, dim=-1)
    query, key, value = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in found)
    return attention.q_norm(query), attention.k_norm(key), value


def by_hand(model, images):
    """Per block: keys and values, mean attention B H N."""
    model = model.double()
    tokens, ropes = model._pos_embed(model.patch_embed(images.double()))
    tokens, found = model.norm_pre(tokens), []
    for number, block in enumerate(model.blocks):
        rope = ropes[number] if getattr(model, "rope_mixed", False) else ropes
        attention, prefix = block.attn, model.num_prefix_tokens
        query, key, value = projected(attention, block.norm1(tokens))
        half = attention.rotate_half
        query, key = (
            torch.cat([x[:, :, :prefix], apply_rot_embed_cat(x[:, :, prefix:], rope.double(), half=half)], dim=2)
            for x in (query, key)
        )
        maps = torch.softmax(query @ key.transpose(-2, -1) * attention.head_dim**-0.5, dim=-1)
        found.append((key, value, maps.mean(dim=2)))
        tokens = block(tokens, rope=rope)
    return found


@pytest.mark.parametrize("name", ROTARY)
@pytest.mark.parametrize("way", Way)
def test_keys_are_those_that_rotary_attention_multiplies(name, way):
    images = torch.randn(2, 3, SIZE.get(name, 64), SIZE.get(name, 64))
    found = extract(model_of(name), images, blocks=(1, 7), num_kept=6, way=way)
    expected = by_hand(model_of(name), images)
    for layer, block in enumerate((1, 7)):
        keys, values, mean = expected[block]
        tokens = mean.argsort(dim=-1, descending=True)[..., :6]
        assert (found.tokens[layer] == tokens).float().mean() > 0.98  # two may be equal but for rounding
        at = found.tokens[layer].unsqueeze(-1).expand(-1, -1, -1, keys.shape[-1])
        torch.testing.assert_close(found.keys[layer], keys.gather(2, at).float(), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(found.values[layer], values.gather(2, at).float(), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(expected[1][0][:, :, -1], projected_key(name, images)[:, :, -1], atol=1e-3)


def projected_key(name, images):
    """Keys of block 1 as they were without rotary positions in it, which the tests must tell from rotated ones."""
    model, heard = model_of(name).double(), []
    model.blocks[1].attn.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    model.forward_features(images.double())
    return projected(model.blocks[1].attn, heard[0])[1]


def small_beit(**options):
    """Made for 64 px and run at 96, as backbones are; timm has none that is small."""
    torch.manual_seed(0)
    model = Beit(
        img_size=64, embed_dim=48, depth=3, num_heads=2, num_classes=0, use_abs_pos_emb=False, **options
    ).eval()
    for parameter in model.parameters():
        if parameter.abs().max() < 0.01:
            torch.nn.init.normal_(parameter)
    set_resolution(model, 96)
    return model


def test_a_table_of_differences_keeps_the_nearest_and_the_farthest():
    """By hand: from 4 to 6 patches a side, rising by row; what lies between is no further apart than before."""
    model = Beit(img_size=64, embed_dim=48, depth=1, num_heads=1, use_abs_pos_emb=False, use_rel_pos_bias=True)
    rows = torch.arange(-3.0, 4)
    with torch.no_grad():
        model.blocks[0].attn.relative_position_bias_table[:49, 0] = rows.repeat_interleave(7)
    set_resolution(model, 96)
    found = model.blocks[0].attn.relative_position_bias_table[:121, 0].view(11, 11)
    torch.testing.assert_close(found, found[:, :1].expand(-1, 11))
    assert found[[0, 5, 10], 0].tolist() == pytest.approx([-3, 0, 3], abs=1e-5)
    assert 0 < found[:, 0].diff().min() <= found[:, 0].diff().max() < 1.001


@pytest.mark.parametrize("importance", ["global", "class_token"])
@pytest.mark.parametrize("place", ["use_rel_pos_bias", "use_shared_rel_pos_bias"])
@pytest.mark.parametrize("way", Way)
def test_a_bias_of_relative_positions_counts_for_importance(place, importance, way):
    model, images = small_beit(**{place: True}), torch.randn(2, 3, 96, 96)
    found = extract(
        model,
        images,
        blocks=(0, 2),
        num_kept=5,
        importance=importance,
        summarised=True,
        score_bytes=1,
        way=way,
    )
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), model.patch_embed(images)], dim=1)
    shared, expected = model.rel_pos_bias() if model.rel_pos_bias else None, []
    with torch.no_grad():
        for number, block in enumerate(model.blocks):
            bias = block.attn._get_rel_pos_bias() if shared is None else shared
            query, key, value = projected_as_beit(block.attn, block.norm1(tokens))
            maps = torch.softmax(query @ key.transpose(-2, -1) / 24**0.5 + bias, dim=-1)
            expected.append((key, value, maps.mean(dim=2) if importance == "global" else maps[:, :, 0]))
            tokens = block(tokens, shared_rel_pos_bias=shared)
            torch.testing.assert_close(found.summaries[number, 0], tokens[:, 0])
    for layer, (key, value, score) in enumerate((expected[0], expected[2])):
        best = score.argsort(dim=-1, descending=True)[..., :5]
        assert (found.tokens[layer] == best).float().mean() > 0.98  # two may be equal but for rounding
        at = found.tokens[layer].unsqueeze(-1).expand(-1, -1, -1, 24)
        torch.testing.assert_close(found.keys[layer], key.gather(2, at), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.values[layer], value.gather(2, at), atol=1e-5, rtol=1e-4)


def projected_as_beit(attention, inputs):
    joint = inputs @ attention.qkv.weight.T + torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
    return (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in joint.chunk(3, dim=-1))


def test_weights_of_beit_are_read_as_published(tmp_path):
    """The published files hold the index of positions, which is none of the weights."""
    model, other = small_beit(use_rel_pos_bias=True), small_beit(use_rel_pos_bias=True)
    index = {"blocks.0.attn.relative_position_index": model.blocks[0].attn.relative_position_index}
    torch.save({"model": {**model.state_dict(), **index}}, tmp_path / "beit.pth")
    torch.nn.init.zeros_(other.blocks[2].attn.relative_position_bias_table)
    _load_file(other, tmp_path / "beit.pth")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_beit_is_a_backbone_whose_costs_are_predicted():
    values = {"backbone.name": "beit_base_patch16_224", "features.resolution": 64, "side.resolution": 32}
    assert backbone_shape(values["backbone.name"]).head_width == 64
    for method in ("fpt+", "adapter"):
        trial = trial_from({**values, "method": method})
        check_trial(trial)
        costs = trial_costs(trial, 3, Hardware(device="cpu", name="cpu", has_bfloat16=False))
        assert 0 < costs["param_ratio"] < 0.05
        assert 0 < costs["memory_ratio"] < 1
    with pytest.raises(ConfigError, match="method is prompt_tuning, which puts tokens without a place among those"):
        check_trial(trial_from({**values, "method": "prompt_tuning"}))


def test_what_is_heard_leaves_the_lpm_as_it_was():
    model, images = model_of(ROTARY[0]), torch.randn(1, 3, 64, 64)
    before = model.forward_features(images)
    whole = extract(model, images, blocks=(0, 11), num_kept=21, summarised=True)
    torch.testing.assert_close(model.forward_features(images), before)
    assert whole.tokens.sort(dim=-1).values[0, 0, 0].tolist() == list(range(21))
    once = extract(model, images, blocks=(0,), num_kept=21)
    assert torch.equal(once.keys[0], whole.keys[0])


@pytest.mark.parametrize("name", WITHOUT_CLASS_TOKEN[:2])
@pytest.mark.parametrize("way", Way)
def test_without_a_class_token_a_block_is_summarised_as_the_lpm_pools(name, way):
    model, images = model_of(name), torch.randn(2, 3, 64, 64)
    shape = backbone_shape(name)
    assert (shape.num_prefix_tokens, shape.has_class_token) == (0, False)
    found = extract(model, images, blocks=(11,), num_kept=3, summarised=True, way=way)
    outputs = model.forward_intermediates(images, indices=12, output_fmt="NLC", intermediates_only=True)
    for block in (2, 11):
        pooled = model.pool(model.norm(outputs[block]))
        torch.testing.assert_close(found.summaries[block, 0], pooled, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.summaries[block, 1], outputs[block].mean(dim=1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.summaries[11, 0], model.pool(model.forward_features(images)), atol=1e-5, rtol=1e-4)


METHODS = (
    "fpt+",
    "probe",
    "layer_fusion",
    "full_fine_tuning",
    "linear_probing",
    "attention_tuning",
    "adapter",
    "bitfit",
)


@pytest.mark.parametrize(
    "name", [ROTARY[0], *(pytest.param(one, marks=pytest.mark.slow) for one in (ROTARY[2], WITHOUT_CLASS_TOKEN[0]))]
)
def test_its_methods_run_and_their_costs_are_predicted(name):
    size = SIZE.get(name, 64)
    patch = backbone_shape(name).patch_size
    values = {"backbone.name": name, "backbone.weights": "random", "features.resolution": size}
    hardware = Hardware(device="cpu", name="cpu", has_bfloat16=False)
    for method in METHODS:
        trial = trial_from({**values, "method": method, "side.resolution": 2 * patch, "side.reduction": 4})
        check_trial(trial)
        assert 0 < trial_costs(trial, 3, hardware)["param_ratio"] <= 1
        if method in METHODS[3:]:
            assert make_model(trial, 3).eval()(torch.randn(2, 3, size, size)).shape == (2, 3)
    online = trial_from({**values, "features.preloaded": False, "side.resolution": 2 * patch, "side.reduction": 4})
    assert make_model(online, 3)(torch.randn(2, 3, size, size)).shape == (2, 3)


def test_what_has_no_meaning_for_it_is_refused():
    for method in ("prompt_tuning", "lora", "adalora"):
        with pytest.raises(
            ConfigError, match=f"method is {method}, which .* of plain attention; {ROTARY[0]} has another"
        ):
            check_trial(trial_from({"method": method, "backbone.name": ROTARY[0], "features.resolution": 64}))
    values = {"backbone.name": WITHOUT_CLASS_TOKEN[0], "features.resolution": 64, "side.resolution": 32}
    with pytest.raises(ConfigError, match=r"features\.importance is class_token; vit_base_patch16_siglip_224 has no"):
        check_trial(trial_from({**values, "features.importance": "class_token"}))
    assert TrialConfig().features.importance == "global"


@pytest.mark.slow
def test_of_timms_vits_most_serve():
    """All of its families, the largest too, on the meta device: the others say which attention they have instead."""
    families = {"vision_transformer", "eva", "deit", "beit"}
    names = [name for name in timm.list_models() if timm.models._registry._model_to_module[name] in families]
    refused = {}
    for name in names:
        try:
            backbone_shape(name)
        except ConfigError as error:
            refused[name] = str(error)
    assert len(names) - len(refused) >= 230
    reasons = ("its blocks attend by", "it has fewer heads of keys than of queries")
    for name, said in refused.items():
        assert f"backbone.name is {name!r}, which does not serve: " in said
        assert any(reason in said for reason in reasons), said
