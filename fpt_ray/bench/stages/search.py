"""A search of some points beside as many runs of the authors' procedure, each of which preloads and trains.

Features differ with the token ratio and the depth, which the points search, so that the authors' way makes them anew
for each. Its runs are of the point in the middle of the space, the mean of what the points cost; some are timed, before
and after the search, and multiplied.
"""

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from fpt_ray.bench.made import CLASSES, split_counts, write_jpegs
from fpt_ray.bench.plain.extraction import plain_preload
from fpt_ray.bench.plain.training import Labelled, plain_epochs, plain_loaders
from fpt_ray.bench.stages.limits import seconds_of
from fpt_ray.bench.stages.settings import SearchSetting
from fpt_ray.bench.stages.turns import all_cores, machine_load, rows_text, seconds_text
from fpt_ray.cluster import ray_session
from fpt_ray.config.dotted import flatten
from fpt_ray.config.trial import TrialConfig, override
from fpt_ray.models.backbone import backbone_shape
from fpt_ray.models.device import compute_device
from fpt_ray.tracking.server import default_uri
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.study import run_study


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchTimes:
    """Seconds of the search, and of the runs that were timed."""

    plain_run_s: tuple[float, ...]
    """Of each run that was timed: preloading and training."""
    plain_preload_s: tuple[float, ...]
    """Of these, preloading."""
    ours_s: float
    """Of the whole search: inspection, preloading, trials, test scores and report; Ray's start left out."""
    points: int
    epochs: int
    images: int
    device: str
    threads: int
    load: float

    @property
    def plain_runs_timed(self) -> int:
        """The others are taken to be as long as their median."""
        return len(self.plain_run_s)

    @property
    def plain_s(self) -> float:
        """Of all runs of the authors' procedure."""
        return self.points * statistics.median(self.plain_run_s)

    @property
    def speedup(self) -> float:
        """Over the authors' way."""
        return self.plain_s / self.ours_s

    def as_json(self) -> dict[str, Any]:
        """The ratio and raw seconds."""
        names = ("speedup", "plain_runs_timed", "plain_s")
        return {name: getattr(self, name) for name in names} | asdict(self)


def measure_search(trial: TrialConfig, setting: SearchSetting, folder: Path) -> SearchTimes:
    """Runs half of the authors' runs that are timed, the search, and the other half."""
    trial, device = override(trial, {"training.epochs": setting.epochs}), compute_device()
    images = write_jpegs(folder / "images", split_counts(setting.count), setting.size)
    before = (setting.plain_runs + 1) // 2
    with all_cores() as threads:
        runs = [_plain_run(trial, setting, images, folder / f"plain{run}", device) for run in range(before)]
        with ray_session(local=True):
            ours_s = seconds_of(lambda: _search(trial, setting.points, images, folder / "ours"), device)
        later = range(before, setting.plain_runs)
        runs += [_plain_run(trial, setting, images, folder / f"plain{run}", device) for run in later]
    return SearchTimes(
        plain_run_s=tuple(sum(run) for run in runs),
        plain_preload_s=tuple(preload_s for preload_s, _ in runs),
        ours_s=ours_s,
        points=setting.points,
        epochs=setting.epochs,
        images=sum(split_counts(setting.count).values()),
        device=str(device),
        threads=threads,
        load=machine_load(),
    )


def _plain_run(
    trial: TrialConfig, setting: SearchSetting, images: Path, folder: Path, device: torch.device
) -> tuple[float, float]:
    """Seconds of preloading and of training as the authors do it."""
    folder.mkdir()
    found: dict[str, list[Labelled]] = {
        split: [
            (path, label) for label, name in enumerate(CLASSES) for path in sorted((images / split / name).iterdir())
        ]
        for split in ("train", "val")
    }

    def train() -> None:
        workers, pinned = setting.loader_workers, device.type == "cuda"
        loaders = plain_loaders(found, folder, trial, workers=workers, pinned=pinned)
        list(plain_epochs(loaders, trial, CLASSES, device))

    preload_s = seconds_of(lambda: plain_preload(sorted(images.rglob("*.jpg")), trial, folder, device), device)
    return preload_s, seconds_of(train, device)


def _search(trial: TrialConfig, points: int, images: Path, workdir: Path) -> None:
    workdir.mkdir()
    (workdir / "space.yaml").write_text(space_text(trial, points))
    options = StudyOptions(
        space=str(workdir / "space.yaml"),
        images=str(images),
        workdir=str(workdir),
        study="bench",
        tracking_uri=default_uri(str(workdir)),
        local=True,
    )
    run_study(options)


def space_text(trial: TrialConfig, points: int) -> str:
    """A space around a trial, as YAML: token ratio, depth and prompts are half as much, as much and half as much more.

    Random points of it cost on average what the trial in its middle does.
    """
    side, ratio = trial.side, trial.features.token_ratio
    near = min(max(1, side.depth // 3), side.depth - 1, backbone_shape(trial.backbone.name).depth - side.depth)
    choices: dict[str, set[float]] = {
        "features.token_ratio": {min(1.0, ratio * share) for share in (0.5, 1.0, 1.5)},
        "side.depth": {side.depth - near, side.depth, side.depth + near},
        "side.num_prompts": {max(1, side.num_prompts * share // 2) for share in (1, 2, 3)},
    }
    fixed, default = flatten(trial), flatten(TrialConfig())
    document = {
        "space": {name: {"choices": sorted(values)} for name, values in choices.items()},
        "fixed": {name: value for name, value in fixed.items() if value != default[name] and name not in choices},
        "objectives": {"val_auc": "max", "param_ratio": "min"},
        "sampler": "random",
        "num_trials": points,
    }
    return yaml.safe_dump(document, sort_keys=False)


def search_text(times: SearchTimes) -> str:
    """The table that people read."""
    head = (
        f"{times.points} points of {times.epochs} epochs on {times.images} images, {times.device}, {times.threads} "
        f"threads, Ray's start left out; load {times.load:.1f}"
    )
    rows = (
        seconds_text(f"a run of the authors' way ({times.plain_runs_timed} timed)", times.plain_run_s),
        seconds_text("of it, preloading", times.plain_preload_s),
        seconds_text(f"{times.points} such runs", [times.plain_s]),
        seconds_text("our search", [times.ours_s]),
        ("speed-up", f"{times.speedup:.2f}"),
    )
    return rows_text(head, rows)
