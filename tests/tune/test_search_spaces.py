"""Every table and figure of the paper as it stands in search_spaces/, run small: a tiny ViT with random weights, the
demonstration's images, one epoch, two seeds. The grids are compared with the paper's own rows (numbers.json)."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fpt_ray.config.dotted import flatten
from fpt_ray.config.space import POINT, need_of
from fpt_ray.config.space_yaml import load_space
from fpt_ray.config.trial import override, reads_images
from fpt_ray.datasets.usable import inspected_here
from fpt_ray.demo.material import write_images
from fpt_ray.features.joining import join
from fpt_ray.features.serving import Stores, store_for, trial_slice
from fpt_ray.features.shards import shard_table, write_shard
from fpt_ray.features.spec import store_spec
from fpt_ray.features.store import add_shards, empty_store
from fpt_ray.images.picture import smaller
from fpt_ray.images.table import read_images
from fpt_ray.models.hardware import hardware_here
from fpt_ray.models.methods import check_trial, load_learnable_state
from fpt_ray.models.weights import load_backbone
from fpt_ray.paper.numbers import METHOD_NAMES, numbers
from fpt_ray.preload.batches import extract_batches
from fpt_ray.preload.decoded import read_image
from fpt_ray.preload.extraction import lpm_precision
from fpt_ray.preload.pipeline import plan_shards
from fpt_ray.train.evaluation import evaluate
from fpt_ray.train.seeds import assignment_of
from tests.seeds import fit_one
from tests.stores import rows_from_files

FOLDER = Path(__file__).parents[2] / "search_spaces"
TINY = {"backbone.name": "vit_tiny_patch16_224", "backbone.weights": "random", "side.reduction": 4}
TINY |= {"training.epochs": 1, "training.batch_size": 6, "features.precision": "float32"}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_images(folder, count=30, size=128)
    return inspected_here(read_images(str(folder)))


@pytest.fixture(scope="module")
def stores(table, tmp_path_factory):
    """Makes the store a trial needs, once, as preload does, but in this process."""
    known = []

    def store(trial):
        try:
            here = hardware_here()
            return store_for(trial, Stores(stores=tuple(known), weights={trial.backbone: ""}, hardware=here))
        except ValueError:
            known.append(write_store(table, trial, f"{tmp_path_factory.getbasetemp()}/store-{len(known)}"))
            return known[-1]

    return store


def write_store(table, trial, uri):
    spec = store_spec(need_of(trial), precision=lpm_precision(trial, hardware_here()))
    store, added = empty_store(uri, spec), []
    model = None if reads_images(trial) else load_backbone(trial.backbone, trial.features.resolution)
    for plan in plan_shards(table, store, len(table)):
        images = plan.images.rows()
        high = [read_image(table.root, image, spec.preparation) for image in images]
        low = [smaller(one, spec.low_resolutions) for one in high]
        features = None if model is None else extract_batches(model, np.stack(high), spec)
        rows = shard_table(images, [np.stack(kind) for kind in zip(*low, strict=True)], features, spec)
        added.append((write_shard(plan.uri, rows, spec), plan.images.hashes()))
    return join(add_shards(store, added), table)


def tiny(trial):
    """The same trial, an image a quarter as wide, a third of the layers."""
    values = flatten(trial)
    smaller = {name: max(16, round(values[name] / 64) * 16) for name in ("features.resolution", "side.resolution")}
    return override(trial, {**TINY, **smaller, "side.depth": math.ceil(values["side.depth"] / 3)})


def proposals(space):
    """The rows of the table: chosen values are left at their first, of several resolutions the smallest is taken."""
    first = {row.name: row.values()[0] for row in space.rows if row.name in space.choose}
    smallest = {row.name: row.values()[0] for row in space.rows if row.name == "features.resolution"}
    wanted = {**first, **smallest}
    return [values for values in space.grid() if wanted.items() <= values.items()]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("table1", 10),
        pytest.param("table1_dino", 10, marks=pytest.mark.slow),
        pytest.param("table2", 10, marks=pytest.mark.slow),
        ("table3", 4),
        ("table4", 6),
        pytest.param("figure6", 4, marks=pytest.mark.slow),
        pytest.param("figure7", 6, marks=pytest.mark.slow),
        pytest.param("figure8", 6, marks=pytest.mark.slow),
    ],
)
def test_every_row_of_the_paper_runs(name, rows, stores):
    space = load_space(FOLDER / f"{name}.yaml")
    assert space.repeats == numbers()["defaults"]["repeats"] == 5
    trials = [tiny(space.trial(values)) for values in proposals(space)]
    assert len(trials) == rows
    for trial in trials:
        trial_ends_with_two_seeds(trial, stores(trial))


def trial_ends_with_two_seeds(trial, store):
    rows = {split: rows_from_files(store, split, trial_slice(trial, store.spec)) for split in ("train", "val")}
    assignment = assignment_of(store, torch.device("cpu"))
    models = []
    kept = {"prepare": lambda model: models.append(model) or model}
    *_, last = fit_one(trial, 2, rows, assignment, identity="", started=0.0, **kept)
    (epoch,) = last.epochs
    assert (epoch.number, len(last.finished)) == (1, 1)
    assert math.isfinite(epoch.train_loss)
    first, second = last.finished[0].model, epoch.snapshot.best.model
    assert any(not torch.equal(first[key], value) for key, value in second.items() if isinstance(value, torch.Tensor))
    for model, best in zip(models, last.checkpoint.best, strict=True):
        load_learnable_state(model, best.model)
        assert [found.picking for found in evaluate(model, rows["val"], trial, assignment)] == [best.val_score]


def test_the_grids_are_the_papers():
    for name, weights in (("table1", "supervised"), ("table1_dino", "dino")):
        space = load_space(FOLDER / f"{name}.yaml")
        methods = [row["method"] for row in numbers()["table1"][weights]]
        assert list(space.points) == methods == list(METHOD_NAMES.values())
        assert [space.trial({POINT: point}).method for point in space.points] == list(METHOD_NAMES)
    paper = {
        "table3": ("side.resolution", [row["side_resolution"] for row in numbers()["table3"]]),
        "table4": ("side.num_prompts", [row["num_prompts"] for row in numbers()["table4"]]),
        "table2": ("features.resolution", [int(size) for size in numbers()["table2"]["FPT+"]["memory_mb"]]),
    }
    for name, (row_name, values) in paper.items():
        (row,) = [row for row in load_space(FOLDER / f"{name}.yaml").rows if row.name == row_name]
        assert list(row.values()) == values


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_space_can_be_read_and_says_its_command(file):
    space = load_space(file)
    assert f"fpt-ray tune --space {file.stem} " in space.text or "make demo" in space.text
    for need in space.stores():
        for trial in need.trials():
            check_trial(trial)
