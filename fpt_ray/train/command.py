"""Trains one side network under Ray Train, on the features of some images or on a finished feature store.

Several workers share the rows and the batch; the numbers do not depend on how many there are.
"""

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from fpt_ray.config.tasks import TITLES, LearnOptions
from fpt_ray.config.trial import Read, TrialConfig, num_epochs
from fpt_ray.display.units import MIB

if TYPE_CHECKING:
    from fpt_ray.train.trial import TrialResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Command(LearnOptions):
    """The options of ``train``."""

    images: str
    """A folder (train/ val/ test/, or classes to be split) or a table (CSV, Parquet) of path, label[, split][,
    group][, sha256], to be preloaded where it is not yet. With --features, a table that preload wrote to workdir/tables
    will do without its images."""
    features: str | None = None
    """A feature store that holds the images. Default: that of workdir, to which those are added that it lacks."""
    read: Read = "auto"
    """Where features are read from: the GPU, the host's shared memory, memory-mapped files on the host's disk, or the
    store itself. No number depends on it. Default: the first of them that has room."""
    num_workers: int = 1
    """The number of workers, each on one GPU where there are GPUs."""
    name: str = "train"
    """What the run under workdir/runs is called, before the digest of all that determines its numbers. An equal
    one that was interrupted goes on; one that has ended is reported."""
    workdir: str = "."
    """The working directory of the run and, of images, of the feature store: a folder, or s3://bucket/prefix."""
    with_backbone: bool = False
    """The weights of the LPM lie in the bundle that the run leaves, which then needs no network: one file more, as
    large as the LPM (ViT-S 87 MB, ViT-B 343 MB, ViT-L 1.2 GB)."""
    local: bool = False
    """Start Ray on this machine even if RAY_ADDRESS names a cluster."""
    trial: Annotated[TrialConfig, tyro.conf.arg(name="")] = field(default_factory=TrialConfig)


def run(command: Command) -> None:
    """Preloads if need be, trains, and prints the numbers of the best epoch.

    Raises:
        ConfigError: as ``preload`` and ``train_trial``.
    """
    from fpt_ray.cluster import ray_session
    from fpt_ray.config.fitting import fitted
    from fpt_ray.datasets.checking import inspected
    from fpt_ray.features.joining import join
    from fpt_ray.features.store import open_store
    from fpt_ray.images.table import read_images
    from fpt_ray.models.methods import check_trial
    from fpt_ray.preload.pipeline import preload
    from fpt_ray.storage.files import absolute
    from fpt_ray.train.trial import train_trial

    trial, workdir = command.trial, command.workdir
    check_trial(trial)
    with ray_session(local=command.local):
        if command.features:
            table = read_images(command.images, command)
            fitted(trial, table.target)
            prepared = (trial.features.preparation,)
            inspection = inspected(table, absolute(workdir), prepared, kept=False, allow=command.allow)
            features = join(open_store(command.features), inspection.table)
        else:
            features = preload(command.images, trial, workdir, options=command)
        found = train_trial(
            trial,
            features,
            workdir=workdir,
            name=command.name,
            num_workers=command.num_workers,
            read=command.read,
            with_backbone=command.with_backbone,
        )
        print(result_text(found))
        if features.data_note:
            print(features.data_note)


def result_text(result: "TrialResult") -> str:
    """The numbers of a trial's best epoch, for people."""
    lines = [f"{result.trial.method} on {result.store}"]
    for split, found in (("val", result.val), ("test", result.test)):
        lines.append(f"{split:>5}  " + "  ".join(f"{TITLES[name]} {value:.4f}" for name, value in found.values.items()))
    efficiency = "" if result.ppe is None else f", PPE {result.ppe:.4f}, PME {result.pme:.4f} on the validation score"
    lines += [
        f"best epoch {result.best_epoch} of {num_epochs(result.trial)}",
        f"learnable parameters {result.learnable_parameters:,} ({result.param_ratio:.2%}), peak memory "
        f"{result.peak_memory_bytes / MIB:,.0f} MiB predicted ({result.memory_ratio:.2%} of full fine-tuning)"
        f"{efficiency}",
        f"to use it: fpt-ray predict --model {shlex.quote(result.bundle)} --images DIR --out predictions.parquet",
    ]
    return "\n".join(lines)
