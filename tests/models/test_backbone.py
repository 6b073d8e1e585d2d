"""Keys, values and importance are compared with a by-hand loop in float64 over timm's own blocks, unfused."""

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch.utils._python_dispatch import TorchDispatchMode

from fpt_ray.config.trial import BackboneConfig
from fpt_ray.errors import ConfigError
from fpt_ray.models.backbone import backbone_shape, check_resolution, kept_tokens
from fpt_ray.models.importance import extract
from fpt_ray.models.lpm_attention import (
    Heard,
    Listening,
    Way,
    attention_and_mean,
    attention_and_mean_twice,
    attention_output,
    mean_attention,
)
from fpt_ray.models.weights import load_backbone, weights_digest


def by_hand(model, images, depth):
    """Per block: keys, values and mean attention [B H N E], [B H N], computed query by query in float64."""
    model = model.double()
    found, tokens = [], model.norm_pre(model._pos_embed(model.patch_embed(images.double())))
    for block in model.blocks:
        attention, inputs = block.attn, block.norm1(tokens)
        batch, number, _ = inputs.shape
        parts = attention.qkv(inputs).reshape(batch, number, 3, attention.num_heads, attention.head_dim)
        query, key, value = (parts[:, :, i].transpose(1, 2) for i in range(3))
        query, key = attention.q_norm(query), attention.k_norm(key)
        total = torch.zeros(batch, attention.num_heads, number, dtype=torch.float64)
        rows = []
        for i in range(number):
            row = torch.softmax((key @ query[:, :, i, :, None]).squeeze(-1) * attention.head_dim**-0.5, dim=-1)
            rows.append(row)
            total += row
        found.append((key, value, total / number, rows[0]))
        tokens = block(tokens)
    return found[-depth:]


def tiny(**options):
    torch.manual_seed(0)
    return (
        VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=0, **options)
        .eval()
        .requires_grad_(False)
    )


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"reg_tokens": 4}, {"init_values": 0.1}])
@pytest.mark.parametrize("importance", ["global", "class_token"])
@pytest.mark.parametrize("way", Way)
def test_extract_equals_by_hand(options, importance, way):
    images, how = torch.randn(2, 3, 32, 32), {"importance": importance, "way": way}
    found = extract(tiny(**options), images, blocks=(1, 2), num_kept=6, **how)
    for layer, (keys, values, mean, first) in enumerate(by_hand(tiny(**options), images, 2)):
        scores = mean if importance == "global" else first
        tokens = scores.argsort(dim=-1, descending=True)[..., :6]
        assert torch.equal(found.tokens[layer], tokens)
        at = tokens.unsqueeze(-1).expand(-1, -1, -1, keys.shape[-1])
        torch.testing.assert_close(found.keys[layer], keys.gather(2, at).float(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.values[layer], values.gather(2, at).float(), atol=1e-5, rtol=1e-4)


def test_less_is_a_prefix_and_shallower_a_suffix():
    model, images = tiny(), torch.randn(2, 3, 32, 32)
    wide = extract(model, images, blocks=(0, 1, 2), num_kept=12)
    narrow = extract(model, images, blocks=(1, 2), num_kept=5)
    for much, little in zip(wide[:3], narrow[:3], strict=True):
        assert torch.equal(much[1:, :, :, :5], little)


def test_kept_tokens_is_the_papers():
    assert backbone_shape("vit_base_patch16_384").num_tokens(512) == 1025
    assert kept_tokens(1025, 0.2) == 205  # 512 px, patch 16, 20 % (section 4.2.1)
    assert kept_tokens(5, 0.01) == 1


class Largest(TorchDispatchMode):
    """The largest tensor any operation makes."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_importance_never_holds_all_scores():
    number = 8192
    queries = torch.randn(1, 1, number, 4)
    with Largest() as seen:
        mean_attention(heard_of(queries, queries))
    assert seen.numel * 4 <= 8 * 2**20  # 256 MiB for all of them


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet18", "vit_base_patch16_xp_224", "vit_nope"])
def test_other_architectures_are_refused(name):
    with pytest.raises(ConfigError, match=r"backbone\.name is .*(These work: vit_|near are)"):
        backbone_shape(name)


def test_resolution_offers_the_two_nearest():
    shape = backbone_shape("vit_small_patch14_dinov2")
    check_resolution(shape, 448)
    with pytest.raises(ConfigError, match=r"features\.resolution is 450; .* take 448 or 462"):
        check_resolution(shape, 450)


def test_positions_are_interpolated_and_the_digest_is_of_the_weights_alone():
    config = BackboneConfig(name="vit_tiny_patch16_224", weights="random")
    small, large = load_backbone(config, 64), load_backbone(config, 96)
    assert small.pos_embed.shape[1] == 17
    assert large.pos_embed.shape[1] == 37
    assert weights_digest(small) == weights_digest(large)
    native = load_backbone(config, 224)
    images = torch.randn(1, 3, 96, 96)
    dynamic = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, num_classes=0).eval()
    dynamic.load_state_dict(dict(native.state_dict().items()))
    torch.testing.assert_close(large.forward_features(images), dynamic.forward_features(images), atol=1e-5, rtol=1e-5)


def test_weights_from_files(tmp_path):
    config = BackboneConfig(name="vit_tiny_patch16_224", weights="random")
    state = load_backbone(config, 224).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    digests = {
        weights_digest(load_backbone(BackboneConfig(name=config.name, weights=str(tmp_path / file)), 224))
        for file in ("w.safetensors", "w.pth")
    }
    assert digests == {weights_digest(load_backbone(config, 224))}


def test_weights_that_do_not_fit_are_named(tmp_path):
    save_file({"blocks.0.norm1.weight": torch.zeros(192), "stray": torch.zeros(1)}, tmp_path / "w.safetensors")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    for file, message in (("w.safetensors", "does not fit"), ("broken.pth", "cannot be read"), ("none.pth", "no file")):
        with pytest.raises(ConfigError, match=message):
            load_backbone(BackboneConfig(name="vit_tiny_patch16_224", weights=str(tmp_path / file)), 224)


def test_weights_of_another_size_are_named(tmp_path):
    state = load_backbone(BackboneConfig(name="vit_tiny_patch16_224", weights="random"), 224).state_dict()
    save_file(state, tmp_path / "tiny.safetensors")
    with pytest.raises(ConfigError, match=r"another size than backbone\.name: .* is \(.*192.*\), not \(.*384"):
        load_backbone(BackboneConfig(name="vit_small_patch16_224", weights=str(tmp_path / "tiny.safetensors")), 224)


def test_pickled_code_is_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"state_dict": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        load_backbone(BackboneConfig(name="vit_tiny_patch16_224", weights=str(tmp_path / "hostile.pth")), 224)


def test_weights_that_cannot_be_had_say_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def unreachable(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no network")
        return original(name, **options)

    original = timm.create_model
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ConfigError, match=r"^backbone\.weights: .*give a local .*file$"):
        load_backbone(BackboneConfig(name="vit_tiny_patch16_224"), 224)


def heard_of(queries, keys, values=None):
    return Heard(queries=queries, keys=keys, values=keys if values is None else values, scale=0.5)


def test_mean_attention_is_a_mean_over_the_queries_however_they_are_cut():
    queries, keys = torch.randn(2, 3, 70, 4), torch.randn(2, 3, 9, 4)
    expected = torch.stack([torch.softmax(keys @ query / 2, dim=-2) for query in queries.unsqueeze(-1).unbind(2)])
    for held in (4 * 2**20, 1):  # all at once, and 32 queries
        found = mean_attention(heard_of(queries, keys), held)
        torch.testing.assert_close(found, expected.mean(dim=0).squeeze(-1))


@pytest.mark.parametrize("held", [4 * 2**20, 1])
def test_output_and_mean_are_of_the_same_maps(held):
    queries, keys, values = torch.randn(2, 3, 70, 4), torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 4)
    maps = torch.softmax(queries @ keys.mT / 2, dim=-1)
    output, mean = attention_and_mean(heard_of(queries, keys, values), held)
    torch.testing.assert_close(output, maps @ values)
    torch.testing.assert_close(mean, maps.mean(dim=2))
    torch.testing.assert_close(attention_output(heard_of(queries, keys, values), held), maps @ values)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-4)])
@pytest.mark.parametrize("width", [4, 64])
def test_the_mean_without_maps_has_float32s_precision_in_sixteen_bits_too(dtype, close, width):
    """Scores are of up to a hundred, and their sums as large: one part of 16 bits of these would be wrong by a half."""
    torch.manual_seed(0)
    parts = (3 * 8 / width**0.5 * torch.randn(3, 2, 3, 70, width)).to(dtype)
    queries, keys, values = parts
    maps = torch.softmax(queries.double() @ keys.double().mT / 2, dim=-1)
    output, mean = attention_and_mean_twice(heard_of(*parts))
    torch.testing.assert_close(mean.double(), maps.mean(dim=2), rtol=close, atol=1e-9)
    assert torch.equal(output, F.scaled_dot_product_attention(queries, keys, values, scale=0.5))


def test_what_keys_have_in_common_costs_no_precision_in_sixteen_bits():
    """Scores of some hundreds, which stand whole numbers apart in 16 bits; the keys' differences make single ones."""
    torch.manual_seed(0)
    queries, values = torch.randn(1, 2, 40, 64), torch.randn(1, 2, 30, 64)
    keys = torch.randn(1, 2, 30, 64) + 8 * torch.randn(1, 2, 1, 64)
    queries, keys, values = (part.bfloat16() for part in (queries, keys, values))
    expected = torch.softmax(queries.double() @ keys.double().mT / 2, dim=-1) @ values.double()
    output, _ = attention_and_mean(heard_of(queries, keys, values))
    assert (output.double() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(
    ("dtype", "tiles", "importance", "kernels", "maps"),
    [
        (torch.bfloat16, False, "global", 0, 3),
        (torch.bfloat16, False, "class_token", 0, 5),
        (torch.bfloat16, True, "global", 5, 0),
        (torch.bfloat16, True, "class_token", 3, 2),
        (torch.float32, False, "global", 3, 2),
        (torch.float32, False, "class_token", 3, 2),
    ],
)
def test_on_a_cpu_attention_in_bfloat16_makes_maps_once_at_most(dtype, tiles, importance, kernels, maps, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: tiles)
    model, images, ran = tiny().to(dtype), torch.randn(2, 3, 32, 32), []

    class Kernels(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            ran.append(str(func))
            return func(*args, **(kwargs or {}))

    asked = {"num_kept": 6, "importance": importance, "summarised": True}
    with Kernels():
        found = extract(model, images, blocks=(1, 2), **asked)
    assert sum("scaled_dot_product" in name for name in ran) == kernels
    assert sum("softmax" in name for name in ran) == maps
    less = extract(model, images, blocks=(2,), **asked)  # which blocks are asked for changes no bit of the others
    assert torch.equal(less.summaries, found.summaries)
    assert torch.equal(less.keys[0], found.keys[1])
    expected = extract(model, images, blocks=(1, 2), **asked, way=Way.KERNEL)
    close = {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.03, "rtol": 0.03}
    torch.testing.assert_close(found.summaries, expected.summaries, **close)


@pytest.mark.parametrize("way", [Way.PRODUCTS, Way.KERNEL_TWICE])
@pytest.mark.parametrize(
    ("given", "is_announced"),
    [
        ({"is_causal": True}, False),
        ({"is_causal": True}, True),
        ({"attn_mask": torch.ones(9, 9, dtype=torch.bool).tril()}, False),
    ],
)
def test_attention_of_another_kind_is_left_to_pytorch(given, is_announced, way):
    parts = torch.randn(3, 1, 2, 9, 4, dtype=torch.bfloat16)
    expected = F.scaled_dot_product_attention(*parts, **given)
    with Listening(lambda heard: heard.queries, way=way, score_bytes=None) as listening:
        listening.scale = 0.5 if is_announced else None
        assert torch.equal(F.scaled_dot_product_attention(*parts, **given), expected)
