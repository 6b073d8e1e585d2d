"""What a trial is, as a value: frozen dataclasses and their dotted names.

One dotted name, such as ``side.num_prompts``, is the attribute, the command-line flag, the YAML key, the Optuna
parameter and the MLflow parameter. Defaults are the paper's (section 4.2.1), so a default trial *is* FPT+.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fpt_ray.config.augmentation import AugmentConfig
from fpt_ray.config.dotted import coerce, field_types, flatten, unknown_name
from fpt_ray.config.preparation import Preparation
from fpt_ray.config.training import LossConfig, Precision, TrainingConfig
from fpt_ray.errors import ConfigError

Method = Literal[
    "fpt+",
    "fpt",
    "mlp_transfer",
    "probe",
    "layer_fusion",
    "stored_linear_probe",
    "knn",
    "full_fine_tuning",
    "linear_probing",
    "prompt_tuning",
    "attention_tuning",
    "adapter",
    "bitfit",
    "lora",
    "adalora",
]
SUMMARY_METHODS = ("layer_fusion", "stored_linear_probe", "knn")
"""Methods that read the stored class tokens and mean patch tokens of the LPM's blocks, and nothing else."""
SIDE_METHODS = ("fpt+", "fpt", "mlp_transfer", "probe", *SUMMARY_METHODS)
"""Methods that stand beside the LPM, which stays as it is; the others train some of the LPM's own parameters, or some
put into it."""
_STORED = ("fpt+", "fpt", "probe", *SUMMARY_METHODS)
"""Those that can read stored features."""
_ONLY_STORED = ("probe", *SUMMARY_METHODS)
"""Those that can do nothing else."""
Importance = Literal["global", "class_token"]
StoredDtype = Literal["float16", "bfloat16", "float32"]
Read = Literal["auto", "gpu", "memory", "disk", "stream"]
"""Where features are read from. It changes no number, and is no part of a trial."""
LAST = "last"
NESTED = (LAST, "two_thirds", "middle")
"""Patterns of ``side.blocks`` of which fewer layers read some of the blocks that more layers read."""
EVEN = "even"
PATTERNS = (*NESTED, EVEN)
"""What ``side.blocks`` may be, beside numbers; see ``models.backbone.listed_blocks``."""
Value = bool | int | float | str | None
OF_EACH = (
    "training.learning_rate",
    "training.weight_decay",
    "training.seed",
    "side.prompt_dropout",
    "side.blocks",
)
"""What trials that train as one model may differ in: all else is one shape and one order of arithmetic."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """The large pre-trained model (LPM) M, frozen."""

    name: str = "vit_base_patch16_384.augreg_in21k_ft_in1k"
    """The name that timm has for the ViT."""
    weights: str | None = None
    """A local .safetensors, .pth or .onnx file, or "random" for untrained weights (for tests). Default: timm's weights
    of that name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesConfig(Preparation):
    """What is taken from the LPM (sections 3.3 and 3.5). A store may hold more than a trial takes."""

    token_ratio: float = 0.2
    """The important tokens that a head keeps, as a share of all tokens with the class token; the paper's m%."""
    preloaded: bool = True
    """The side network reads stored features. Without it, the LPM runs beside it in every step (Figure 7)."""
    importance: Importance = "global"
    """What scores a token: the mean attention of all queries, or the attention of the class token."""
    dtype: StoredDtype = "float16"
    """The type of the stored keys and values."""
    precision: Precision = "auto"
    """The arithmetic of the LPM; auto takes bfloat16 where the processor or GPU has it, else float32."""
    mean: tuple[float, float, float] | None = None
    """The mean of the input channels, in 0..1. Default: the one that the LPM was trained with."""
    std: tuple[float, float, float] | None = None
    """The standard deviation of the input channels, in 0..1. Default: the one that the LPM was trained with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SideConfig:
    """The learnable side network S, its fine-grained prompts and fusion modules (sections 3.2 to 3.4)."""

    depth: int = 6
    """The number of layers L_S; each reads a block of the LPM."""
    blocks: str = LAST
    """The LPM's blocks that the layers read, one for each: "last", which are the last L_S (Eq. 5); "two_thirds", the
    L_S up to two thirds of its depth; "middle", those in its middle; "even", spread over its depth up to the last; or
    their numbers from 0 with commas between, such as 3,6,9,11."""
    num_prompts: int = 16
    """The number of fine-grained prompts P a layer; with 0 the side network learns alone."""
    reduction: int = 8
    """The factor k by which the side network is narrower than the LPM."""
    resolution: int = 128
    """The side of the square low-resolution input I_l, in pixels."""
    prompt_dropout: float = 0.5
    """The dropout on what the fusion module hands to the side network (in the authors' code, not in the paper)."""
    prompt_width: int | None = None
    """The width of the prompts. Default: the width of the LPM for FPT+, of the side network for FPT."""
    shared_norm: bool = True
    """All fusion modules share one layer norm for prompts. Without it, each has its own (FPT+ only; FPT has none)."""
    shared_projector: bool = True
    """All fusion modules share one out-projector. Without it, each has its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """The probes with queries.

    ``probe`` reads the blocks that ``side.blocks`` and ``side.depth`` name and no image, ``layer_fusion`` the class
    tokens and mean patch tokens of all blocks.
    """

    num_queries: int = 4
    """The number of learnable queries of a head (of ``probe``: in each block)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnnConfig:
    """The k-nearest-neighbour classifier. Nothing of it is trained: of ``training`` it reads the batch size alone."""

    neighbours: int = 20
    """The number of training images that vote, k; all of them if there are fewer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PetlConfig:
    """What the compared methods put into the LPM (section 4.2.1; what the paper leaves open follows its Params)."""

    num_prompts: int = 16
    """The number of prompts a layer of prompt-tuning (VPT-deep)."""
    bottleneck: int = 48
    """The width of an adapter; there are two in a block."""
    rank: int | None = None
    """The rank of LoRA, or of AdaLoRA at its start, which ends with two thirds of it. Default: 16 for LoRA, 12 for
    AdaLoRA."""
    alpha: int = 16
    """The scale factor of LoRA and AdaLoRA."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """One point of a search space. The default is FPT+ as the paper ran it."""

    method: Method = "fpt+"
    """What is learnt, and how: FPT+, or a method that the paper compares with it."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    side: SideConfig = field(default_factory=SideConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    knn: KnnConfig = field(default_factory=KnnConfig)
    petl: PetlConfig = field(default_factory=PetlConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        _check_ranges(self)


def _check_ranges(trial: TrialConfig) -> None:
    positive = (
        "features.token_ratio",
        "side.depth",
        "side.reduction",
        "side.resolution",
        "probe.num_queries",
        "knn.neighbours",
        "petl.num_prompts",
        "petl.bottleneck",
        "petl.alpha",
        "training.epochs",
        "training.batch_size",
        "training.learning_rate",
        "training.clip_norm",
    )
    values = flatten(trial)
    for name in positive:
        if not values[name] > 0:
            raise ConfigError(f"{name} is {values[name]!r}; it must be larger than 0")
    if not trial.features.token_ratio <= 1:
        raise ConfigError(f"features.token_ratio is {trial.features.token_ratio!r}; it is a share, at most 1")
    if trial.method in _ONLY_STORED and not trial.features.preloaded:
        raise ConfigError(f"method is {trial.method}, which reads stored features; features.preloaded must be true")
    if trial.side.num_prompts < 0:
        raise ConfigError(f"side.num_prompts is {trial.side.num_prompts}; it must be 0 or more")
    for name in ("training.weight_decay", "training.seed", "loss.focal_gamma"):
        if values[name] < 0:
            raise ConfigError(f"{name} is {values[name]!r}; it must be 0 or more")
    for name in ("features.std", "side.prompt_width", "petl.rank"):
        given = values[name]
        if given is not None and min(given if isinstance(given, tuple) else (given,)) <= 0:
            raise ConfigError(f"{name} is {given!r}; it must be larger than 0")
    if not 0 <= trial.side.prompt_dropout < 1:
        raise ConfigError(f"side.prompt_dropout is {trial.side.prompt_dropout!r}; it must be in [0, 1)")


def reads_images(trial: TrialConfig) -> bool:
    """Whether training reads high-resolution images, because the LPM runs in every step, rather than its features."""
    return trial.method not in _STORED or not trial.features.preloaded


def reads_features(trial: TrialConfig) -> bool:
    """Whether a network beside the LPM reads its keys and values; a side network without prompts learns alone."""
    return trial.method not in SUMMARY_METHODS and (trial.method == "probe" or trial.side.num_prompts > 0)


def reads_low_resolution(trial: TrialConfig) -> bool:
    """Whether a network beside the LPM reads an image of its own."""
    return trial.method not in _ONLY_STORED


def needs_lpm(trial: TrialConfig) -> bool:
    """Whether the LPM computes features for the network: not for one that has it, nor for a side network alone."""
    return not reads_images(trial) and (trial.method in SUMMARY_METHODS or reads_features(trial))


def num_epochs(trial: TrialConfig) -> int:
    """How often training sees every image: once where nothing is learnt from it."""
    return 1 if trial.method == "knn" else trial.training.epochs


def image_resolution(trial: TrialConfig) -> int:
    """Side in pixels of the images that training reads: I_h where the LPM runs in every step, else I_l."""
    return trial.features.resolution if reads_images(trial) else trial.side.resolution


# --- dotted names ---------------------------------------------------------------------------------------------


def override(trial: TrialConfig, values: Mapping[str, Any]) -> TrialConfig:
    """Another trial, with the values of these dotted names.

    Raises:
        ConfigError: a name is unknown or a value does not fit its field.
    """
    leaves = field_types(TrialConfig)
    groups: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for name, value in values.items():
        if name not in leaves:
            raise ConfigError(f"unknown name {name!r}; {unknown_name(name, leaves)}")
        group, _, leaf = name.rpartition(".")
        (groups.setdefault(group, {}) if group else top)[leaf] = coerce(name, value, leaves[name])
    changed = {group: dataclasses.replace(getattr(trial, group), **leaf) for group, leaf in groups.items()}
    return dataclasses.replace(trial, **changed, **top)


def with_seed(trial: TrialConfig, further: int) -> TrialConfig:
    """The trial with a seed so many further on."""
    return dataclasses.replace(trial, training=dataclasses.replace(trial.training, seed=trial.training.seed + further))


def trial_from(values: Mapping[str, Any]) -> TrialConfig:
    """The default trial with the values of these dotted names."""
    return override(TrialConfig(), values)
