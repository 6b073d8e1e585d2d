"""Bundles of tiny trials, made in this process: a random ViT, one epoch."""

from pathlib import Path

import numpy as np
import torch

from fpt_ray.config.preparation import Preparation
from fpt_ray.config.space import need_of
from fpt_ray.config.trial import trial_from
from fpt_ray.datasets.usable import inspected_here
from fpt_ray.features.joining import join
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.spec import store_spec
from fpt_ray.images.decoding import read_square
from fpt_ray.images.picture import smaller
from fpt_ray.images.table import read_images
from fpt_ray.models.weights import known_weights, load_backbone
from fpt_ray.preload.batches import extract_batches
from fpt_ray.train.checkpoint import save_checkpoint
from fpt_ray.train.leaving import Leaving, leave_bundle
from fpt_ray.train.seeds import assignment_of
from tests.seeds import fit_one
from tests.stores import add_rows, rows_from_files

TRIAL = trial_from(
    {
        "backbone.name": "vit_tiny_patch16_224",
        "backbone.weights": "random",
        "features.resolution": 64,
        "features.precision": "float32",
        "side.resolution": 32,
        "side.depth": 2,
        "side.reduction": 4,
        "side.num_prompts": 2,
        "training.epochs": 1,
        "training.batch_size": 8,
    }
)


def table_of_images(folder):
    """The inspected table of an image folder."""
    return inspected_here(read_images(folder))


def stored(trial, table, folder):
    """The features of a trial's images, without Ray."""
    digest = known_weights([trial.backbone], ".")[trial.backbone]
    spec = store_spec(need_of(trial), weights_digest=digest, precision=trial.features.precision)
    rows = table.rows_at(table.by_hash())
    high = np.stack([squared(table, row, spec.resolution) for row in rows])
    low = [np.stack(one) for one in zip(*(smaller(one, spec.low_resolutions) for one in high), strict=True)]
    lpm = load_backbone(trial.backbone, spec.resolution).to(getattr(torch, spec.precision))
    features = extract_batches(lpm, high, spec) if spec.blocks else None
    return join(add_rows(folder, spec, rows, features, low, per_shard=len(rows)), table)


def squared(table, row, resolution):
    return read_square(Path(table.root, row.path).read_bytes(), row.path, Preparation(resolution=resolution))


def left(trial, store, folder, seeds=1, metrics=None, **more):
    """Trains, keeps the checkpoint and leaves a bundle in the folder."""
    cut = trial_slice(trial, store.spec)
    rows = {split: rows_from_files(store, split, cut) for split in ("train", "val")}
    *_, last = fit_one(trial, seeds, rows, assignment_of(store, torch.device("cpu")), identity="it", started=0.0)
    save_checkpoint(last.checkpoint, folder)
    leaving = Leaving(
        uri=f"{folder}/bundle",
        identity="it",
        weights_digest=known_weights([trial.backbone], ".")[trial.backbone],
        metrics=metrics or {},
        versions={"git_commit": "c0ffee"},
        **more,
    )
    leave_bundle(trial, store, last.checkpoint, leaving)
    return leaving.uri
