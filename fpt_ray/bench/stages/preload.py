"""The preload command beside the authors' way of preloading, in turns: from image files to features on the disk.

Ray runs before either begins; what the command starts within it, workers and actors, counts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fpt_ray.bench.made import split_counts, write_jpegs
from fpt_ray.bench.plain.extraction import plain_preload
from fpt_ray.bench.stages.limits import product_flops_per_s, seconds_of
from fpt_ray.bench.stages.settings import PreloadSetting
from fpt_ray.bench.stages.turns import (
    all_cores,
    machine_load,
    rows_text,
    seconds_text,
    share_of_limit,
    speedup_of,
)
from fpt_ray.cluster import ray_session
from fpt_ray.config.space import need_of
from fpt_ray.config.trial import TrialConfig
from fpt_ray.cost.prediction import preload_flops
from fpt_ray.features.spec import bytes_per_row, store_spec
from fpt_ray.images.decoding import read_square
from fpt_ray.models.backbone import resolve_precision
from fpt_ray.models.device import compute_device
from fpt_ray.models.hardware import hardware_of
from fpt_ray.preload.pipeline import preload
from fpt_ray.storage.files import write

_WRITTEN_BYTES = 2**26


@dataclass(frozen=True, kw_only=True, slots=True)
class PreloadTimes:
    """Seconds of each run, and of what bounds ours."""

    plain_s: tuple[float, ...]
    ours_s: tuple[float, ...]
    limits_s: Mapping[str, float]
    """{what bounds: seconds that it would take alone, at the machine's rates}."""
    images: int
    image_bytes: int
    """Of all files."""
    device: str
    precision: str
    """Of our LPM; theirs is float32."""
    threads: int
    load: float

    @property
    def speedup(self) -> float:
        """Over the authors' way; the median of the pairs."""
        return speedup_of(self.plain_s, self.ours_s)

    @property
    def limited_by(self) -> str:
        """What takes longest at the machine's rates."""
        return max(self.limits_s, key=lambda name: self.limits_s[name])

    @property
    def of_limit(self) -> float:
        """The share of our seconds that this takes."""
        return share_of_limit(self.limits_s[self.limited_by], self.ours_s)

    def as_json(self) -> dict[str, Any]:
        """Ratios and raw seconds."""
        return {name: getattr(self, name) for name in ("speedup", "of_limit", "limited_by")} | asdict(self)


def measure_preload(trial: TrialConfig, setting: PreloadSetting, folder: Path) -> PreloadTimes:
    """Times both in turns on the same JPEGs, each into an empty folder."""
    device = compute_device()
    images = write_jpegs(folder / "images", split_counts(setting.count), setting.size)
    files, found = sorted(images.rglob("*.jpg")), list[tuple[float, float]]()
    precision = resolve_precision(trial.features.precision, hardware_of(device))
    with ray_session(local=True), all_cores() as threads:
        for run in range(setting.runs):
            plain, ours = folder / f"plain{run}", folder / f"ours{run}"
            plain.mkdir()
            plain_s = seconds_of(lambda plain=plain: plain_preload(files, trial, plain, device), device)
            ours_s = seconds_of(lambda ours=ours: preload(str(images), trial, str(ours)), device)
            found.append((plain_s, ours_s))
        limits_s = _limits(trial, files, precision, device)
    plain_s, ours_s = zip(*found, strict=True)
    return PreloadTimes(
        plain_s=plain_s,
        ours_s=ours_s,
        limits_s=limits_s,
        images=len(files),
        image_bytes=sum(file.stat().st_size for file in files),
        device=str(device),
        precision=str(precision).removeprefix("torch."),
        threads=threads,
        load=machine_load(),
    )


def _limits(trial: TrialConfig, files: list[Path], precision: torch.dtype, device: torch.device) -> dict[str, float]:
    """Seconds of the LPM's operations as one large product, of decoding on all cores, and of writing the rows."""
    need, data, settings = need_of(trial), files[0].read_bytes(), trial.features.preparation
    cpu, probe = torch.device("cpu"), files[0].parent / "written"
    decoding = min(seconds_of(lambda: read_square(data, files[0].name, settings), cpu) for _ in range(3))
    writing = min(seconds_of(lambda: write(str(probe), bytes(_WRITTEN_BYTES)), cpu) for _ in range(3))
    return {
        "the LPM": len(files) * preload_flops(need) / product_flops_per_s(device, precision),
        "decoding": len(files) * decoding / torch.get_num_threads(),
        "writing": len(files) * bytes_per_row(store_spec(need)) * writing / _WRITTEN_BYTES,
    }


def preload_text(times: PreloadTimes) -> str:
    """The table that people read."""
    head = (
        f"preloading {times.images} images ({times.image_bytes / 1e6:.1f} MB) on {times.device}, {times.threads} "
        f"threads, medians of {len(times.ours_s)} pairs, Ray's start left out; load {times.load:.1f}"
    )
    rows = [
        seconds_text("the authors' way", times.plain_s),
        seconds_text(f"ours, {times.precision}", times.ours_s),
        *(seconds_text(f"at the machine's rate: {name}", [seconds]) for name, seconds in times.limits_s.items()),
        ("speed-up", f"{times.speedup:.2f}"),
        (f"of the limit ({times.limited_by})", f"{times.of_limit:.0%}"),
    ]
    return rows_text(head, rows)
