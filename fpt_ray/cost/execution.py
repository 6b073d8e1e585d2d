"""What the paper's runs executed in another way than this project does, so that their memory can be predicted.

The results are the same; what is kept for the backward pass is not. Facts of the authors' code, no line of it: it has
no licence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from timm.layers.attention import Attention
from torch import Tensor, nn

from fpt_ray.display.units import MIB
from fpt_ray.models.lpm_attention import SCORE_BYTES
from fpt_ray.models.online import OnlineNetwork
from fpt_ray.models.side_block import SideAttention, SideBlock
from fpt_ray.models.side_network import FusionModule, SideNetwork
from fpt_ray.models.step import Inputs
from fpt_ray.models.stored_attention import StoredAttention

CONTEXT_BYTES = 348 * MIB
"""What a process holds on a GPU beside the allocator's segments. Inferred from the paper's float32 figures (FPT, FPT+;
RTX A6000), not measured; it differs by GPU, driver and loaded kernels, and was 410 MiB for the paper's baselines."""
CUBLAS_WORKSPACE_BYTES = 2 * 4096 * 1024 + 8 * 16 * 1024
"""PyTorch's default per thread (":4096:2:16:8")."""
HOPPER_WORKSPACE_BYTES = 32 * MIB
"""The same from Hopper GPUs on (compute capability 9)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """How a step is executed. The defaults are this project's; the rest serves to predict the paper's figures."""

    precision: Literal["float32", "bfloat16", "float16"]
    """Of the arithmetic; 16 bit means autocast."""
    fused_attention: bool = True
    """In the blocks of a ViT. Attention that is not fused keeps its maps."""
    optimizer_copies: int = 1
    """Copies of the learnable parameters that AdamW makes during a step: 1, and 2 in old releases of PyTorch."""
    authors_layout: bool = False
    """A side network reads keys and values that lie image by image, in float32, fuses all layers at once, and a batch
    lives until the next one stands in its place."""
    whole_blocks: bool = False
    """The layers of a side network compute all their tokens, also those that nothing reads."""
    score_bytes: int = SCORE_BYTES["cuda"]
    """Attention scores that the LPM holds at once where it runs in every step."""
    workspace_bytes: int = CUBLAS_WORKSPACE_BYTES
    """Of cuBLAS, for each of the threads of the forward and the backward pass."""
    context_bytes: int = CONTEXT_BYTES


# What the paper's figures imply: full fine-tuning and linear probing are met within 3 % (one update's two copies decide
# ViT-L at 128), while float32 would miss them by up to 10 % and fused attention by up to 67 %.
PAPER_BASELINES = Execution(precision="float16", fused_attention=False, optimizer_copies=2, context_bytes=410 * MIB)
PAPER_FPT = Execution(
    precision="float32", fused_attention=False, optimizer_copies=2, authors_layout=True, whole_blocks=True
)


def unfuse_attention(model: nn.Module, *, scores_stay: bool) -> None:
    """Makes the blocks of every ViT inside keep their attention maps; see ``eager_attention``."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.forward = partial(eager_attention, module, scores_stay=scores_stay)  # type: ignore[method-assign]


def eager_attention(
    attention: Attention,
    tokens: Float[Tensor, "B N D"],
    num_read: int | None = None,
    *,
    scores_stay: bool = False,
    **_unmasked: object,
) -> Float[Tensor, "B M D"]:
    """Attention of the paper's time: maps are kept, and scaled after the product, which takes one map more.

    The first ``num_read`` tokens ask, or all of them.

    A variable that stays alive holds the scaled scores to the end in transformers' ViT, which the authors' side network
    is made of; in timm's none does.
    """
    split = attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    queries, keys, values = split.unbind(0)
    queries, keys = attention.q_norm(queries[:, :, :num_read]), attention.k_norm(keys)
    scores = queries @ keys.transpose(-2, -1)
    scores = scores * attention.scale
    maps = scores.softmax(dim=-1)
    if not scores_stay:
        del scores
    return attention.proj((maps @ values).transpose(1, 2).flatten(-2))


def hold_scores(model: nn.Module, score_bytes: int) -> None:
    """Makes an LPM that runs in every step hold so many bytes of scores, whatever device it is traced on."""
    if isinstance(model, OnlineNetwork):
        model.score_bytes = score_bytes


def as_on_gpus(model: nn.Module) -> None:
    """Makes a network's attention run as it does on a GPU, whatever device it is traced on.

    The side network's runs in one kernel, that to stored keys and values half a layer at a time.
    """
    for module in model.modules():
        if isinstance(module, SideAttention):
            module.in_one_kernel = True
        elif isinstance(module, StoredAttention):
            module.halves = True


def run_whole_blocks(model: nn.Module) -> None:
    """Makes the layers of a side network compute all tokens, also those that nothing reads, as the authors' do."""
    for module in model.modules():
        if isinstance(module, SideBlock):
            module.forward = partial(_whole_block, module)  # type: ignore[method-assign]


def _whole_block(block: SideBlock, tokens: Float[Tensor, "B N W"], num_read: int) -> Float[Tensor, "B M W"]:
    tokens = tokens + block.attn(block.norm1(tokens), tokens.shape[1])
    return (tokens + block.mlp(block.norm2(tokens)))[:, :num_read]


def fuse_at_once(model: nn.Module) -> None:
    """Makes a side network that has prompts fuse those of all layers before its first layer, as the authors' does."""
    if isinstance(model, SideNetwork) and isinstance(model.fusion, FusionModule):
        fusion = model.fusion
        run_layers = partial(SideNetwork.forward, model)
        fuse = partial(_fused_prompts, fusion)

        def forward(images: Tensor, keys: Tensor, values: Tensor, _masks: None = None) -> Tensor:
            fused = fuse(keys, values).unsqueeze(2)  # stands as the keys of a single head
            return run_layers(images, fused, fused)

        model.forward = forward  # type: ignore[method-assign]
        fusion.forward = lambda _layer, fused, _values, _mask: fused.squeeze(1)  # type: ignore[method-assign]


def _fused_prompts(
    fusion: FusionModule, keys: Float[Tensor, "L B H T E"], values: Float[Tensor, "L B H T E"]
) -> Float[Tensor, "L B P W"]:
    """``FusionModule`` over all layers in one product; prompts are repeated for every image, dropout keeps its mask.

    Keys and values that lie image by image are copied whole by the products.
    """
    prompts = fusion.prompts.unsqueeze(1).expand(-1, keys.shape[1], -1, -1)
    query = (fusion.norms if fusion.plus else fusion.in_proj)[0](prompts)
    heads = query.unflatten(-1, (fusion.num_heads, -1)).transpose(2, 3)  # L B H P E
    scores = heads @ keys.transpose(-2, -1)
    scores = scores * fusion.scale
    maps = scores.softmax(dim=-1)
    summary = (maps @ values).transpose(2, 3).flatten(-2)
    project = fusion.out_proj[0]
    fused = project(summary + prompts) if fusion.plus else project(summary) + prompts
    if not fusion.dropout.p:
        return fused
    return torch.native_dropout(fused, fusion.dropout.p, True)[0]


def kept_until_next(inputs: Callable[[], Inputs]) -> Callable[[], Inputs]:
    """``inputs`` whose batches live until the next one is made, as those do that variables of a loop name."""
    held: list[Inputs] = []

    def make() -> Inputs:
        held[:] = [inputs()]
        return held[0]

    return make
