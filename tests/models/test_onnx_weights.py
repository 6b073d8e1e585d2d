"""Weights from ONNX, compared with a tiny export made by hand; with what the demonstration's own file computes when
ONNX's reference evaluator runs its graph from the first block to the last norm; and with what they must do: tell
digits apart. The latter (linear probe on the class token) also covers what stands before the blocks.
"""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fpt_ray.demo.material import weights_file
from fpt_ray.errors import ConfigError
from fpt_ray.models.onnx_weights import read_onnx

WIDTH, PATCHES = 8, 9


def small_vit() -> VisionTransformer:
    """A DINOv2 ViT of two blocks with random weights, all of them different."""
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=42, patch_size=14, embed_dim=WIDTH, depth=2, num_heads=2, num_classes=0, init_values=1e-5
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def exported(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor, str]]:
    """(name, tensor, path of the node that multiplies by it) as an export of such a model has them, one by one."""
    yield "net.embeddings.cls_token", state["cls_token"], ""
    yield "net.embeddings.patch_embeddings.projection.weight", state["patch_embed.proj.weight"], ""
    yield "net.embeddings.patch_embeddings.projection.bias", state["patch_embed.proj.bias"], ""
    yield "net.layernorm.weight", state["norm.weight"], ""
    yield "net.layernorm.bias", state["norm.bias"], ""
    yield "onnx::Concat_7", state["pos_embed"][:, :1], ""
    yield "onnx::Reshape_9", state["pos_embed"][:, 1:], ""
    for layer in (0, 1):
        block, name, node = f"blocks.{layer}", f"net.encoder.layer.{layer}", f"/net/encoder/layer.{layer}"
        for norm in ("norm1", "norm2"):
            yield f"{name}.{norm}.weight", state[f"{block}.{norm}.weight"], ""
            yield f"{name}.{norm}.bias", state[f"{block}.{norm}.bias"], ""
        for scale in (1, 2):
            yield f"{name}.layer_scale{scale}.lambda1", state[f"{block}.ls{scale}.gamma"], ""
        parts = zip(
            ("query", "key", "value"),
            *(state[f"{block}.attn.qkv.{x}"].chunk(3) for x in ("weight", "bias")),
            strict=False,
        )
        linear = [(f"attention.attention.{part}", weight, bias) for part, weight, bias in parts]
        for theirs, ours in (("attention.output.dense", "attn.proj"), ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):
            linear.append((theirs, state[f"{block}.{ours}.weight"], state[f"{block}.{ours}.bias"]))
        for number, (path, weight, bias) in enumerate(reversed(linear)):
            yield f"{name}.{path}.bias", bias, ""
            yield f"onnx::MatMul_{layer}{number}", weight.T, f"{node}/{path.replace('.', '/')}/MatMul"


def write(path, tensors) -> None:
    initialisers = [numpy_helper.from_array(np.ascontiguousarray(value.numpy()), name) for name, value, _ in tensors]
    nodes = [helper.make_node("MatMul", ["x", name], [node], name=node) for name, _, node in tensors if node]
    onnx.save(helper.make_model(helper.make_graph(nodes, "vit", [], [], initialisers)), str(path))


@pytest.fixture
def tensors() -> list[tuple[str, Tensor, str]]:
    return list(exported({name: value.detach() for name, value in small_vit().state_dict().items()}))


def test_every_weight_comes_back_under_its_timm_name(tmp_path, tensors):
    write(tmp_path / "vit.onnx", [*tensors, ("decoder.weight", torch.ones(3), "")])
    state, expected = read_onnx(tmp_path / "vit.onnx"), small_vit().state_dict()
    assert set(state) == set(expected)
    for name, value in expected.items():
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("net.embeddings.cls_token", r"embeddings\.cls_token"),
        ("onnx::Concat_7", r"onnx::Concat_\*' of shape \(1, 1, 8\)"),
        ("onnx::Reshape_9", r"onnx::Reshape_\*' of shape \(1, patches, 8\)"),
        ("net.encoder.layer.1.layer_scale2.lambda1", r"'net\.encoder\.layer\.1\.layer_scale2\.lambda1'"),
        ("net.encoder.layer.0.attention.attention.key.bias", r"layer\.0\.attention\.attention\.key\.bias"),
        ("onnx::MatMul_15", r"encoder/layer\.1/attention/attention/query/MatMul"),
    ],
)
def test_names_the_missing_initialiser(tmp_path, tensors, missing, said):
    write(tmp_path / "vit.onnx", [item for item in tensors if item[0] != missing])
    with pytest.raises(ConfigError, match=f"{said}.* is missing"):
        read_onnx(tmp_path / "vit.onnx")


def test_refuses_what_no_plain_dinov2_has(tmp_path, tensors):
    write(tmp_path / "vit.onnx", [*tensors, ("net.embeddings.register_tokens", torch.ones(1, 4, WIDTH), "")])
    with pytest.raises(ConfigError, match=r"net\.embeddings\.register_tokens"):
        read_onnx(tmp_path / "vit.onnx")


def test_refuses_other_files(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_onnx(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no protocol buffer")
    with pytest.raises(ConfigError, match=r"text\.onnx"):
        read_onnx(tmp_path / "text.onnx")


def test_reads_no_other_file(tmp_path):
    outside = TensorProto(name="net.embeddings.cls_token", data_type=TensorProto.FLOAT, dims=[1, 1, WIDTH])
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../secret")
    onnx.save(helper.make_model(helper.make_graph([], "vit", [], [], [outside])), str(tmp_path / "vit.onnx"))
    with pytest.raises(ConfigError, match="lies in another file"):
        read_onnx(tmp_path / "vit.onnx")


def backbone() -> VisionTransformer:
    """timm's model as the demonstration's file fills it."""
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=518)
    assert isinstance(model, VisionTransformer)
    model.load_state_dict(read_onnx(weights_file()), strict=True)
    return model.eval()


def graph_between(path: str, first: str, last: str) -> onnx.ModelProto:
    """The part of an ONNX file that makes one tensor out of another."""
    whole = onnx.load(path)
    needed, nodes = {last}, []
    for node in reversed(whole.graph.node):
        if needed & set(node.output) and first not in node.output:
            nodes.insert(0, node)
            needed |= set(node.input)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (first, last)]
    initialisers = [tensor for tensor in whole.graph.initializer if tensor.name in needed]
    graph = helper.make_graph(nodes, "blocks", ends[:1], ends[1:], initialisers)
    return helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)


@torch.inference_mode()
def test_timms_blocks_compute_what_the_files_own_graph_does():
    first, last = "/backbone/embeddings/Add_output_0", "/backbone/layernorm/Add_1_output_0"
    tokens = np.random.default_rng(0).normal(size=(1, 20, 384)).astype(np.float32)
    (expected,) = ReferenceEvaluator(graph_between(str(weights_file()), first, last)).run(None, {first: tokens})
    model = backbone()
    found = model.norm(model.blocks(torch.from_numpy(tokens))).numpy()
    assert np.abs(expected).max() > 10
    np.testing.assert_allclose(found, expected, atol=2e-4)  # 1.5e-5 measured


def digits(resolution: int) -> tuple[Tensor, np.ndarray]:
    """Digits as images a ViT takes, and their labels."""
    images, labels = load_digits(return_X_y=True)
    small = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8)[:900] / 16
    large = torch.nn.functional.interpolate(small, resolution, mode="bilinear")
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (large - mean) / std, labels[:900]


@torch.inference_mode()
def probe_accuracy(model: VisionTransformer, images: Tensor, labels: np.ndarray) -> float:
    """Share of the last 360 images that a logistic regression on the first 540's class tokens names rightly."""
    model.eval().set_input_size(img_size=images.shape[-2:])
    features = torch.cat([model.forward_features(part)[:, 0] for part in images.split(60)]).numpy()
    probe = LogisticRegression(C=10, max_iter=2000).fit(features[:540], labels[:540])
    return float(probe.score(features[540:], labels[540:]))


@pytest.mark.slow
def test_the_demonstrations_weights_see():
    images, labels = digits(84)
    # 0.933; with queries, keys and values swapped 0.85, positions shuffled 0.82, patches transposed 0.89.
    assert probe_accuracy(backbone(), images, labels) > 0.91
