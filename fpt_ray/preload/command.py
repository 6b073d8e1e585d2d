"""Runs the frozen LPM over the images once and stores the features of their important tokens (section 3.6).

The options of a trial describe the widest trial that the store shall serve: its token ratio, side depth and side
resolution are upper bounds for later trials. A preload that was killed goes on from the finished shards.
"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from fpt_ray.config.trial import TrialConfig
from fpt_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """The options of ``preload``."""

    images: str
    """A folder (train/ val/ test/, or classes to be split) or a table (CSV, Parquet) of path, label[, split][,
    group]. All of them may lie on a disk or at s3://bucket/prefix."""
    space: str | None = None
    """A search space whose stores are all preloaded: a YAML file, or the name of one that comes with fpt_ray. Default:
    one store, for the trial that the other options describe."""
    workdir: str = "."
    """The working directory, whose folder features takes the stores: a folder, or s3://bucket/prefix."""
    local: bool = False
    """Start Ray on this machine even if RAY_ADDRESS names a cluster."""
    trial: Annotated[TrialConfig, tyro.conf.arg(name="")] = field(default_factory=TrialConfig)


def run(command: Command) -> None:
    """Preloads and prints where the stores are.

    Raises:
        ConfigError: a space and options of a trial are given; or as ``preload``.
    """
    from fpt_ray.config.space_yaml import load_space
    from fpt_ray.preload.pipeline import preload

    if command.space and command.trial != TrialConfig():
        raise ConfigError("a space and options of a trial are given; leave out one of them", fields=("space",))
    widest = load_space(command.space).stores() if command.space else (command.trial,)
    for trial in widest:
        store = preload(command.images, trial, command.workdir, local=command.local)
        rows = sum(shard.rows for shard in store.shards)
        size = sum(shard.bytes for shard in store.shards)
        print(f"{store.uri}\n{rows} images, {size / 1e9:.2f} GB, {size / rows / 1e6:.2f} MB each")
