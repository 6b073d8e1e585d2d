"""What tests of published data sets share: inspection in this process, and a working directory of each test."""

import pytest

from fpt_ray.datasets import survey as surveying
from fpt_ray.datasets.inspection import Found
from fpt_ray.datasets.one_image import inspect_here
from fpt_ray.datasets.published import preparation


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    for module in (preparation, surveying):
        monkeypatch.setattr(module, "inspect", lambda root, paths, *_, **__: Found(findings=inspect_here(root, paths)))
