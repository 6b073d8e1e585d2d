"""The front door: ``fpt-ray COMMAND ...``, or ``python -m fpt_ray COMMAND ...``."""

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from fpt_ray import __version__
from fpt_ray.errors import nearest_name

COMMANDS = (
    "preload",
    "train",
    "tune",
    "predict",
    "serve",
    "report",
    "cost",
    "features",
    "datasets",
    "demo",
    "authors",
    "bench",
)
"""In the order one meets them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Opens the door of the command that is named first, or lists the commands."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    prog = "python -m fpt_ray" if Path(sys.argv[0]).name == "__main__.py" else "fpt-ray"
    name = given[0] if given else "--help"
    if name in COMMANDS:
        from fpt_ray.display.door import open_door

        open_door(importlib.import_module(f"fpt_ray.{name}.command"), f"{prog} {name}", given[1:])
    elif name in ("-h", "--help"):
        print(overview(prog))
    elif name == "--version":
        print(f"fpt_ray {__version__}")
    else:
        print(f"error: there is no command {name!r}; {nearest_name(name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)


def overview(prog: str) -> str:
    """The commands with a line each, read from their sources: to import them would take seconds."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {_caption(name)}" for name in COMMANDS]
    return "\n".join(
        (
            f"usage: {prog} COMMAND [OPTIONS]",
            "",
            "FPT+ side networks on features of a frozen ViT that are preloaded once.",
            "",
            "commands:",
            *lines,
            "",
            f"{prog} COMMAND --help shows the options of a command, {prog} --version the version.",
        )
    )


def _caption(name: str) -> str:
    source = (Path(__file__).parent / name / "command.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].removesuffix(".")


if __name__ == "__main__":
    main()
