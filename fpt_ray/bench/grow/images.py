"""The resolution of images grows, and the share of their tokens that is kept: of a small backbone, on the CPU.

The arithmetic that each ought to grow with stands beside it.
"""

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from fpt_ray.bench.grow.growth import AtSize, peak_memory, timed
from fpt_ray.bench.stages.extraction import our_extraction
from fpt_ray.bench.stages.step import our_step, random_images
from fpt_ray.config.space import need_of
from fpt_ray.config.trial import TrialConfig, override, trial_from
from fpt_ray.cost.prediction import preload_flops, step_flops, training_memory
from fpt_ray.display.terminal import say
from fpt_ray.display.units import MIB

SMALL = trial_from(
    {
        "backbone.name": "vit_tiny_patch16_224",
        "backbone.weights": "random",
        "features.resolution": 512,
        "side.reduction": 4,
        "side.resolution": 64,
        "training.augment": False,
    }
)
_CPU = torch.device("cpu")
_CLASSES = 5
_RUNS = 3


def measure_resolution(_folder: Path, sizes: Sequence[int]) -> Iterator[AtSize]:
    """An image of each resolution in pixels, and a step on the same share of its tokens."""
    for size in sizes:
        say(f"grow: {size} px")
        yield _measured(size, override(SMALL, {"features.resolution": size}))


def measure_ratio(_folder: Path, sizes: Sequence[int]) -> Iterator[AtSize]:
    """A step on each share of an image's tokens, in percent, and their extraction."""
    for size in sizes:
        say(f"grow: {size} % of the tokens")
        yield _measured(size, override(SMALL, {"features.token_ratio": size / 100}))


def _measured(size: int, trial: TrialConfig) -> AtSize:
    values: dict[str, float] = {}
    resolution, generator = trial.features.resolution, torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, resolution, resolution, 3), generator=generator).to(torch.uint8)
    extract, step = our_extraction(trial, _CPU, torch.float32), our_step(trial, random_images(trial), _RUNS + 1, _CPU)
    for what, work in (("extract an image", lambda: extract(image)), ("a training step", step)):
        gc.collect()
        with peak_memory(values, what):
            work()
        found: list[dict[str, float]] = [{} for _ in range(_RUNS)]
        for seconds in found:
            with timed(seconds, what):
                work()
        values |= min(found, key=lambda seconds: seconds[f"{what} [s]"])
    predicted = training_memory(trial, _CLASSES, precision="float32").allocated_bytes
    values["a training step on a GPU, predicted [MiB]"] = predicted / MIB
    values["extract an image [GFLOP]"] = preload_flops(need_of(trial)) / 1e9
    values["a training step [GFLOP]"] = step_flops(trial, _CLASSES) / 1e9
    return AtSize(size=size, values=values)
