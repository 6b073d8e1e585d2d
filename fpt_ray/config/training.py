"""How a network is trained, as values: the loop, and the loss."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["auto", "bfloat16", "float32"]
Sampling = Literal["shuffled", "balanced"]
LossWeights = Literal["none", "balanced"]
SelectBy = Literal[
    "auto",
    "auc",
    "average_precision",
    "sensitivity_at_90",
    "specificity_at_90",
    "accuracy",
    "balanced_accuracy",
    "f1",
    "kappa",
    "r2",
    "spearman",
]
"""A score that rises, of any task (``tasks.SCORES``)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """What of the training split the loss heeds, and how much."""

    weights: LossWeights = "none"
    """Balanced: by the inverse frequency of the classes in the training split; of labels, of having each and not."""
    focal_gamma: float = 0.0
    """The exponent of focal loss (Lin et al., arXiv 1708.02002): images that are told well count less; 0 is without."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How the side network is trained (section 4.2.1; what the paper leaves open is the authors' code's)."""

    epochs: int = 20
    """How often every training image is seen."""
    batch_size: int = 16
    """The number of images a step, over all workers."""
    learning_rate: float = 5e-4
    """The learning rate of AdamW at the start, from which it falls along a cosine."""
    weight_decay: float = 0.1
    """The weight decay of AdamW."""
    clip_norm: float = 1.0
    """The largest norm that the gradient of all parameters may have; a larger one is scaled down to it."""
    sampling: Sampling = "shuffled"
    """What an epoch visits: every training image once, or as many drawn so that classes come equally often, those of
    rare classes several times."""
    select_by: SelectBy = "auto"
    """The score on the validation split that picks the best epoch; auto takes the AUC, and R2 of values."""
    augment: bool = True
    """The low-resolution input is cropped, flipped, brightened and given contrast at random, as ``augment`` says."""
    precision: Precision = "auto"
    """The arithmetic of the side network; auto takes bfloat16 autocast on a GPU that has it, else float32."""
    seed: int = 0
    """The seed of every random choice: weights, order of the images, augmentation, dropout."""
