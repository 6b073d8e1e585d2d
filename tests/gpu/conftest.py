"""The device that the tests of this folder run on: CUDA's, or another one that ``--on`` names (to try the tests)."""

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--on", default="cuda", help="the device to run on, for instance cpu")


@pytest.fixture(scope="session")
def device(request):
    name = request.config.getoption("--on", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    return torch.device(name)


@pytest.fixture
def exact(monkeypatch):
    """Convolutions in float32 are computed in it, as on a CPU, not in TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
