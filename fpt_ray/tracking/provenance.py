"""What computes: versions of the libraries and the commit of this code."""

import getpass
import os
import subprocess
from importlib import metadata
from pathlib import Path

from fpt_ray import __version__

SOURCE = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit")
"""Tags of a run by which MLflow's pages show who made it with what."""


def source_tags(commit: str) -> dict[str, str]:
    """Who runs this and which code, as MLflow's pages show them; the commit may be unknown, ""."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container, a number without a name
        user = str(os.getuid())
    return {name: value for name, value in zip(SOURCE, (user, "fpt-ray tune", "LOCAL", commit), strict=True) if value}


def provenance() -> dict[str, str]:
    """Versions of what computes and the git commit ("-dirty": with changes of its own), where it is known.

    It is the checkout's. Code without one, such as a submitted job's, has the commit that FPT_RAY_COMMIT says.
    """
    found = {"version.fpt_ray": __version__}
    found |= {f"version.{name}": metadata.version(name) for name in ("torch", "timm", "ray", "optuna", "mlflow")}
    root = Path(__file__).resolve().parents[2]
    commit = os.environ.get("FPT_RAY_COMMIT", "")
    # The package may lie in an environment inside somebody else's checkout, whose commit says nothing about it.
    if _git(root, "rev-parse", "--show-toplevel") == str(root):
        commit = _git(root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return found | ({"git_commit": commit} if commit else {})


def _git(folder: Path, *arguments: str) -> str:
    """What git says there; nothing where there is no git or no checkout."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
