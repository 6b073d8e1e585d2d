"""A training step beside one as the authors' procedure takes it, in turns, and beside what the machine gives at most.

Ours reads a batch that lies on the device, in the stored type; theirs is collated on the host and moved.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fpt_ray.bench.plain.step import Collated, plain_network, plain_step
from fpt_ray.bench.stages.limits import moved_bytes_per_s, product_flops_per_s, seconds_of
from fpt_ray.bench.stages.turns import machine_load, rows_text, seconds_text, share_of_limit, speedup_of
from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import TrialConfig, override
from fpt_ray.cost.prediction import step_flops
from fpt_ray.features.rows import Batch
from fpt_ray.models.backbone import backbone_shape, kept_tokens
from fpt_ray.models.methods import make_model
from fpt_ray.models.step import arithmetic_type, make_learner, take_step
from fpt_ray.train.evaluation import Assignment, network_inputs

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
    """Our step at the machine's rates: its operations as one large product, and keys and values read twice."""
    product_flops_per_s: float
    moved_bytes_per_s: float
    device: str
    threads: int
    load: float

    @property
    def speedup(self) -> float:
        """Over the authors' step, collation left out; the median of the pairs."""
        return speedup_of(self.plain_s, self.ours_s)

    @property
    def speedup_collated(self) -> float:
        """Over the authors' step and the collation of its batch."""
        return speedup_of([sum(pair) for pair in zip(self.plain_s, self.collate_s, strict=True)], self.ours_s)

    @property
    def of_limit(self) -> float:
        """The share of our step that the machine's rates account for."""
        return share_of_limit(self.limit_s, self.ours_s)

    def as_json(self) -> dict[str, Any]:
        """Ratios and raw seconds."""
        ratios = {name: getattr(self, name) for name in ("speedup", "speedup_collated", "of_limit")}
        return ratios | asdict(self)


def measure_step(trial: TrialConfig, runs: int, device: torch.device) -> StepTimes:
    """Times both steps in turns, on the same features.

    Raises:
        ConfigError: the trial is not FPT+ as the authors run it.
    """
    trial = override(trial, {"training.augment": False})
    images, steps = random_images(trial), _WARM_UP + runs
    plain = plain_step(plain_network(trial, _CLASSES).to(device).train(), trial, steps)
    ours = our_step(trial, images, steps, device)
    found: list[tuple[float, float, float]] = []
    for _ in range(steps):
        collated: list[Collated] = []
        collate_s = seconds_of(lambda into=collated: into.append(collate(images)), device)
        plain_s = seconds_of(partial(_loss, plain, collated.pop()), device)
        found.append((plain_s, collate_s, seconds_of(ours, device)))
    plain_s, collate_s, ours_s = zip(*found[_WARM_UP:], strict=True)
    flops, moved = product_flops_per_s(device, arithmetic_type(trial.training, device)), moved_bytes_per_s(device)
    number_bytes = 2 * getattr(torch, trial.features.dtype).itemsize
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
        load=machine_load(),
    )


def _loss(step: Callable[[Collated], Tensor], batch: Collated) -> float:
    """A step, waited for."""
    return float(step(batch))


def step_text(times: StepTimes, batch_size: int) -> str:
    """The table that people read."""
    head = (
        f"one step of {batch_size} images on {times.device}, {times.threads} threads, medians of {len(times.ours_s)} "
        f"pairs; a product {times.product_flops_per_s / 1e9:.0f} GFLOP/s, a copy {times.moved_bytes_per_s / 1e9:.1f} "
        f"GB/s read and written; load {times.load:.1f}"
    )
    rows = (
        seconds_text("the authors' way", times.plain_s),
        seconds_text("collation of its batch", times.collate_s),
        seconds_text("ours", times.ours_s),
        seconds_text("at the machine's rates", [times.limit_s]),
        ("speed-up", f"{times.speedup:.2f}; with the collation {times.speedup_collated:.2f}"),
        ("of the limit", f"{times.of_limit:.0%}"),
    )
    return rows_text(head, rows)


# --- the same images for both ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFeatures:
    """One image's features as the authors keep them: float32, layers first."""

    low_res: Tensor
    keys: Tensor
    values: Tensor
    label: int


def random_images(trial: TrialConfig) -> list[ImageFeatures]:
    """A batch of images, whose features are numbers of the stored type."""
    shape, side, generator = backbone_shape(trial.backbone.name), trial.side, torch.Generator().manual_seed(0)
    kept = kept_tokens(shape.num_tokens(trial.features.resolution), trial.features.token_ratio)
    size, stored = (2, side.depth, shape.num_heads, kept, shape.head_width), getattr(torch, trial.features.dtype)
    found = []
    for number in range(trial.training.batch_size):
        keys, values = torch.randn(size, generator=generator).to(stored).float()
        pixels = torch.randint(0, 256, (side.resolution, side.resolution, 3), generator=generator)
        found.append(ImageFeatures(low_res=pixels.to(torch.uint8), keys=keys, values=values, label=number % _CLASSES))
    return found


def collate(images: Sequence[ImageFeatures]) -> Collated:
    """The authors' batch: each image's tensors, stacked."""
    low_res, keys, values = (
        torch.stack([getattr(one, name) for one in images]) for name in ("low_res", "keys", "values")
    )
    return low_res, keys, values, torch.tensor([one.label for one in images])


def our_step(
    trial: TrialConfig, images: Sequence[ImageFeatures], total_steps: int, device: torch.device
) -> Callable[[], float]:
    """One step after another as the loop takes it, on a batch of these images that lies on the device."""
    shape, training = backbone_shape(trial.backbone.name), trial.training
    model = make_model(trial, _CLASSES).to(device).train()
    learner = make_learner(model, [training], total_steps, arithmetic_type(training, device))
    low_res, keys, values, labels = collate(images)
    stored = getattr(torch, trial.features.dtype)
    keys, values = (kind.transpose(0, 1).to(stored).contiguous().to(device) for kind in (keys, values))
    batch = Batch(low_res=low_res.to(device), keys=keys, values=values, labels=labels.to(device))
    classes = tuple(map(str, range(_CLASSES)))
    target = Target(task="multiclass", classes=classes)
    assignment = Assignment(target=target, mean=shape.mean, std=shape.std, num_train=len(images), device=device)
    inputs = partial(network_inputs, batch, range(len(images)), 1, (trial,), assignment)

    def step() -> float:
        return float(take_step(learner, 1, inputs, lambda logits: batch.labels.to(logits.device)))

    return step
