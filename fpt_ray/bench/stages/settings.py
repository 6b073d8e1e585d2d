"""What is measured, as values: options of ``bench preload``, ``epoch``, ``search``, ``gpu`` and ``serve``."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class PreloadSetting:
    """What is preloaded."""

    count: int = 64
    """The number of images that the command preloads; 0 leaves it out, and the LPM alone is timed."""
    size: int = 1024
    """The side of an image in pixels, a JPEG."""
    batch: int = 1
    """The number of images that the LPM takes at once, where it is timed alone."""
    runs: int = 5
    """The number of rounds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochSetting:
    """What an epoch is of."""

    train: int = 48
    """The number of images that are trained on."""
    val: int = 8
    """The number of images that are validated on."""
    size: int = 1024
    """The side of an original in pixels, a JPEG."""
    loader_workers: int = 2
    """The number of processes that load for the authors' way."""
    runs: int = 5
    """The number of rounds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSetting:
    """What is searched, and how much of the authors' way is timed."""

    points: int = 16
    """The number of trials, and of runs of the authors' procedure."""
    epochs: int = 20
    """The number of epochs of each."""
    count: int = 96
    """The number of images, test split included."""
    size: int = 1024
    """The side of an original in pixels, a JPEG."""
    plain_runs: int = 1
    """The number of runs of the authors' procedure that are timed; the others are taken to be as long."""
    loader_workers: int = 2
    """The number of processes that load for the authors' way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuSetting:
    """What a GPU is given."""

    device: Literal["cuda", "cpu"] = "cuda"
    """Where it is run; on a CPU to try the command, at small sizes."""
    batch: int = 16
    """The number of images that our LPM takes at once."""
    plain_batch: int = 4
    """The number of images that the authors' takes at once; it keeps all maps, 0.6 GB an image by default."""
    at_once: tuple[int, ...] = (1, 2, 4, 8)
    """The numbers of trials that share the GPU."""
    as_one: tuple[int, ...] = (4, 8, 16)
    """The numbers of trials that train as one model."""
    rows: int = 256
    """The number of images that a trial learns from, which lie on the GPU."""
    epochs: int = 3
    """The number of epochs of a trial that are timed, after one that is not."""
    runs: int = 9
    """The number of rounds of extraction, and of pairs of steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeSetting:
    """What is served, and how much it is asked."""

    model: str | None = None
    """The folder of a bundle or a run of train. Default: a tiny ViT with random weights, trained for it."""
    backbone: str | None = None
    """The file of the LPM's weights. Default: where they were in training."""
    replicas: int = 1
    """The number of replicas."""
    images: int = 64
    """The number of images of a turn, JPEGs."""
    size: int = 512
    """Their side in pixels."""
    clients: int = 8
    """The number of threads that ask at once."""
    rounds: int = 5
    """The number of turns of loop and server."""
    requests: int = 2000
    """The number of mixed requests, a third of them bad."""
