"""The LPM's features of an image: the authors' way, ours in float32 and ours in bfloat16, in turns.

From bytes on the host to features on the host, as preloading takes them. Hardware that does not multiply bfloat16
itself is not made to: emulated, it takes a hundred times as long. Core rooms alone: no Ray.
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fpt_ray.bench.plain.extraction import plain_extractor
from fpt_ray.bench.stages.limits import product_flops_per_s, seconds_of
from fpt_ray.bench.stages.turns import machine_load, rows_text, seconds_text, share_of_limit, speedup_of
from fpt_ray.config.space import need_of
from fpt_ray.config.trial import TrialConfig
from fpt_ray.cost.prediction import preload_flops
from fpt_ray.images.pixels import normalise
from fpt_ray.models.backbone import backbone_shape, blocks_read, kept_tokens
from fpt_ray.models.hardware import hardware_of
from fpt_ray.models.importance import extract
from fpt_ray.models.weights import load_backbone


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractionTimes:
    """Seconds an image of each run, and what the machine gives at most."""

    plain_s: tuple[float, ...]
    float32_s: tuple[float, ...]
    bfloat16_s: tuple[float, ...] | None
    """None where the hardware does not have it."""
    limit_s: float
    """The LPM's operations at the rate of one large product, in bfloat16 where the hardware has it."""
    product_flops_per_s: float
    device: str
    threads: int
    load: float

    @property
    def speedup_fp32(self) -> float:
        """Ours in float32 over theirs."""
        return speedup_of(self.plain_s, self.float32_s)

    @property
    def speedup_bf16(self) -> float | None:
        """Ours in bfloat16 over theirs."""
        return None if self.bfloat16_s is None else speedup_of(self.plain_s, self.bfloat16_s)

    @property
    def ours_s(self) -> tuple[float, ...]:
        """Ours in the precision that preloading takes."""
        return self.float32_s if self.bfloat16_s is None else self.bfloat16_s

    @property
    def of_limit(self) -> float:
        """The share of ours that the machine's rate accounts for."""
        return share_of_limit(self.limit_s, self.ours_s)

    @property
    def images_per_s(self) -> float:
        """Ours."""
        return 1 / statistics.median(self.ours_s)

    def as_json(self) -> dict[str, Any]:
        """Ratios and raw seconds."""
        names = ("speedup_bf16", "speedup_fp32", "of_limit", "images_per_s")
        return {name: getattr(self, name) for name in names} | asdict(self)


def measure_extraction(
    trial: TrialConfig, batch: int, runs: int, device: torch.device, *, plain_batch: int | None = None
) -> ExtractionTimes:
    """Times them in turns, on the same images, after one round that does not count.

    ``plain_batch`` is how many images theirs takes at once, whose attention maps are all kept. Default: as many.
    """
    resolution = trial.features.resolution
    plain_batch = min(plain_batch or batch, batch)
    images = torch.randint(0, 256, (batch, resolution, resolution, 3), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    images = images.pin_memory() if device.type == "cuda" else images
    has_bfloat16 = hardware_of(device).has_bfloat16
    kinds = (torch.float32, torch.bfloat16) if has_bfloat16 else (torch.float32,)
    ways: list[tuple[Callable[[], object], int]] = [
        (partial(_plain_extraction(trial, device), images[:plain_batch]), plain_batch),
        *((partial(our_extraction(trial, device, kind), images), batch) for kind in kinds),
    ]
    found = [tuple(seconds_of(way, device) / size for way, size in ways) for _ in range(1 + runs)]
    plain_s, float32_s, *in_bfloat16 = zip(*found[1:], strict=True)
    rate = product_flops_per_s(device, kinds[-1])
    return ExtractionTimes(
        plain_s=plain_s,
        float32_s=float32_s,
        bfloat16_s=in_bfloat16[0] if in_bfloat16 else None,
        limit_s=preload_flops(need_of(trial)) / rate,
        product_flops_per_s=rate,
        device=str(device),
        threads=torch.get_num_threads(),
        load=machine_load(),
    )


def _plain_extraction(trial: TrialConfig, device: torch.device) -> Callable[[Tensor], object]:
    shape, resolution = backbone_shape(trial.backbone.name), trial.features.resolution
    model = load_backbone(trial.backbone, resolution).to(device)
    kept = kept_tokens(shape.num_tokens(resolution), trial.features.token_ratio)
    extractor = plain_extractor(model, blocks_read(trial.side, shape), kept)

    def work(images: Tensor) -> object:
        return [kind.cpu() for kind in extractor(normalise(images.to(device), shape.mean, shape.std))]

    return work


def our_extraction(trial: TrialConfig, device: torch.device, arithmetic: torch.dtype) -> Callable[[Tensor], object]:
    """As preloading asks for features, in the stored type."""
    shape, features = backbone_shape(trial.backbone.name), trial.features
    model = load_backbone(trial.backbone, features.resolution).to(device, arithmetic)
    kept = kept_tokens(shape.num_tokens(features.resolution), features.token_ratio)
    blocks, stored = blocks_read(trial.side, shape), getattr(torch, features.dtype)

    def work(images: Tensor) -> object:
        inputs = normalise(images.to(device, non_blocking=True), shape.mean, shape.std)
        importance = features.importance
        found = extract(model, inputs, blocks=blocks, num_kept=kept, importance=importance, summarised=True)
        assert found.summaries is not None
        kinds = [kind.to(stored).cpu() for kind in (found.keys, found.values, found.summaries)]
        return [*kinds, found.tokens.cpu()]

    return work


def extraction_text(times: ExtractionTimes) -> str:
    """The table that people read."""
    kind = "float32" if times.bfloat16_s is None else "bfloat16"
    head = (
        f"features of an image on {times.device}, {times.threads} threads, medians of {len(times.plain_s)} rounds; a "
        f"product in {kind} {times.product_flops_per_s / 1e9:,.0f} GFLOP/s; load {times.load:.1f}"
    )
    rows = [
        seconds_text("the authors' way", times.plain_s),
        seconds_text("ours, float32", times.float32_s),
        ("speed-up", f"{times.speedup_fp32:.2f}"),
    ]
    if times.bfloat16_s is not None:
        rows += [seconds_text("ours, bfloat16", times.bfloat16_s), ("speed-up", f"{times.speedup_bf16:.2f}")]
    rows += [
        seconds_text("at the machine's rate", [times.limit_s]),
        (f"of the limit, {kind}", f"{times.of_limit:.0%}"),
    ]
    return rows_text(head, rows)
