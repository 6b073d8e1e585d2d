"""Runs the frozen LPM over the images once and stores the features of their important tokens (section 3.6).

``python -m fpt_ray.preload --images DIR_OR_TABLE [--space X.yaml] [any option of a trial]``
The options describe the widest trial the store shall serve: its token ratio, side depth and side resolution are upper
bounds for later trials. Killed at any moment and started again, it goes on from the finished shards.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fpt_ray.config.space_yaml import load_space
from fpt_ray.config.trial import TrialConfig
from fpt_ray.preload.pipeline import preload


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """Run the frozen LPM over the images once and store its features."""

    images: str
    """A folder (train/ val/ test/, or classes to be split) or a table (CSV, Parquet) of path, label[, split]; all of
    them local or at s3://bucket/prefix."""
    space: Path | None = None
    """A search space: preload all stores it needs, and leave the options of a trial alone."""
    workdir: str = "."
    """Stores go to workdir/features; a folder, or s3://bucket/prefix."""
    local: bool = False
    """Start Ray on this machine even if RAY_ADDRESS names a cluster."""
    trial: Annotated[TrialConfig, tyro.conf.arg(name="")] = field(default_factory=TrialConfig)


def run_preload(command: Command) -> None:
    """Preloads and prints where the stores are."""
    widest = load_space(command.space).stores() if command.space else (command.trial,)
    for trial in widest:
        store = preload(command.images, trial, command.workdir, local=command.local)
        rows = sum(shard.rows for shard in store.shards)
        size = sum(shard.bytes for shard in store.shards)
        print(f"{store.uri}\n{rows} images, {size / 1e9:.2f} GB, {size / rows / 1e6:.2f} MB each")


def main() -> None:
    """Parse, run."""
    run_preload(tyro.cli(Command, description=__doc__, use_underscores=True))
