"""Predicts what configurations cost before anything runs: parameters, memory, storage and arithmetic.

No weights are needed. A search space is shown by all its points where it is finite, else by its fixed values with the
defaults, its narrowest and its widest point.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fpt_ray.config.trial import TrialConfig
from fpt_ray.errors import ConfigError
from fpt_ray.paper.layouts import MemoryTable


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """The options of ``cost``."""

    as_: Annotated[MemoryTable | Literal["figure2"] | None, tyro.conf.arg(name="as")] = None
    """A memory table of the paper, which stands beside the prediction; or its Figure 2, of every method on the backbone
    and batch of the trial. Default: the trial that the other options describe."""
    picture: str = "figure2.png"
    """With --as figure2: where its picture is put; the same to be hovered over lies beside it, as .html."""
    space: str | None = None
    """A search space whose points are shown: a YAML file, or the name of one that comes with fpt_ray. Default: the
    trial that the other options describe."""
    num_classes: int = 5
    """The number of classes that the trial tells apart."""
    json: bool = False
    """Print JSON instead of text."""
    measure: bool = False
    """Run two steps on the GPU of this machine, too, and show what they took beside the prediction."""
    trial: Annotated[TrialConfig, tyro.conf.arg(name="")] = field(default_factory=TrialConfig)


def run(command: Command) -> None:
    """Predicts and prints.

    Raises:
        ConfigError: an option excludes another, a trial cannot be built, or there is no GPU to measure on.
    """
    if command.num_classes < 1:
        raise ConfigError(f"num_classes is {command.num_classes}; it must be at least 1", fields=("num_classes",))
    if command.as_ is not None and (command.space is not None or command.measure):
        raise ConfigError("--as prints a table or figure of the paper; leave --space and --measure out")
    if command.as_ not in (None, "figure2"):
        from fpt_ray.cost.paper_rows import paper_text

        print(paper_text(command.as_, as_json=command.json))
        return
    from fpt_ray.config.space_yaml import load_space
    from fpt_ray.cost.costs import costs_of, costs_text, figure2_text, trials_of

    if command.as_ == "figure2":
        picture = Path(command.picture)
        if picture.suffix != ".png" or not picture.absolute().parent.is_dir():
            raise ConfigError(f"--picture: {picture} is no .png file in a folder that is there; give one")
        print(figure2_text(command.trial, command.num_classes, picture, as_json=command.json))
        return
    trials = {"": command.trial} if command.space is None else trials_of(load_space(command.space))
    costs = costs_of(trials, command.num_classes, measured=command.measure)
    print(costs_text(costs, as_json=command.json))
