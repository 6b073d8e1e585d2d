"""From an image table to a finished store: inspect, plan shards, extract, put the manifest."""

from collections.abc import Sequence
from typing import Any

import torch

from fpt_ray.cluster import ask_worker, ray_session, working_hosts
from fpt_ray.config.trial import TrialConfig, reads_images
from fpt_ray.display.terminal import say
from fpt_ray.features.shards import ShardEntry, existing_shard
from fpt_ray.features.spec import StoreSpec, bytes_per_row, store_spec
from fpt_ray.features.store import MANIFEST, Store, open_store, write_manifest
from fpt_ray.features.verification import remove_temporaries
from fpt_ray.images.sources import SPLITS
from fpt_ray.images.table import NOTE_FILE, ImageTable, leaks, read_images
from fpt_ray.models.hardware import Hardware, hardware_here
from fpt_ray.models.methods import check_trial
from fpt_ray.models.weights import load_backbone, weights_digest
from fpt_ray.preload.extraction import (
    Holder,
    ShardPlan,
    lpm_actors,
    lpm_precision,
    measured_seconds,
    share_model,
    write_shards,
)
from fpt_ray.preload.inspection import inspected
from fpt_ray.storage.files import absolute, exists, read_bytes, remove

SHARD_BYTES = 96 * 2**20
"""Largest shard, in bytes."""


# --- what is to be done (pure) --------------------------------------------------------------------------------


def plan_shards(table: ImageTable, spec: StoreSpec, uri: str) -> list[ShardPlan]:
    """Shards of bounded size, each within one split, in the order of content hashes: neighbours are of any class.

    The same table and spec give the same plan.
    """
    rows_per_shard = max(1, min(512, SHARD_BYTES // bytes_per_row(spec)))
    plans = []
    for split in SPLITS:
        images = sorted(table.of(split), key=lambda image: (image.sha256, image.path))
        for number, first in enumerate(range(0, len(images), rows_per_shard)):
            path = f"{split}/part-{number:05d}.parquet"
            part = tuple(images[first : first + rows_per_shard])
            plans.append(ShardPlan(uri=f"{uri}/{path}", path=path, split=split, first_row=first, images=part))
    return plans


# --- doing it -------------------------------------------------------------------------------------------------


def preload(
    images: str, trial: TrialConfig, workdir: str, *, local: bool = False, hardware: Hardware | None = None
) -> Store:
    """The feature store of these images for this trial and all narrower ones: an existing one, or a new one.

    Where the trial's method runs the LPM in every step, it is a store of the images alone, at the LPM's resolution.
    ``hardware`` is of the workers that run the LPM. Default: what one of them says.

    Raises:
        ConfigError: the images, the weights or the configuration cannot be used, or the disk is full.
    """
    check_trial(trial)
    workdir = absolute(workdir)
    table = read_images(images)
    model = None if reads_images(trial) else load_backbone(trial.backbone, trial.features.resolution)
    with ray_session(local=local):
        return _preloaded(table, model, trial, workdir, hardware or ask_worker(hardware_here))


def _preloaded(table: ImageTable, model: Any, trial: TrialConfig, workdir: str, hardware: Hardware) -> Store:
    table = inspected(table, workdir)
    _report_table(table)
    spec = store_spec(
        trial,
        weights_digest="" if model is None else weights_digest(model),
        images_digest=table.digest(),
        precision=lpm_precision(trial, hardware),
    )
    uri = f"{workdir}/features/{spec.name}"
    if exists(f"{uri}/{MANIFEST}"):
        say(f"{'features' if spec.depth else 'images'}: reusing the finished store {uri}")
        return open_store(uri, expect=spec)
    plans = plan_shards(table, spec, uri)
    finished = {plan.path: entry for plan in plans if (entry := _finished(plan, spec, uri))}
    todo = [plan for plan in plans if plan.path not in finished]
    if todo:
        if model is not None:
            model.to(getattr(torch, spec.precision))
        holder = share_model(model)
        _announce(holder, spec, todo, table, hardware)
        for entry in write_shards(holder, spec, todo, table.root):
            finished[entry.path] = entry
    entries = [finished[plan.path] for plan in plans]
    write_manifest(uri, spec, table.classes, entries, table.skipped, data_note(table.root))
    remove_temporaries(uri)
    return open_store(uri, expect=spec)


def _report_table(table: ImageTable) -> None:
    counts = ", ".join(f"{len(table.of(split))} {split}" for split in SPLITS)
    say(f"images: {len(table.rows)} ({counts}), {len(table.classes)} classes")
    if table.skipped:
        say(f"images: skipped {len(table.skipped)} that cannot be read: {', '.join(path for path, _ in table.skipped)}")
    leaked = leaks(table)
    if leaked:
        say(f"images: WARNING: {len(leaked)} images stand in several splits, for instance {' = '.join(leaked[0][1])}")


def _finished(plan: ShardPlan, spec: StoreSpec, uri: str) -> ShardEntry | None:
    """The entry of a shard that is there; one that cannot be used gives its name free."""
    entry = existing_shard(plan.uri, plan.split, plan.planned, spec)
    if entry is None and exists(plan.uri):
        remove(uri, [plan.path])
    return entry


def data_note(root: str) -> str:
    """What must be said wherever results on these images are shown: the first line of their DATA_NOTE.txt."""
    uri = f"{root}/{NOTE_FILE}"
    return read_bytes(uri).decode().splitlines()[0].strip() if exists(uri) else ""


def _announce(
    holder: Holder, spec: StoreSpec, todo: Sequence[ShardPlan], table: ImageTable, hardware: Hardware
) -> None:
    """Rows, bytes and an estimated time, from one image measured on a worker, before the work starts."""
    rows = sum(len(plan.images) for plan in todo)
    actors, _, _ = lpm_actors(working_hosts())
    estimate = rows * measured_seconds(holder, spec, table.root, todo[0].images[0]) / actors
    size = rows * bytes_per_row(spec)
    content, how = ("features", f" in {spec.precision}") if spec.depth else (f"images of {spec.resolution} px", "")
    say(
        f"{content}: {rows} of {len(table.rows)} images left, {bytes_per_row(spec) / 1e6:.2f} MB each, "
        f"{size / 1e9:.2f} GB in {len(todo)} shards; about {estimate:.0f} s on {actors} x {hardware.name}{how}"
    )
