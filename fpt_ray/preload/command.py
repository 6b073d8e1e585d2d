"""Runs the frozen LPM over the images once and stores the features of their important tokens (section 3.6).

The options of a trial describe what the store shall serve: later trials may have fewer tokens and fewer of the blocks.
Only images that the store lacks are run through the LPM; labels, splits and names are no part of it. A preload that was
killed goes on from the finished shards.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from fpt_ray.config.tasks import LearnOptions
from fpt_ray.config.trial import TrialConfig
from fpt_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Command(LearnOptions):
    """The options of ``preload``."""

    images: str
    """A folder (train/ val/ test/, or classes to be split) or a table (CSV, Parquet) of path, label[, split][,
    group]. All of them may lie on a disk or at s3://bucket/prefix."""
    space: str | None = None
    """A search space whose stores are all preloaded: a YAML file, or the name of one that comes with fpt_ray. Default:
    one store, for the trial that the other options describe."""
    side_resolutions: tuple[int, ...] = ()
    """Further sides of low-resolution images, in pixels, beside that of the trial."""
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
    from fpt_ray.config.space import need_of
    from fpt_ray.config.space_yaml import load_space
    from fpt_ray.preload.pipeline import preload_all

    own = need_of(command.trial)
    if command.space and (command.trial != TrialConfig() or command.side_resolutions):
        raise ConfigError("a space and options of a trial are given; leave out one of them", fields=("space",))
    further = replace(own, side_resolutions=tuple(sorted({*own.side_resolutions, *command.side_resolutions})))
    needs = load_space(command.space).stores() if command.space else (further,)
    for features in preload_all(command.images, needs, command.workdir, options=command, local=command.local):
        size = sum(shard.bytes for shard in features.shards)
        rows = sum(shard.rows for shard in features.shards)
        print(
            f"{features.uri}\n{len(features)} images of {rows}, {size / 1e9:.2f} GB, {size / rows / 1e6:.2f} MB each\n"
            f"table {features.table_digest[:12]} in {command.workdir}/tables"
        )
