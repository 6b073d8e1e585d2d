"""An epoch of our loop beside one of the authors' procedure, in turns: training split, then validation split.

Theirs decodes the originals and reads a file of features an image; ours reads a feature store from its files, and from
memory. All three hold the same numbers. No Ray.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fpt_ray.bench.made import inspected_here, made_features, shared_rows, stored_rows, write_jpegs
from fpt_ray.bench.plain.extraction import save_features
from fpt_ray.bench.plain.training import Labelled, plain_epochs, plain_loaders
from fpt_ray.bench.stages.settings import EpochSetting
from fpt_ray.bench.stages.turns import machine_load, rows_text, seconds_text, speedup_of
from fpt_ray.config.trial import TrialConfig, override
from fpt_ray.features.joining import Features
from fpt_ray.features.rows import Rows
from fpt_ray.images.table import ImageTable
from fpt_ray.models.methods import make_model
from fpt_ray.train.loop import Epoch, fit
from fpt_ray.train.seeds import assignment_of

_WARM_UP = 1
_SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochTimes:
    """Seconds of each epoch, and those of them in which a step waited for its rows."""

    plain_s: tuple[float, ...]
    plain_wait_s: tuple[float, ...]
    ours_s: tuple[float, ...]
    """From the store's files."""
    ours_wait_s: tuple[float, ...]
    memory_s: tuple[float, ...]
    """Ours from memory."""
    memory_wait_s: tuple[float, ...]
    train: int
    val: int
    """Images of the splits."""
    device: str
    threads: int
    loader_workers: int
    """Processes of the authors' loader."""
    load: float

    @property
    def speedup(self) -> float:
        """From the store's files, over the authors' way; the median of the pairs."""
        return speedup_of(self.plain_s, self.ours_s)

    @property
    def speedup_memory(self) -> float:
        """From memory."""
        return speedup_of(self.plain_s, self.memory_s)

    @property
    def data_wait(self) -> float:
        """The share of our epochs from the store's files that training waited for rows."""
        return sum(self.ours_wait_s) / sum(self.ours_s)

    @property
    def data_wait_memory(self) -> float:
        """From memory."""
        return sum(self.memory_wait_s) / sum(self.memory_s)

    @property
    def plain_wait(self) -> float:
        """Of the authors' epochs."""
        return sum(self.plain_wait_s) / sum(self.plain_s)

    def as_json(self) -> dict[str, Any]:
        """Ratios and raw seconds."""
        names = ("speedup", "speedup_memory", "data_wait", "data_wait_memory", "plain_wait")
        return {name: getattr(self, name) for name in names} | asdict(self)


def measure_epoch(trial: TrialConfig, setting: EpochSetting, folder: Path, device: torch.device) -> EpochTimes:
    """Times the three in turns, after one round that does not count: workers start in it, and files are cached.

    Raises:
        ConfigError: the trial is not FPT+ as the authors run it.
        ValueError: a batch is larger than the training split.
    """
    trial = override(trial, {"training.epochs": _WARM_UP + setting.runs})
    counts = {"train": setting.train, "val": setting.val, "test": 2}
    table = inspected_here(write_jpegs(folder / "images", counts, setting.size))
    features = made_features(str(folder / "store"), table, trial)
    splits = plain_copies(table, features, trial, folder / "plain")
    loaders = plain_loaders(
        splits, folder / "plain", trial, workers=setting.loader_workers, pinned=device.type == "cuda"
    )
    ways = (
        plain_epochs(loaders, trial, table.classes, device),
        our_epochs(trial, features, [stored_rows(features, split, trial) for split in _SPLITS], device),
        our_epochs(trial, features, [shared_rows(features, split, trial) for split in _SPLITS], device),
    )
    rounds = list(zip(*ways, strict=True))[_WARM_UP:]
    plain, ours, memory = ([(epoch.seconds, epoch.data_seconds) for epoch in way] for way in zip(*rounds, strict=True))
    return EpochTimes(
        **_columns(plain=plain, ours=ours, memory=memory),
        train=setting.train,
        val=setting.val,
        device=str(device),
        threads=torch.get_num_threads(),
        loader_workers=setting.loader_workers,
        load=machine_load(),
    )


def _columns(**ways: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The fields of seconds and of waits, by the names of the ways."""
    found: dict[str, Any] = {}
    for name, pairs in ways.items():
        found[f"{name}_s"], found[f"{name}_wait_s"] = zip(*pairs, strict=True)
    return found


def our_epochs(trial: TrialConfig, features: Features, rows: Sequence[Rows], device: torch.device) -> Iterator[Epoch]:
    """Our loop on the training and the validation split."""
    model = make_model(trial, len(features.classes)).to(device)
    train, val = rows
    return fit(model, train, val, trial, assignment_of(features, device))


def plain_copies(table: ImageTable, features: Features, trial: TrialConfig, folder: Path) -> dict[str, list[Labelled]]:
    """Writes the same features as the authors keep them, a file an image; their images, in the order of our rows."""
    folder.mkdir()
    paths = {row.sha256: Path(table.root, row.path) for row in table.rows()}
    found: dict[str, list[Labelled]] = {}
    for split in _SPLITS:
        rows = stored_rows(features, split, trial)
        images = [paths[digest.tobytes().hex()] for digest in features.splits[split].hashes]
        found[split] = list(zip(images, rows.labels.tolist(), strict=True))
        for number, image in enumerate(images):
            batch = rows.take([number])
            assert batch.keys is not None
            assert batch.values is not None
            save_features(image, folder, batch.keys[:, 0], batch.values[:, 0])
    return found


def epoch_text(times: EpochTimes) -> str:
    """The table that people read."""
    head = (
        f"an epoch of {times.train} + {times.val} images on {times.device}, {times.threads} threads, medians of "
        f"{len(times.ours_s)} rounds; load {times.load:.1f}"
    )
    waits = {"plain": times.plain_wait, "ours": times.data_wait, "memory": times.data_wait_memory}
    rows = [
        seconds_text(f"the authors' way, {times.loader_workers} loader workers", times.plain_s),
        seconds_text("ours, from the store", times.ours_s),
        seconds_text("ours, from memory", times.memory_s),
        ("speed-up", f"{times.speedup:.2f}; from memory {times.speedup_memory:.2f}"),
        ("waiting for data", ", ".join(f"{name} {share:.1%}" for name, share in waits.items())),
    ]
    return rows_text(head, rows)
