"""The search spaces that come with the package: found by name, from its wheel or from a checkout."""

from collections.abc import Mapping
from pathlib import Path

from fpt_ray.errors import ConfigError, nearest_name

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "search_spaces", _PACKAGE.parent / "search_spaces")
"""Inside the package where it was installed from its wheel, beside it in a checkout."""


def known_spaces() -> Mapping[str, Path]:
    """{name: file} of the search spaces that come with the package, by name."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_space(space: str | Path) -> Path:
    """The file of a search space that was given as a path, or by the name of one that comes with the package.

    A path is not looked at: to read it says better what is wrong with it.

    Raises:
        ConfigError: it is no path and no such name; the nearest name is offered.
    """
    path, known = Path(space), known_spaces()
    if path.suffix or len(path.parts) > 1 or path.is_file():
        return path
    if path.name in known:
        return known[path.name]
    raise ConfigError(f"space is {path.name!r}, no file and none of fpt_ray's; {nearest_name(path.name, known)}")


def space_list() -> str:
    """The search spaces that come with the package, one a line, with the first line of the comment in each."""
    known = known_spaces()
    width = max(map(len, known), default=0)
    return "\n".join(f"{name:<{width}}  {_caption(path)}" for name, path in known.items())


def _caption(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").rstrip()
