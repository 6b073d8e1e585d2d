"""The learnable side network: fine-grained prompts, fusion modules and a small ViT (FPT+ and FPT, section 3).

Dimension letters, everywhere in this package: B batch, L side layers, H heads, N tokens of the LPM, T important
tokens, E head width of the LPM, P prompts, D width of the LPM, W width of the side network, C classes,
R resolution in pixels.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from fpt_ray.config.trial import TrialConfig
from fpt_ray.errors import ConfigError
from fpt_ray.models.backbone import BackboneShape, backbone_shape, blocks_read, check_resolution
from fpt_ray.models.side_block import SideAttention, SideBlock
from fpt_ray.models.stored_attention import StoredAttention

_EPS = 1e-12  # of every layer norm, as in the authors' code


class FusionModule(nn.Module):
    """Prompts of all layers and what lets them read the LPM (Eq. 7 and 8); one call serves one layer.

    FPT+ adds the residual *before* the out-projector: Eq. 7 prints it after, where the widths would not fit.
    FPT has no norm, projects its narrow prompts to the LPM's width for the query, and adds the residual after.
    """

    def __init__(self, trial: TrialConfig, backbone: BackboneShape, width: int) -> None:
        super().__init__()
        side = trial.side
        self.plus = trial.method == "fpt+"
        self.num_heads, self.scale = backbone.num_heads, backbone.head_width**-0.5
        lpm_width = backbone.num_heads * backbone.head_width
        prompt_width = side.prompt_width or (lpm_width if self.plus else width)
        _check_prompt_width(prompt_width, lpm_width if self.plus else width, trial.method)
        self.prompts = nn.Parameter(torch.empty(side.depth, side.num_prompts, prompt_width))
        projectors = 1 if side.shared_projector else side.depth
        norms = (1 if side.shared_norm else side.depth) if self.plus else 0
        self.norms = nn.ModuleList(nn.LayerNorm(prompt_width, eps=_EPS) for _ in range(norms))
        in_projectors = 0 if self.plus else projectors
        self.in_proj = nn.ModuleList(nn.Linear(prompt_width, lpm_width) for _ in range(in_projectors))
        self.out_proj = nn.ModuleList(nn.Linear(lpm_width, width) for _ in range(projectors))
        self.attention = StoredAttention()
        self.dropout = nn.Dropout(side.prompt_dropout)

    def forward(
        self,
        layer: int,
        keys: Float[Tensor, "B H T E"],
        values: Float[Tensor, "B H T E"],
        keep_mask: Float[Tensor, "B P W"] | None = None,
    ) -> Float[Tensor, "B P W"]:
        """What the layer's prompts hand to the side network. A keep mask (0 or 1/(1-p)) stands for the dropout."""
        prompts = self.prompts[layer]
        query = _of(self.norms, layer)(prompts) if self.plus else _of(self.in_proj, layer)(prompts)
        heads = query.unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0) * self.scale  # H E P
        summary = self.attention(heads, keys, values)
        project = _of(self.out_proj, layer)
        fused = project(summary + prompts) if self.plus else project(summary) + prompts
        return self.dropout(fused) if keep_mask is None else fused * keep_mask


class TransferModule(nn.Module):
    """Figure 7's "MLP transfer": every token of an LPM layer, brought to the side network's width, joins its sequence.

    The paper gives no more than "an MLP layer" (section 3.2): one hidden layer here, its own for each side layer.
    """

    def __init__(self, trial: TrialConfig, backbone: BackboneShape, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(backbone.width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(trial.side.depth)
        )

    @override
    def forward(
        self, layer: int, tokens: Float[Tensor, "B 1 N D"], values: Tensor, keep_mask: Tensor | None = None
    ) -> Float[Tensor, "B N W"]:
        """Tokens of the LPM as the side network's; they stand as keys of a single head, and as values unread."""
        return self.layers[layer](tokens[:, 0])


def _of(modules: nn.ModuleList, layer: int) -> nn.Module:
    """The layer's own module, or the one that all layers share."""
    return modules[layer if len(modules) > 1 else 0]


def _check_prompt_width(given: int, needed: int, method: str) -> None:
    if given != needed:
        raise ConfigError(
            f"side.prompt_width is {given}; {method} on this backbone adds its prompts to a width of {needed}"
        )


class SideNetwork(nn.Module):
    """A lightweight ViT on the low-resolution image whose layers read the LPM through prompts (Eq. 5 and 6).

    It is 1/k as wide as the LPM, has as many heads, and its layer l reads the l-th of ``side.blocks``. Without prompts
    it is a plain ViT that never sees the LPM.
    """

    def __init__(self, trial: TrialConfig, backbone: BackboneShape, num_outputs: int) -> None:
        super().__init__()
        side = trial.side
        width = side_width(trial, backbone)
        blocks_read(side, backbone)
        check_resolution(backbone, side.resolution, "side.resolution")
        num_patches = (side.resolution // backbone.patch_size) ** 2
        self.patch_embed = nn.Conv2d(3, width, backbone.patch_size, stride=backbone.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_patches, width))
        norm_layer = partial(nn.LayerNorm, eps=_EPS)
        self.blocks = nn.ModuleList(
            SideBlock(width, backbone.num_heads, qkv_bias=True, norm_layer=norm_layer, attn_layer=SideAttention)  # type: ignore[arg-type]
            for _ in range(side.depth)
        )
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.head = nn.Linear(width, num_outputs)
        reader = TransferModule if trial.method == "mlp_transfer" else FusionModule
        self.fusion = reader(trial, backbone, width) if side.num_prompts else None
        self.apply(initialise)

    def forward(
        self,
        low_res: Float[Tensor, "B 3 R R"],
        keys: Float[Tensor, "L B H T E"] | None = None,
        values: Float[Tensor, "L B H T E"] | None = None,
        keep_masks: Float[Tensor, "L B P W"] | None = None,
    ) -> Float[Tensor, "B C"]:
        """Logits. Keys and values, in any type, are needed unless there are no prompts."""
        patches = self.patch_embed(low_res).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.pos_embed
        num_tokens = tokens.shape[1]
        for layer, block in enumerate(self.blocks):
            if self.fusion is not None:
                assert keys is not None
                assert values is not None
                mask = None if keep_masks is None else keep_masks[layer]
                # Eq. 7: prompts join the sequence for this layer only.
                fused = self.fusion(layer, keys[layer], values[layer], mask)
                tokens = torch.cat([tokens, fused.to(tokens.dtype)], dim=1)
            tokens = block(tokens, num_tokens if layer < len(self.blocks) - 1 else 1)
        return self.head(self.norm(tokens[:, 0]))


def side_width(trial: TrialConfig, backbone: BackboneShape) -> int:
    """W = D / k; ConfigError unless the heads divide it."""
    width, rest = divmod(backbone.width, trial.side.reduction)
    if rest or width % backbone.num_heads:
        raise ConfigError(
            f"side.reduction is {trial.side.reduction}; {backbone.name} has width {backbone.width} and "
            f"{backbone.num_heads} heads, so the reduction must divide {backbone.width // backbone.num_heads}"
        )
    return width


def has_dropout(trial: TrialConfig) -> bool:
    """Whether outputs of its prompts are dropped in training."""
    return trial.method in ("fpt+", "fpt") and bool(trial.side.num_prompts and trial.side.prompt_dropout)


def dropout_masks(
    trial: TrialConfig, row_ids: Sequence[int] | Int[np.ndarray, " B"], epoch: int
) -> Float[Tensor, "L B P W"]:
    """Which prompt outputs are kept (0 or 1/(1-p)), drawn for each row by itself."""
    side, training = trial.side, trial.training
    width = side_width(trial, backbone_shape(trial.backbone.name))
    masks = torch.empty(len(row_ids), side.depth, side.num_prompts, width)
    for mask, row in zip(masks, row_ids, strict=True):
        key = (training.seed, epoch, int(row), 1)
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
        mask.bernoulli_(1 - side.prompt_dropout, generator=torch.Generator().manual_seed(seed))
    return masks.transpose(0, 1).div_(1 - side.prompt_dropout)


def initialise(module: nn.Module) -> None:
    """Normal weights of 0.02 for what is learnt from scratch, of 1e-6 for FPT's prompts (the authors' code)."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, FusionModule):
        nn.init.normal_(module.prompts, std=1e-6)
    elif isinstance(module, SideNetwork):
        nn.init.trunc_normal_(module.cls_token, std=0.02)
        nn.init.trunc_normal_(module.pos_embed, std=0.02)
