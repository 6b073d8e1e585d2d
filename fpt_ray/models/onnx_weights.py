"""A DINOv2 Vision Transformer's weights out of an ONNX file, under timm's names. The file is read as data, never run.

Such exports keep the names of biases and norms, but fold the transposition into the linear layers' matrices and leave
those anonymous (``onnx::MatMul_1972``). The node that multiplies by a matrix still bears its module's path.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from fpt_ray.errors import ConfigError

_CLASS_TOKEN = "embeddings.cls_token"
_STEM = {
    "cls_token": _CLASS_TOKEN,
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_BLOCK_VECTORS = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attn.proj.bias": "attention.output.dense.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
    "ls2.gamma": "layer_scale2.lambda1",
}
_BLOCK_MATRICES = {
    "attn.proj.weight": "attention/output/dense",
    "mlp.fc1.weight": "mlp/fc1",
    "mlp.fc2.weight": "mlp/fc2",
}
_QKV = ("query", "key", "value")  # the order of timm's fused projection


class _MissingError(KeyError):
    """An initialiser a DINOv2 ViT has is not in the file; its argument names it."""


def read_onnx(path: str | Path) -> dict[str, Tensor]:
    """The weights of a DINOv2 ViT without registers, as the state dict of timm's ``vit_*_patch14_dinov2``, headless.

    What follows the backbone in the file (a decoder, a head) is left out.

    Raises:
        ConfigError: the file is no ONNX, keeps its weights in other files, or is not such a ViT; the message names the
            initialiser that is missing, or one that is too many.
    """
    graph = _graph(path)
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    try:
        prefix = _prefix(arrays)
        sources = _sources(arrays, _matrices(graph), prefix)
    except _MissingError as missing:
        raise ConfigError(f"{path} is no DINOv2 ViT as ONNX: {missing.args[0]} is missing") from None
    used = {name for names in sources.values() for name in names}
    extra = sorted(name for name in arrays if prefix and name.startswith(prefix) and name not in used)
    if extra:
        raise ConfigError(f"{path} is no plain DINOv2 ViT: it has {extra[0]!r} ({len(extra)} such in all) besides")
    try:
        return {name: _joined(name, [_array(arrays[source]) for source in names]) for name, names in sources.items()}
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: an initialiser cannot be read ({error})") from None


def _graph(path: str | Path) -> onnx.GraphProto:
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except OSError as error:
        raise ConfigError(f"{path}: the ONNX file cannot be read ({error.strerror})") from None
    except Exception as error:  # protobuf's own errors, which differ between its implementations
        raise ConfigError(f"{path} is no ONNX file ({type(error).__name__})") from None
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ConfigError(f"{path}: {tensor.name!r} lies in another file; save the ONNX as a single file")
    return graph


def _prefix(arrays: Mapping[str, onnx.TensorProto]) -> str:
    """What stands before the backbone's own names, such as ``backbone.``; perhaps nothing."""
    for name in arrays:
        if name.endswith(_CLASS_TOKEN):
            return name.removesuffix(_CLASS_TOKEN)
    raise _MissingError(f"the initialiser '...{_CLASS_TOKEN}'")


def _matrices(graph: onnx.GraphProto) -> dict[str, str]:
    """{path of a linear layer from ``layer.0`` on: initialiser it multiplies by}."""
    found = {}
    for node in graph.node:
        module = re.search(r"(?:^|/)encoder/(layer\.\d+/.+)/MatMul$", node.name)
        if node.op_type == "MatMul" and module and len(node.input) == 2:
            found[module[1]] = node.input[1]
    return found


def _sources(
    arrays: Mapping[str, onnx.TensorProto], matrices: Mapping[str, str], prefix: str
) -> dict[str, tuple[str, ...]]:
    """{timm's name: initialisers it is joined from, in order}."""

    def named(name: str) -> str:
        if prefix + name not in arrays:
            raise _MissingError(f"the initialiser {prefix + name!r}")
        return prefix + name

    def matrix(module: str) -> str:
        if matrices.get(module) not in arrays:
            raise _MissingError(f"the initialiser 'onnx::MatMul_*' of the node '.../encoder/{module}/MatMul'")
        return matrices[module]

    sources: dict[str, tuple[str, ...]] = {ours: (named(theirs),) for ours, theirs in _STEM.items()}
    sources["pos_embed"] = _position_table(arrays, arrays[sources["cls_token"][0]].dims[-1])
    layers = {found[1] for name in arrays if (found := re.match(re.escape(prefix) + r"encoder\.layer\.(\d+)\.", name))}
    for layer in range(max(1, len(layers))):
        block, module = f"blocks.{layer}", f"layer.{layer}"
        for ours, theirs in _BLOCK_VECTORS.items():
            sources[f"{block}.{ours}"] = (named(f"encoder.{module}.{theirs}"),)
        for ours, theirs in _BLOCK_MATRICES.items():
            sources[f"{block}.{ours}"] = (matrix(f"{module}/{theirs}"),)
        sources[f"{block}.attn.qkv.bias"] = tuple(named(f"encoder.{module}.attention.attention.{x}.bias") for x in _QKV)
        sources[f"{block}.attn.qkv.weight"] = tuple(matrix(f"{module}/attention/attention/{x}") for x in _QKV)
    return sources


def _position_table(arrays: Mapping[str, onnx.TensorProto], width: int) -> tuple[str, str]:
    """The two folded halves of the position table: of the class token (1, 1, D) and of the patches (1, N - 1, D)."""

    def folded(kind: str, wanted: str, fits: bool) -> str:
        for name, tensor in arrays.items():
            dims = list(tensor.dims)
            if name.startswith(f"onnx::{kind}_") and dims[::2] == [1, width] and (dims[1] == 1) == fits:
                return name
        raise _MissingError(f"the initialiser 'onnx::{kind}_*' of shape {wanted} (position table)")

    return folded("Concat", f"(1, 1, {width})", True), folded("Reshape", f"(1, patches, {width})", False)


def _array(tensor: onnx.TensorProto) -> np.ndarray:
    array = numpy_helper.to_array(tensor)
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"{tensor.name!r} is {array.dtype}, not floating point")
    return array


def _joined(name: str, arrays: list[np.ndarray]) -> Tensor:
    """One weight of timm's: linear matrices stand transposed in ONNX, the parts of a fused weight one by one."""
    if name.startswith("blocks.") and name.endswith(".weight") and arrays[0].ndim == 2:
        arrays = [array.T for array in arrays]
    joined = np.concatenate(arrays, axis=1 if name == "pos_embed" else 0)
    return torch.from_numpy(np.ascontiguousarray(joined, dtype=np.float32).copy())
