"""Floating-point operations of a training step and of preloading an image, counted on tensors without data.

PyTorch's own counter: matrix products and convolutions, two operations a multiplication and addition. What works
element by element (norms, softmax, the optimizer) is left out, and attention counts as its plain products.
"""

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from fpt_ray.backbone import backbone_shape, kept_tokens, unloaded_backbone
from fpt_ray.config import TrialConfig
from fpt_ray.importance import extract
from fpt_ray.methods import make_model
from fpt_ray.prediction import batch_maker, memory_key
from fpt_ray.trace import Execution


def step_flops(trial: TrialConfig, num_classes: int) -> int:
    """Of one training step on a batch, forward and backward; the LPM's share too where it runs in every step."""
    return _step_flops(memory_key(trial), num_classes)


@lru_cache(maxsize=256)
def _step_flops(trial: TrialConfig, num_classes: int) -> int:
    with torch.device("meta"):
        model = make_model(trial, num_classes, load=False).train()
        batch = batch_maker(trial, Execution(precision="float32"))()
        with FlopCounterMode(display=False) as counter:
            model(*batch).sum().backward()
    return counter.get_total_flops()


def preload_flops(trial: TrialConfig) -> int:
    """Of the LPM's forward pass over one image, up to the features that the trial reads, importance included."""
    features, shape = trial.features, backbone_shape(trial.backbone.name)
    kept = kept_tokens(shape.num_tokens(features.resolution), features.token_ratio)
    with torch.device("meta"), torch.no_grad():
        vit = unloaded_backbone(trial.backbone, features.resolution).eval()
        image = torch.empty(1, 3, features.resolution, features.resolution)
        with FlopCounterMode(display=False) as counter:
            extract(vit, image, depth=trial.side.depth, num_kept=kept, importance=features.importance)
    return counter.get_total_flops()
