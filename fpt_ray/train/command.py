"""Trains one side network under Ray Train: N workers over Ray Data shards of a feature store.

``python -m fpt_ray.train --images DIR_OR_TABLE | --features URI [--num_workers N] [any option of a trial]``
The numbers do not depend on the number of workers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import ray.train
import tyro

from fpt_ray.cluster import ray_session
from fpt_ray.config.trial import TrialConfig
from fpt_ray.errors import ConfigError
from fpt_ray.features.serving import store_for
from fpt_ray.features.store import Store, open_store
from fpt_ray.models.methods import check_trial
from fpt_ray.models.weights import anchored
from fpt_ray.preload.pipeline import preload
from fpt_ray.search.messages import EpochReport, unpack_message
from fpt_ray.storage.files import absolute, filesystem
from fpt_ray.train.best import scores_of_best
from fpt_ray.train.checkpoint import Checkpoint, load_checkpoint
from fpt_ray.train.ray_train import TrainWork, train


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Train one side network on a feature store."""

    images: str | None = None
    """A folder of images (train/ val/ test/ or classes to be split) or a CSV or Parquet table: path, label[, split]."""
    features: str | None = None
    """A finished feature store instead of images."""
    num_workers: int = 1
    """Workers, one a GPU where there are GPUs."""
    name: str = "train"
    """Name of the run under workdir/runs; a run of that name that was interrupted goes on."""
    workdir: str = "."
    """Where the run and, of images, the feature store go: a folder, or s3://bucket/prefix."""
    local: bool = False
    """Start Ray on this machine even if RAY_ADDRESS names a cluster."""
    trial: Annotated[TrialConfig, tyro.conf.arg(name="")] = field(default_factory=TrialConfig)


def run_training(command: Command) -> None:
    """Preloads if need be, trains, and prints the numbers of the best epoch."""
    trial = replace(command.trial, backbone=anchored(command.trial.backbone, str(Path.cwd())))
    check_trial(trial)
    if (command.images is None) == (command.features is None):
        raise ConfigError("give either --images or --features")
    workdir = absolute(command.workdir)
    runs_filesystem, runs = filesystem(f"{workdir}/runs")
    with ray_session(local=command.local):
        store = open_store(command.features) if command.features else preload(str(command.images), trial, workdir)
        store = store_for(trial, [store])
        run_config = ray.train.RunConfig(
            name=command.name,
            storage_path=runs,
            storage_filesystem=runs_filesystem,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            failure_config=ray.train.FailureConfig(max_failures=1),
        )
        result = train(TrainWork(trial=trial, store=store), run_config, command.num_workers)
        assert result.checkpoint is not None
        with result.checkpoint.as_directory() as folder:
            checkpoint = load_checkpoint(folder)
        report = unpack_message(result.metrics)
        assert isinstance(report, EpochReport)
        _print_result(trial, store, checkpoint, report.metrics)


def _print_result(trial: TrialConfig, store: Store, checkpoint: Checkpoint, numbers: Mapping[str, float]) -> None:
    print(f"{trial.method} on {store.uri}")
    for split in ("val", "test"):
        (found,) = scores_of_best(trial, store, split, checkpoint)
        print(
            f"{split:>5}  AUC {found.auc:.4f}  accuracy {found.accuracy:.4f}  F1 {found.macro_f1:.4f}  "
            f"kappa {found.kappa:.4f}"
        )
    print(f"best epoch {checkpoint.current.best.epoch} of {trial.training.epochs}")
    print(
        f"learnable parameters {numbers['learnable_parameters']:,.0f} ({numbers['param_ratio']:.2%}), peak memory "
        f"{numbers['peak_memory_bytes'] / 2**20:,.0f} MiB predicted ({numbers['memory_ratio']:.2%} of full "
        f"fine-tuning), PPE {numbers['ppe']:.4f}, PME {numbers['pme']:.4f} on validation AUC"
    )


def main() -> None:
    """Parse, run."""
    run_training(tyro.cli(Command, description=__doc__, use_underscores=True))
