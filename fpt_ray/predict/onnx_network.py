"""A bundle as one network for a file: squared images in, calibrated probabilities out, the LPM and all seeds inside.

It computes what ``classifier`` does, in operations that ONNX has: the low resolution by Pillow's own weights.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from typing_extensions import override

from fpt_ray.config.tasks import Task
from fpt_ray.config.trial import SIDE_METHODS, SUMMARY_METHODS, needs_lpm, reads_images, reads_low_resolution
from fpt_ray.images.pixels import normalise
from fpt_ray.models.importance import extract
from fpt_ray.models.loss import says
from fpt_ray.models.methods import UNIT, load_learnable_state
from fpt_ray.predict.classifier import Classifier

_SCORE_BYTES = 2**26
"""Attention scores of an image that are held at once: few chunks, so that the file has few operations."""
_LEAST = 1e-12
"""Of a probability whose logarithm is taken, as in ``metrics.calibration``."""


class Whole(nn.Module):
    """The LPM, what is made of its features, the networks of all seeds, their temperatures and their mean."""

    def __init__(self, classifier: Classifier, lpm_type: torch.dtype) -> None:
        super().__init__()
        self.bundle = bundle = classifier.bundle
        self.lpm = copy.deepcopy(classifier.lpm)
        self.networks = nn.ModuleList()
        for state in bundle.states:
            network = copy.deepcopy(classifier.model)
            load_learnable_state(network, state)
            self.networks.append(network)
            _share_frozen(network, self.networks[0])
        self.high_type = torch.float32
        if self.lpm is not None:
            self.lpm.to(lpm_type)
        elif reads_images(bundle.trial):
            self.high_type = lpm_type
            for network in self.networks:
                _convert(network, lpm_type)
        self.squares = None
        if not reads_images(bundle.trial) and reads_low_resolution(bundle.trial):
            (side,) = bundle.spec.low_resolutions
            self.squares = Smaller(bundle.spec.resolution, side)

    @override
    def forward(self, images: UInt8[Tensor, "N R R 3"]) -> Float[Tensor, "N C"]:
        """Calibrated probabilities, or values."""
        inputs, task = self._inputs(images), self.bundle.target.task
        said = [
            tempered(says(task, network(*inputs).float(), network).float(), by, task)
            for network, by in zip(self.networks, self.bundle.temperatures, strict=True)
        ]
        return torch.stack(said).mean(dim=0)

    def _inputs(self, images: UInt8[Tensor, "N R R 3"]) -> tuple[Any, ...]:
        trial, spec = self.bundle.trial, self.bundle.spec
        high = normalise(images, spec.mean, spec.std)
        if reads_images(trial):
            high = high.to(self.high_type)
            return (high,) if trial.method not in SIDE_METHODS else (high, None)
        low = None if self.squares is None else normalise(self.squares(images), spec.mean, spec.std)
        if not needs_lpm(trial):
            return low, None, None
        found = extract(
            self.lpm,
            high,
            blocks=spec.blocks,
            num_kept=spec.num_kept,
            importance=spec.importance,
            summarised=True,
            score_bytes=_SCORE_BYTES,
        )
        stored = getattr(torch, spec.dtype)
        if trial.method in SUMMARY_METHODS:
            assert found.summaries is not None
            return (found.summaries.to(stored).float().permute(2, 0, 1, 3),)
        return low, found.keys.to(stored).float(), found.values.to(stored).float()


def _share_frozen(network: nn.Module, first: nn.Module) -> None:
    """Has a network use the frozen weights of the first, which are the same with all seeds: a file has them once."""
    same = dict(first.named_parameters())
    for name, parameter in list(network.named_parameters()):
        if not parameter.requires_grad:
            where, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(where), leaf, same[name])


def _convert(network: nn.Module, kind: torch.dtype) -> None:
    """To a type; the unit of values stays in its own, of which half precision would round the values."""
    unit = getattr(network, UNIT, None)
    network.to(kind)
    if unit is not None:
        network.register_buffer(UNIT, unit)


class Smaller(nn.Module):
    """Pillow's bicubic reduction, which rounds to bytes after the rows and after the columns."""

    weights: Float[Tensor, "S R"]

    def __init__(self, resolution: int, side: int) -> None:
        super().__init__()
        one_each = Image.fromarray(np.eye(resolution, dtype=np.float32))  # of pixels in floats nothing is rounded
        weights = one_each.resize((side, resolution), Image.Resampling.BICUBIC)
        self.register_buffer("weights", torch.from_numpy(np.array(weights).T.copy()))

    @override
    def forward(self, images: UInt8[Tensor, "N R R 3"]) -> Float[Tensor, "N 3 S S"]:
        """In 0..1, channels first."""
        across = _bytes(images.permute(0, 3, 1, 2).float() @ self.weights.T)
        return _bytes(self.weights @ across) / 255


def _bytes(pixels: Tensor) -> Tensor:
    return (pixels + 0.5).floor().clamp(0, 255)


def tempered(said: Float[Tensor, "N C"], by: Sequence[float], task: Task) -> Float[Tensor, "N C"]:
    """``metrics.calibration.calibrated``, in float32."""
    if task == "regression":
        return said
    logits = said.clamp_min(_LEAST).log()
    if task == "multilabel":
        return ((logits - (1 - said).clamp_min(_LEAST).log()) / logits.new_tensor(by)).sigmoid()
    if task != "ordinal":
        return (logits / by[0]).softmax(dim=-1)
    below = said.new_ones(said.shape[-1] - 1, said.shape[-1]).tril().mT
    passed, not_passed = ((said @ grades).clamp_min(_LEAST).log() for grades in (1 - below, below))
    at_most = ((not_passed - passed) / by[0]).sigmoid()
    return F.pad(at_most, (0, 1), value=1.0) - F.pad(at_most, (1, 0))
