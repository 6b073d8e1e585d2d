"""What this process computes on: its GPU, or the CPU where it has none, and never the CPU in a GPU's place."""

import os
import re
from pathlib import Path

import torch

from fpt_ray.errors import ConfigError

DRIVER_FILE = Path("/proc/driver/nvidia/version")
"""What NVIDIA's driver says of itself, on a host and in its containers."""
_OLDEST_DRIVER = {"12": 525, "13": 580}
"""{major version of CUDA: the branch of NVIDIA's driver that it needs at least}: the release notes of CUDA."""


class DeviceError(ConfigError):
    """A GPU is there that PyTorch cannot use, or that computes otherwise than was planned: no trial's fault."""


def compute_device(driver_file: Path = DRIVER_FILE) -> torch.device:
    """The GPU of this process, or the CPU where it has none.

    It has one where CUDA_VISIBLE_DEVICES names one, as Ray sets it for what has asked for a GPU, and where the variable
    is not set and NVIDIA's driver is loaded. Set to nothing, it asks for the CPU.

    Raises:
        DeviceError: it has a GPU that PyTorch cannot use. On the CPU the work would take days, in another arithmetic.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1") or (visible is None and not driver_file.exists()):
        return torch.device("cpu")
    gpu = "a GPU of this host" if visible is None else f"the GPU of CUDA_VISIBLE_DEVICES={visible}"
    raise DeviceError(
        f"{gpu} cannot be used by PyTorch {torch.__version__}: {_reason(driver_file)}; "
        "to compute on the CPU, set CUDA_VISIBLE_DEVICES to nothing"
    )


def _reason(driver_file: Path) -> str:
    """Why, as far as the driver's version tells, and the remedy."""
    cuda = torch.version.cuda
    if cuda is None:
        return "it was built without CUDA; install a build that has it"
    oldest = _OLDEST_DRIVER.get(cuda.split(".")[0], "of its own year")
    needed = f"its CUDA {cuda} needs NVIDIA's driver {oldest} or newer"
    if not driver_file.exists():
        return f"{needed}, and none is loaded here; install it, or give the container the GPU"
    version = re.search(r"\s(\d{3,}(?:\.\d+)+)\s", driver_file.read_text() + "\n")
    return f"{needed}, and {version[1] if version else 'an unknown one'} is loaded here; update it, or restart the host"
