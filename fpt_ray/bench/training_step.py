"""A training step beside one as the authors' procedure takes it, in turns, and beside what the machine gives at most.

Theirs is written from the paper and from facts of their code, no line of it. From one float32 tensor an image that are
collated, it brings layers first and moves keys and values to the device; every layer's attention keeps its maps, on all
tokens; prompts are repeated for every image; AdamW runs over lists of tensors. Its blocks project queries, keys and
values in one product, as ours do, which is in its favour.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fpt_ray.bench.limits import moved_bytes_per_s, product_flops_per_s, seconds_of
from fpt_ray.config.trial import TrialConfig, override
from fpt_ray.cost.execution import fuse_at_once, run_whole_blocks, unfuse_attention
from fpt_ray.cost.prediction import step_flops
from fpt_ray.errors import ConfigError
from fpt_ray.features.rows import Batch
from fpt_ray.images.pixels import normalise
from fpt_ray.models.backbone import backbone_shape, kept_tokens
from fpt_ray.models.device import compute_device
from fpt_ray.models.methods import make_model
from fpt_ray.models.step import arithmetic_type, make_learner, take_step
from fpt_ray.train.loop import Task, network_inputs

_CLASSES = 5
_WARM_UP = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTimes:
    """Seconds of each run, and what the machine gives at most."""

    plain_s: tuple[float, ...]
    """Of the authors' steps, from a batch that is collated."""
    collate_s: tuple[float, ...]
    """Of the collation of their batches."""
    ours_s: tuple[float, ...]
    limit_s: float
    """Our step at the machine's rates: its operations as one large product, and keys and values moved once."""
    product_flops_per_s: float
    moved_bytes_per_s: float
    device: str
    threads: int

    @property
    def speedup(self) -> float:
        """Over the authors' step, collation left out; the median of the pairs."""
        return statistics.median(plain / ours for plain, ours in zip(self.plain_s, self.ours_s, strict=True))

    @property
    def speedup_collated(self) -> float:
        """Over the authors' step and the collation of its batch."""
        triples = zip(self.plain_s, self.collate_s, self.ours_s, strict=True)
        return statistics.median((plain + collate) / ours for plain, collate, ours in triples)

    @property
    def of_limit(self) -> float:
        """The share of our step that the machine's rates account for."""
        return self.limit_s / statistics.median(self.ours_s)

    def as_json(self) -> dict[str, Any]:
        """Ratios and raw seconds."""
        ratios = {name: getattr(self, name) for name in ("speedup", "speedup_collated", "of_limit")}
        return ratios | asdict(self)


def measure_step(trial: TrialConfig, runs: int) -> StepTimes:
    """Times both steps in turns, on the same features.

    Raises:
        ConfigError: the trial is not FPT+ as the authors run it.
    """
    device = compute_device()
    trial = override(trial, {"training.augment": False})
    images = random_images(trial)
    plain, ours = plain_step(trial, device), our_step(trial, images, device)
    found: list[tuple[float, float, float]] = []
    for _ in range(_WARM_UP + runs):
        collated: list[Collated] = []
        collate_s = seconds_of(lambda into=collated: into.append(collate(images)), device)
        plain_s = seconds_of(partial(plain, collated.pop()), device)
        found.append((plain_s, collate_s, seconds_of(ours, device)))
    plain_s, collate_s, ours_s = zip(*found[_WARM_UP:], strict=True)
    flops, moved = product_flops_per_s(device), moved_bytes_per_s(device)
    number_bytes = torch.finfo(getattr(torch, trial.features.dtype)).bits // 8
    number_bytes += arithmetic_type(trial.training, device).itemsize
    numbers = sum(image.keys.numel() + image.values.numel() for image in images)
    return StepTimes(
        plain_s=plain_s,
        collate_s=collate_s,
        ours_s=ours_s,
        limit_s=step_flops(trial, _CLASSES) / flops + numbers * number_bytes / moved,
        product_flops_per_s=flops,
        moved_bytes_per_s=moved,
        device=str(device),
        threads=torch.get_num_threads(),
    )


def step_text(times: StepTimes, batch_size: int) -> str:
    """The table that people read."""
    plain, collate, ours = (statistics.median(one) for one in (times.plain_s, times.collate_s, times.ours_s))
    rows: Sequence[tuple[str, str]] = (
        ("the authors' way", f"{plain:.4f} s, and {collate:.4f} s to collate its batch"),
        ("ours", f"{ours:.4f} s"),
        ("at the machine's rates", f"{times.limit_s:.4f} s"),
        ("speed-up", f"{times.speedup:.2f}; with the collation {times.speedup_collated:.2f}"),
        ("of the limit", f"{times.of_limit:.0%}"),
    )
    head = (
        f"one step of {batch_size} images on {times.device}, {times.threads} threads, medians of {len(times.ours_s)} "
        f"pairs; a product {times.product_flops_per_s / 1e9:.0f} GFLOP/s, a copy {times.moved_bytes_per_s / 1e9:.1f} "
        "GB/s read and written"
    )
    return "\n".join([head, *(f"  {name:<24}{value}" for name, value in rows)])


# --- the same images for both ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """One image's features as the authors keep them: float32, layers first."""

    low_res: Tensor
    keys: Tensor
    values: Tensor
    label: int


Collated = tuple[Tensor, Tensor, Tensor, Tensor]
"""Low-resolution images, keys and values image by image, labels."""


def random_images(trial: TrialConfig) -> list[Image]:
    """A batch of images, whose features are numbers of the stored type."""
    shape, side, generator = backbone_shape(trial.backbone.name), trial.side, torch.Generator().manual_seed(0)
    kept = kept_tokens(shape.num_tokens(trial.features.resolution), trial.features.token_ratio)
    size, stored = (2, side.depth, shape.num_heads, kept, shape.head_width), getattr(torch, trial.features.dtype)
    found = []
    for number in range(trial.training.batch_size):
        keys, values = torch.randn(size, generator=generator).to(stored).float()
        pixels = torch.randint(0, 256, (side.resolution, side.resolution, 3), generator=generator)
        found.append(Image(low_res=pixels.to(torch.uint8), keys=keys, values=values, label=number % _CLASSES))
    return found


def collate(images: Sequence[Image]) -> Collated:
    """The authors' batch: each image's tensors, stacked."""
    low_res, keys, values = (
        torch.stack([getattr(one, name) for one in images]) for name in ("low_res", "keys", "values")
    )
    return low_res, keys, values, torch.tensor([one.label for one in images])


# --- the two steps --------------------------------------------------------------------------------------------


def plain_network(trial: TrialConfig) -> nn.Module:
    """The trial's network with the same weights, run as the authors run theirs.

    Raises:
        ConfigError: it is not FPT+ with one norm and one projector.
    """
    side = trial.side
    if trial.method != "fpt+" or not (side.shared_norm and side.shared_projector and side.num_prompts):
        raise ConfigError("the authors' step is compared for --method fpt+ alone, with prompts and shared modules")
    network = make_model(trial, _CLASSES)
    unfuse_attention(network, scores_stay=True)
    run_whole_blocks(network)
    fuse_at_once(network)
    return network


def plain_step(trial: TrialConfig, device: torch.device) -> Callable[[Collated], float]:
    """One step after another as the authors take it; each gives the loss that it began with."""
    network, training = plain_network(trial).to(device).train(), trial.training
    parameters, shape = list(network.parameters()), backbone_shape(trial.backbone.name)
    rate, decay = training.learning_rate, training.weight_decay
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=decay, foreach=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=training.epochs)

    def step(batch: Collated) -> float:
        low_res, keys, values, labels = batch
        features = (kind.transpose(0, 1).to(device) for kind in (keys, values))
        logits = network(normalise(low_res.to(device), shape.mean, shape.std), *features, None)
        loss = F.cross_entropy(logits, labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, training.clip_norm)
        optimizer.step()
        schedule.step()
        return loss.item()

    return step


def our_step(trial: TrialConfig, images: Sequence[Image], device: torch.device) -> Callable[[], float]:
    """One step after another as the loop takes it, on a batch of these images."""
    shape, training = backbone_shape(trial.backbone.name), trial.training
    learner = make_learner(
        make_model(trial, _CLASSES).to(device).train(), training, training.epochs, arithmetic_type(training, device)
    )
    low_res, keys, values, labels = collate(images)
    stored = getattr(torch, trial.features.dtype)
    keys, values = (kind.transpose(0, 1).to(stored).contiguous() for kind in (keys, values))
    batch = Batch(low_res=low_res, keys=keys, values=values, labels=labels)
    classes = tuple(map(str, range(_CLASSES)))
    task = Task(classes=classes, mean=shape.mean, std=shape.std, num_train=len(images), device=device)
    inputs = partial(network_inputs, batch, range(len(images)), 1, trial, task)

    def step() -> float:
        return float(take_step(learner, 1, inputs, lambda logits: labels.to(logits.device)))

    return step
