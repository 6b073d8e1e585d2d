"""Training as the authors' procedure does it: originals are decoded at every epoch, features read from a file each."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms  # timm brings it

from fpt_ray.bench.plain.extraction import features_file
from fpt_ray.bench.plain.step import Collated, plain_network, plain_probabilities, plain_step
from fpt_ray.config.trial import TrialConfig
from fpt_ray.metrics.scores import Scores, scores

Labelled = tuple[Path, int]
"""An image's file and its class."""


class PlainImages(Dataset[tuple[Tensor, Tensor, Tensor, int]]):
    """Images of a split with their features; for training, the low-resolution ones are cropped, flipped and coloured.

    Their values are in 0..1; where the authors' transforms end with a normalisation, the step has it.
    """

    def __init__(self, images: Sequence[Labelled], features: Path, trial: TrialConfig, *, augmented: bool) -> None:
        self.images, self.features, size = images, features, trial.side.resolution
        bicubic = transforms.InterpolationMode.BICUBIC
        shaped = [transforms.Resize((size, size), bicubic)]
        if augmented:
            shaped = [
                transforms.RandomResizedCrop(size, scale=(0.8, 1.0), ratio=(0.7, 1.3), interpolation=bicubic),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(brightness=0.2, contrast=0.2),
            ]
        self.transform = transforms.Compose([*shaped, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "3 R R"], Tensor, Tensor, int]:
        path, label = self.images[index]
        with Image.open(path) as image:
            low_res: Any = self.transform(image.convert("RGB"))
        found = load_file(features_file(path, self.features))
        return low_res, found["keys"], found["values"], label


def plain_loaders(
    splits: Mapping[str, Sequence[Labelled]], features: Path, trial: TrialConfig, *, workers: int, pinned: bool
) -> dict[str, DataLoader[Collated]]:
    """A loader for the splits train and val, each with so many worker processes, which stay from epoch to epoch."""
    augmented = {"train": trial.training.augment, "val": False}
    return {
        split: DataLoader(
            PlainImages(splits[split], features, trial, augmented=augmented[split]),  # type: ignore[arg-type]
            batch_size=trial.training.batch_size,
            shuffle=split == "train",
            drop_last=split == "train",
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pinned,
        )
        for split in augmented
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainEpoch:
    """One finished epoch."""

    losses: tuple[float, ...]
    """Of every step."""
    val: Scores
    seconds: float
    data_seconds: float
    """Of these, spent waiting for batches."""


def plain_epochs(
    loaders: Mapping[str, DataLoader[Collated]], trial: TrialConfig, classes: Sequence[str], device: torch.device
) -> Iterator[PlainEpoch]:
    """Trains from the trial's seed and yields after every epoch, as ``train.loop.fit`` does."""
    network = plain_network(trial, len(classes)).to(device)
    step = plain_step(network, trial, len(loaders["train"]) * trial.training.epochs)
    for _ in range(trial.training.epochs):
        started, waits = time.perf_counter(), list[float]()
        network.train()
        losses = torch.stack([step(batch) for batch in _waited_for(loaders["train"], waits)])
        found = [(plain_probabilities(network, batch, trial), batch[3]) for batch in _waited_for(loaders["val"], waits)]
        probabilities, labels = (torch.cat(kind).numpy() for kind in zip(*found, strict=True))
        yield PlainEpoch(
            losses=tuple(losses.tolist()),
            val=scores(probabilities, labels, tuple(classes)),
            seconds=time.perf_counter() - started,
            data_seconds=sum(waits),
        )


def _waited_for(loader: DataLoader[Collated], waits: list[float]) -> Iterator[Collated]:
    """The loader's batches; the seconds that each was waited for are added to the list."""
    asked = time.perf_counter()
    for low_res, keys, values, labels in loader:
        waits.append(time.perf_counter() - asked)
        yield low_res, keys, values, labels
        asked = time.perf_counter()
