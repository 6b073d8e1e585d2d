"""The methods of Table 1 beside FPT and FPT+: each lets some parameters of a ViT learn, or puts some into it.

Every one changes a timm ViT in place or wraps one of its modules; none forks the model. LoRA and AdaLoRA are Hugging
Face's ``peft``. Learnable shares are Table 1's, but for attention-tuning (32.80 % against 33.8) and linear probing
(0.004 % against 0.01), whose printed figures no reading of the paper gives.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fpt_ray.config.trial import SIDE_METHODS, SUMMARY_METHODS, TrialConfig, reads_images, reads_low_resolution
from fpt_ray.errors import ConfigError
from fpt_ray.models.backbone import ViT, backbone_shape, blocks_read, check_resolution
from fpt_ray.models.online import OnlineNetwork
from fpt_ray.models.probe import Probe
from fpt_ray.models.side_network import SideNetwork, initialise, side_width
from fpt_ray.models.summary_probes import LayerFusion, NearestNeighbours, StoredLinearProbe
from fpt_ray.models.weights import load_backbone, unloaded_backbone

ADALORA_ORTHOGONALITY = 0.5
"""Weight of AdaLoRA's regulariser, peft's default."""
_STORED = {
    "probe": Probe,
    "layer_fusion": LayerFusion,
    "stored_linear_probe": StoredLinearProbe,
    "knn": NearestNeighbours,
}
_OF_PLAIN_ATTENTION = {
    "prompt_tuning": "puts tokens without a place among those",
    "lora": "changes the projection",
    "adalora": "changes the projection",
}
_RANKS = {"lora": 16, "adalora": 12}
UNIT = "target_unit"
"""The buffer of a network that tells values: the mean and the standard deviation that its outputs are in."""


def make_model(trial: TrialConfig, num_outputs: int, *, load: bool = True) -> nn.Module:
    """The trial's network as its seed initialises it, its LPM (where it needs one) with weights, if they shall load.

    Frozen parameters require no gradient. Without ``load`` nothing is read from disk, for ``meta`` devices.

    Raises:
        ConfigError: the weights cannot be had, or the configuration cannot be built on this backbone.
    """
    if not reads_images(trial):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(trial.training.seed)
            network = _STORED.get(trial.method, SideNetwork)
            return network(trial, backbone_shape(trial.backbone.name), num_outputs)
    vit = (load_backbone if load else unloaded_backbone)(trial.backbone, trial.features.resolution)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.training.seed)
        if trial.method in SIDE_METHODS:
            return OnlineNetwork(trial, vit, num_outputs)
        return adapt(vit, trial, num_outputs)


def adapt(vit: ViT, trial: TrialConfig, num_outputs: int) -> nn.Module:
    """The ViT with a new head and the method's own parameters; just what the method trains requires a gradient."""
    vit.reset_classifier(num_outputs)
    initialise(vit.head)
    vit.requires_grad_(trial.method == "full_fine_tuning")
    blocks: list[Any] = list(vit.blocks)
    model: nn.Module = vit
    match trial.method:
        case "prompt_tuning":
            prompted = (PromptedBlock(block, vit.embed_dim, trial.petl.num_prompts) for block in blocks)
            vit.blocks = nn.Sequential(*prompted)  # type: ignore[assignment]
        case "attention_tuning":
            for block in blocks:
                block.attn.requires_grad_(True)
        case "adapter":
            for block in blocks:
                block.attn = Adapted(block.attn, vit.embed_dim, trial.petl.bottleneck)
                block.mlp = Adapted(block.mlp, vit.embed_dim, trial.petl.bottleneck)
        case "bitfit":
            for name, parameter in vit.named_parameters():
                parameter.requires_grad_(name.endswith("bias"))
        case "lora" | "adalora":
            for block in blocks:
                block.attn.qkv = SplitProjection(block.attn.qkv)
            model = _lora(vit, trial) if trial.method == "lora" else AdaLora(vit, trial)
    vit.head.requires_grad_(True)
    return model


def learnable_state(model: nn.Module) -> dict[str, Any]:
    """What training changes, by its name in the state dict; all else of the model is as it was loaded.

    Beside what learns, that is the state of modules that keep one of their own (``get_extra_state``), and the unit of
    values.
    """
    learnable = {UNIT, *(name for name, parameter in model.named_parameters() if parameter.requires_grad)}
    state = model.state_dict()
    return {name: value for name, value in state.items() if name in learnable or name.endswith("_extra_state")}


def load_learnable_state(model: nn.Module, state: dict[str, Any]) -> None:
    """Puts a ``learnable_state`` back.

    Raises:
        RuntimeError: it is of another model; the message names what differs.
    """
    wanted = set(learnable_state(model))
    if wanted != set(state):
        raise RuntimeError(f"the checkpoint is of another model: {sorted(wanted ^ set(state))[:4]} differ")
    model.load_state_dict(state, strict=False)


# --- what is put into a block ---------------------------------------------------------------------------------


class PromptedBlock(nn.Module):
    """A block that sees prompts of its own beside its tokens and drops what became of them (VPT-deep).

    Attention does not care about order, so that they stand at the end instead of behind the class token.
    """

    def __init__(self, block: nn.Module, width: int, num_prompts: int) -> None:
        super().__init__()
        self.block = block
        self.prompts = nn.Parameter(torch.empty(1, num_prompts, width))
        nn.init.xavier_uniform_(self.prompts)

    def forward(self, tokens: Float[Tensor, "B N D"], **options: Any) -> Float[Tensor, "B N D"]:
        """The block's tokens without the prompts."""
        prompts = self.prompts.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
        return self.block(torch.cat([tokens, prompts], dim=1), **options)[:, : tokens.shape[1]]


class Adapted(nn.Module):
    """A sublayer followed by an adapter: a bottleneck with a residual (Houlsby et al., 2019), the identity at first."""

    def __init__(self, sublayer: nn.Module, width: int, bottleneck: int) -> None:
        super().__init__()
        self.sublayer = sublayer
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        initialise(self.down)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Float[Tensor, "B N D"], **options: Any) -> Float[Tensor, "B N D"]:
        """The sublayer's output, adapted."""
        out = self.sublayer(tokens, **options)
        return out + self.up(nn.functional.gelu(self.down(out)))


class SplitProjection(nn.Module):
    """timm's joint projection as three, so that LoRA can be put on the query and the value alone."""

    def __init__(self, joint: nn.Linear) -> None:
        super().__init__()
        self.q, self.k, self.v = (_third(joint, at) for at in range(3))

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B N QKV"]:
        """Query, key and value beside each other, as timm's attention takes them."""
        return torch.cat([self.q(tokens), self.k(tokens), self.v(tokens)], dim=-1)


def _third(joint: nn.Linear, at: int) -> nn.Linear:
    part = nn.Linear(joint.in_features, joint.out_features // 3, bias=joint.bias is not None, device="meta")
    part.weight = nn.Parameter(joint.weight.detach().chunk(3)[at].clone(), requires_grad=False)
    if joint.bias is not None:
        part.bias = nn.Parameter(joint.bias.detach().chunk(3)[at].clone(), requires_grad=False)
    return part


# --- peft -----------------------------------------------------------------------------------------------------


def _lora(vit: ViT, trial: TrialConfig) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=trial.petl.rank or _RANKS["lora"], lora_alpha=trial.petl.alpha, target_modules=["q", "v"], bias="none"
    )
    return get_peft_model(vit, config)  # type: ignore[arg-type]


class AdaLora(nn.Module):
    """peft's AdaLoRA with what its paper asks of the training loop: a regulariser, and ranks allocated every step.

    Without ``allocate`` it would silently train as LoRA with three factors.
    """

    def __init__(self, vit: ViT, trial: TrialConfig) -> None:
        super().__init__()
        from peft import AdaLoraConfig, get_peft_model

        rank = trial.petl.rank or _RANKS["adalora"]
        self.config = AdaLoraConfig(
            init_r=rank,
            target_r=max(1, rank * 2 // 3),
            total_step=2,  # see plan()
            lora_alpha=trial.petl.alpha,
            orth_reg_weight=ADALORA_ORTHOGONALITY,
            target_modules=["q", "v"],
        )
        self.peft = get_peft_model(vit, self.config)  # type: ignore[arg-type]

    def forward(self, images: Float[Tensor, "B 3 R R"]) -> Float[Tensor, "B C"]:
        """Logits."""
        return self.peft(images)

    def plan(self, total_steps: int) -> None:
        """The schedule of the budget: full for a tenth of the steps, final for the last three tenths."""
        self.config.total_step = total_steps
        self.config.tinit, self.config.tfinal = total_steps // 10, total_steps * 3 // 10
        self.config.deltaT = max(1, total_steps // 100)

    def regulariser(self) -> Float[Tensor, ""]:
        """How far the outer factors are from orthogonal (AdaLoRA, Eq. 4), averaged over the factors as peft does."""
        distances = []
        for name, factor in self.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                tall = factor.T if "lora_A" in name else factor
                gram = tall.T @ tall
                distances.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
        return ADALORA_ORTHOGONALITY * torch.stack(distances).mean()

    def allocate(self, step: int) -> None:
        """Moves rank to where it matters; after the optimizer's step, while gradients are there. Steps count from 1."""
        self.peft.base_model.update_and_allocate(step)  # type: ignore[operator]

    def ranks(self) -> list[int]:
        """Ranks that are in use, of every adapted matrix."""
        return [int((value != 0).sum()) for name, value in self.named_parameters() if "lora_E" in name]

    def get_extra_state(self) -> dict[str, Any]:
        """What the allocation remembers, so that a resumed trial goes on as if uninterrupted."""
        allocator: Any = self.peft.base_model.rankallocator  # type: ignore[union-attr]
        remembered = {name: getattr(allocator, name) for name in ("exp_avg_ipt", "exp_avg_unc")}
        return {**remembered, "rank_pattern": self.config.rank_pattern}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        allocator: Any = self.peft.base_model.rankallocator  # type: ignore[union-attr]
        device = next(self.parameters()).device
        for name in ("exp_avg_ipt", "exp_avg_unc"):
            setattr(allocator, name, {key: value.to(device) for key, value in state[name].items()})
        allocator.ipt = {key: torch.zeros_like(value) for key, value in allocator.exp_avg_ipt.items()}
        self.config.rank_pattern = state["rank_pattern"]


# --- what a trial reads ---------------------------------------------------------------------------------------


def check_trial(trial: TrialConfig) -> None:
    """ConfigError if the trial's network cannot be built on this backbone."""
    shape = backbone_shape(trial.backbone.name)
    check_resolution(shape, trial.features.resolution)
    if trial.features.importance == "class_token" and not shape.has_class_token:
        raise ConfigError(f"features.importance is class_token; {shape.name} has no class token, take global")
    if trial.method in _OF_PLAIN_ATTENTION and not shape.plain_attention:
        raise ConfigError(
            f"method is {trial.method}, which {_OF_PLAIN_ATTENTION[trial.method]} of plain attention; {shape.name} has "
            "another, take another method or backbone"
        )
    if trial.method in SIDE_METHODS and trial.method not in SUMMARY_METHODS:
        blocks_read(trial.side, shape)
        if reads_low_resolution(trial):  # a probe reads no image, and has no width of its own
            check_resolution(shape, trial.side.resolution, "side.resolution")
            side_width(trial, shape)
