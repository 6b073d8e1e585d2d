"""The device of a process, compared with what NVIDIA's drivers write into /proc and what Ray sets for a process."""

import pytest
import torch

from fpt_ray.errors import ConfigError
from fpt_ray.models.device import compute_device

OLD = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version: 12.3.0\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs@host)\n"


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Where a driver writes its version; there is none yet, and PyTorch, of CUDA 13, sees no GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    return tmp_path / "version"


def test_without_a_gpu_it_is_the_cpu(driver):
    assert compute_device(driver) == torch.device("cpu")


def test_what_pytorch_can_use_is_used(driver, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute_device(driver) == torch.device("cuda")


@pytest.mark.parametrize(("text", "version"), [(OLD, "535.183.01"), (OPEN, "570.86.15")], ids=["closed", "open"])
def test_a_driver_too_old_is_named_with_the_one_needed(driver, text, version):
    driver.write_text(text)
    with pytest.raises(ConfigError, match=rf"CUDA 13.2 needs NVIDIA's driver 580 or newer, and {version} is .* update"):
        compute_device(driver)


def test_a_gpu_that_ray_has_given_is_not_replaced_by_the_cpu(driver, monkeypatch):
    """As in a container that was started without the GPU that Ray counts there."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ConfigError, match=r"^the GPU of CUDA_VISIBLE_DEVICES=3 .* none is loaded here; install it"):
        compute_device(driver)


def test_a_pytorch_without_cuda_is_said(driver, monkeypatch):
    driver.write_text(OLD)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigError, match="was built without CUDA"):
        compute_device(driver)


@pytest.mark.parametrize("visible", ["", "-1"])
def test_the_cpu_can_be_asked_for(driver, monkeypatch, visible):
    driver.write_text(OLD)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert compute_device(driver) == torch.device("cpu")


def test_every_place_that_computes_asks_for_its_device_here(driver, monkeypatch):
    """Preload's actors and the Tune worker; a fake GPU of Ray's stands in none of them for the CPU."""
    from fpt_ray.models.hardware import hardware_here
    from fpt_ray.tune.worker import TuneSession, failure_of

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    for place in (hardware_here, TuneSession):
        with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES=0") as caught:
            place()
        assert failure_of(caught.value).halts_search  # it is not the point of the space that fails
