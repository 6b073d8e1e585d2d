"""Fakes and fixtures that several files use."""

import contextlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from fpt_ray.config.space_yaml import load_space
from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import BackboneConfig, SideConfig, TrainingConfig, TrialConfig
from fpt_ray.features.rows import Batch
from fpt_ray.models.backbone import BackboneShape, backbone_shape
from tests.stores import draw_images

ABC = Target(task="multiclass", classes=("a", "b", "c"))
SMALL = "vit_tiny_patch16_224"
SMOKE = Path(__file__).parents[1] / "search_spaces" / "smoke.yaml"


_RAY_FILES: set[Path] = set()
_RAY = contextlib.ExitStack()
"""The cluster of one node that runs now."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start Ray come first: they take longest, and no process shall wait for one at the end."""
    _RAY_FILES.update(item.path for item in items if "cluster" in getattr(item, "fixturenames", ()))
    items.sort(key=lambda item: item.path not in _RAY_FILES)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Files that use no cluster find none running."""
    if item.path not in _RAY_FILES:
        _RAY.close()


def pytest_sessionfinish() -> None:
    """Ends the cluster that still runs."""
    _RAY.close()


class FakeRows:
    """Features in memory whose values tell the classes apart; holds all rows of a split or a part of them.

    Splits share what marks a class and nothing else.
    """

    device_bytes = 0

    def __init__(
        self,
        num_rows: int,
        trial: TrialConfig,
        shape: BackboneShape,
        part: range | None = None,
        split: Literal["train", "val"] = "train",
    ) -> None:
        generator = torch.Generator().manual_seed(7)
        size, tokens = trial.side.resolution, 5
        labels = torch.arange(num_rows) % 3
        pattern = torch.randn(3, trial.side.depth, shape.num_heads, tokens, shape.head_width, generator=generator)
        generator.manual_seed({"train": 8, "val": 9}[split])
        noise = torch.randn(num_rows, trial.side.depth, shape.num_heads, tokens, shape.head_width, generator=generator)
        self.features = pattern[labels] + noise
        self.low_res = torch.randint(0, 255, (num_rows, size, size, 3), generator=generator).to(torch.uint8)
        generator.manual_seed(7)
        told = torch.randn(3, shape.depth, 2, shape.width, generator=generator)
        generator.manual_seed({"train": 8, "val": 9}[split])
        self.summaries = told[labels] + torch.randn(num_rows, *told.shape[1:], generator=generator)
        self.row_ids = np.arange(num_rows)[part.start : part.stop] if part else np.arange(num_rows)
        self.all_labels = labels.numpy()
        self.labels = self.all_labels[self.row_ids]
        self.weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.row_ids)

    def take(self, row_ids, memory=None) -> Batch:
        assert set(row_ids) <= set(self.row_ids), "a worker asked for a row of another worker"
        at = torch.as_tensor(np.asarray(row_ids))
        features = self.features[at].transpose(0, 1).contiguous().half()
        labels = torch.as_tensor(self.all_labels[np.asarray(row_ids)])
        summaries = self.summaries[at].half()
        weights = None if self.weights is None else torch.as_tensor(self.weights[np.asarray(row_ids)])
        images = self.low_res[at]
        return Batch(
            low_res=images, keys=features, values=-features, labels=labels, weights=weights, summaries=summaries
        )


@pytest.fixture
def small_shape() -> BackboneShape:
    return backbone_shape(SMALL)


@pytest.fixture
def small_trial() -> TrialConfig:
    return TrialConfig(
        backbone=BackboneConfig(name=SMALL, weights="random"),
        side=SideConfig(depth=2, num_prompts=3, reduction=4, resolution=32),
        training=TrainingConfig(epochs=3, batch_size=4, learning_rate=2e-3, precision="float32"),
    )


# --- a cluster of one node, for the files that run commands on it -------------------------------------------------


@pytest.fixture(scope="module")
def cluster(request):
    """Of several files of a process the same, whose workers have imported what they need; of slow tests a new one."""
    import ray

    from fpt_ray.cluster import ray_session  # most tests run without Ray

    if not ray.is_initialized():
        _RAY.enter_context(ray_session(local=True, num_cpus=2))
    yield
    if request.config.option.markexpr == "slow":  # they kill its processes
        _RAY.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def store(cluster, images, workdir):
    """The images in the feature store of the space ``smoke``."""
    from fpt_ray.preload.pipeline import preload

    return preload(images, load_space(SMOKE).stores()[0], workdir)


def table_of(features):
    """The image table that preload has written: with it, the features do without their images."""
    return f"{features.uri.partition('/features/')[0]}/tables/{features.table_digest[:12]}.parquet"
