"""From an image table to features: inspect, see what the store lacks, extract, put the next manifest."""

import math
import socket
import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from fpt_ray.cluster import on_every_host, ray_session, run_on_workers, worker_asked
from fpt_ray.config.fitting import fitted
from fpt_ray.config.preparation import Preparation
from fpt_ray.config.space import StoreNeed, need_of
from fpt_ray.config.tasks import LearnOptions
from fpt_ray.config.trial import TrialConfig, reads_images
from fpt_ray.datasets.checking import Inspection, inspected
from fpt_ray.datasets.findings import FOLDER
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import Features, join, missing
from fpt_ray.features.shards import adopted
from fpt_ray.features.spec import StoreSpec, bytes_per_row, store_spec
from fpt_ray.features.store import Store, add_shards, check_same, empty_store, latest_generation, open_store, shard_path
from fpt_ray.features.verification import remove_leftovers, unlisted_shards
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.table import ImageTable, read_images, write_table
from fpt_ray.models.hardware import Hardware, hardware_here
from fpt_ray.models.methods import check_trial
from fpt_ray.models.weights import load_backbone, weights_digest
from fpt_ray.preload.decoded import ShardPlan
from fpt_ray.preload.extraction import Layout, Work, lpm_precision, share_model, write_shards
from fpt_ray.preload.pace import planned_layout
from fpt_ray.storage.files import absolute, exists, local_path, remove, write

SHARD_BYTES = 96 * 2**20
"""Largest shard, in bytes."""
_SHARES = 16
"""Shards of a table at least, so that actors have work alike and progress is seen."""
_FEW_ROWS = 8
"""Of a shard, unless that is all there are; so that of very few images there are fewer shards."""


# --- what is to be done (pure) --------------------------------------------------------------------------------


def plan_shards(images: ImageTable, store: Store, num_images: int) -> list[ShardPlan]:
    """Shards of bounded size in the order of content hashes, so that neighbours are of any class; each image once.

    The same images give the same plan, whose files are named by what they hold and by the generation they are for.
    Their size follows from the number of images of the whole table, so that it stays when a part of them is left.
    """
    order = images.by_hash()
    hashes = images.hashes()[order]
    once = order[np.append(True, (hashes[1:] != hashes[:-1]).any(axis=1))[: len(order)]]
    most = max(_FEW_ROWS, math.ceil(num_images / _SHARES))
    rows_per_shard = max(1, min(512, most, SHARD_BYTES // bytes_per_row(store.spec)))
    bare = replace(images, groups=None, weights=None, skipped=())
    plans = []
    for first in range(0, len(once), rows_per_shard):
        part = bare.take(once[first : first + rows_per_shard])
        path = shard_path(store, part.hashes())
        plans.append(ShardPlan(uri=f"{store.uri}/{path}", path=path, images=part))
    return plans


# --- doing it -------------------------------------------------------------------------------------------------


def preload(
    images: str,
    need: TrialConfig | StoreNeed,
    workdir: str,
    *,
    options: LearnOptions | None = None,
    local: bool = False,
    hardware: Hardware | None = None,
) -> Features:
    """The features of these images for a trial, or for all that a need stands for; what is stored is not made again.

    Where the trial's method runs the LPM in every step, they are the images alone, at the LPM's resolution. The image
    table, with content hashes and splits, is written to ``workdir/tables``. ``hardware`` is of the workers that run the
    LPM. Default: what one of them says.

    Raises:
        ConfigError: the images, the weights or the configuration cannot be used, a score or a loss is not of the
            images' task, or the disk is full.
    """
    need = need_of(need) if isinstance(need, TrialConfig) else need
    (features,) = preload_all(images, [need], workdir, options=options, local=local, hardware=hardware)
    return features


def preload_all(
    images: str,
    needs: Sequence[StoreNeed],
    workdir: str,
    *,
    options: LearnOptions | None = None,
    local: bool = False,
    hardware: Hardware | None = None,
) -> tuple[Features, ...]:
    """``preload`` for several needs, for which every image is decoded once."""
    workdir, table = absolute(workdir), read_images(images, options)
    for need in needs:
        fitted(need.trial, table.target)
    with ray_session(local=local):
        # The worker imports all that extraction needs while the LPM is loaded and images are inspected.
        answer = worker_asked(_hardware_of_worker) if hardware is None else lambda: hardware
        models = [frozen_lpm(need) for need in needs]
        inspection = inspected(table, workdir, preparations(needs), allow=options.allow if options else ())
        report_table(inspection.table)
        of_workers, pairs = answer(), zip(needs, models, strict=True)
        return tuple(preload_table(inspection, need, model, workdir, of_workers) for need, model in pairs)


def _hardware_of_worker() -> Hardware:
    """``hardware_here``, of a worker that has to import this module, and with it all that extraction needs, first."""
    return hardware_here()


def preparations(needs: Sequence[StoreNeed]) -> tuple[Preparation, ...]:
    """In which the images of these needs are extracted."""
    return tuple(dict.fromkeys(need.trial.features.preparation for need in needs))


def frozen_lpm(need: StoreNeed) -> Any:
    """The LPM, loaded, that gives the features of these trials; None where they read images alone.

    Raises:
        ConfigError: a trial cannot be built, or the weights cannot be had.
    """
    for trial in need.trials():
        check_trial(trial)
    return None if reads_images(need.trial) else load_backbone(need.trial.backbone, need.trial.features.resolution)


def asked_spec(need: StoreNeed, digest: str, hardware: Hardware) -> StoreSpec:
    """What the store of a need is, with weights of this digest, made by workers of this hardware."""
    return store_spec(need, weights_digest=digest, precision=lpm_precision(need.trial, hardware))


def store_uri(workdir: str, spec: StoreSpec) -> str:
    """Where a store lies in a working directory."""
    return f"{workdir}/features/{spec.name}"


def preload_table(inspection: Inspection, need: StoreNeed, model: Any, workdir: str, hardware: Hardware) -> Features:
    """``preload`` of inspected images by a loaded LPM, where Ray runs."""
    table = inspection.table
    spec = asked_spec(need, "" if model is None else weights_digest(model), hardware)
    uri = store_uri(workdir, spec)
    store = open_store(uri) if latest_generation(uri) else empty_store(uri, spec)
    check_same(store.spec, spec, uri)
    if store.removed:
        remove_leftovers(store)
    todo = _missing(table, store)
    if len(todo):
        store = _with_unlisted(store)
        todo = _missing(table, store)
    if len(todo):
        if model is not None:
            model.to(getattr(torch, spec.precision))
        plans = plan_shards(todo, store, len(table))
        work = Work(holder=share_model(model), spec=spec, plans=plans, root=table.root, decoded=inspection.decoded)
        _require_shared(f"{workdir}/{FOLDER}")
        layout = _announced(work, table, hardware, f"{workdir}/{FOLDER}")
        entries = {entry.path: entry for entry in write_shards(work, layout)}
        store = add_shards(store, [(entries[plan.path], plan.images.hashes()) for plan in plans])
        remove_leftovers(store)
    else:
        say(f"{'features' if spec.blocks else 'images'}: all are in the store {uri}")
    features = join(open_store(uri), table)
    # In place of one that has other groups, paths or notes, of which the digest says nothing.
    write_table(table, f"{workdir}/tables/{features.table_digest[:12]}.parquet")
    return features


def _require_shared(folder: str) -> None:
    """Before hours of extraction: whether all hosts write to one folder.

    Raises:
        ConfigError: one has a folder of its own under this name.
    """
    if local_path(folder) is None:
        return
    marks = dict(on_every_host(partial(_mark, folder)))
    there = {name: exists(f"{folder}/{name}") for name in marks}
    remove(folder, [name for name, seen in there.items() if seen])
    if unseen := [name for name, seen in there.items() if not seen]:
        on_every_host(partial(remove, folder, unseen))
        hosts = ", ".join(sorted({marks[name] for name in unseen}))
        raise ConfigError(
            f"workdir: what {hosts} writes to {folder} is not seen where the command was started; give a folder that"
            " all hosts see, or s3://...",
            fields=("workdir",),
        )


def _mark(folder: str) -> tuple[str, str]:
    """A task: the name of a file that it has left in a folder, and of its host."""
    name = f".{uuid.uuid4().hex}.tmp"
    write(f"{folder}/{name}", b"")
    return name, socket.gethostname()


def _missing(table: ImageTable, store: Store) -> ImageTable:
    """The images that the store lacks."""
    return table.take(missing(table, store)) if store.generation else table


def _with_unlisted(store: Store) -> Store:
    """The store with the shards that an interrupted preload left; those that cannot be used are removed.

    A manifest has the checksum of every shard, so that each is read whole, by a task; the driver is told what it holds.
    """
    paths = unlisted_shards(store)
    if not paths:
        return store
    calls = {path: partial(adopted, f"{store.uri}/{path}", store.spec) for path in paths}
    found = dict(run_on_workers(calls, {path: {"CPU": 1.0} for path in paths}))
    remove(store.uri, [path for path in paths if found[path] is None])
    usable = [one for path in paths if (one := found[path]) is not None]
    if not usable:
        return store
    say(f"features: {sum(entry.rows for entry, _ in usable)} images are there of a preload that was interrupted")
    return add_shards(store, usable)


def report_table(table: ImageTable) -> None:
    """Says how many images there are."""
    counts = ", ".join(f"{len(table.of(split))} {split}" for split in SPLITS)
    say(f"images: {len(table)} ({counts}), {len(table.classes)} classes")


def _announced(work: Work, table: ImageTable, hardware: Hardware, scratch: str) -> Layout:
    """How it will be done; says rows, bytes and an estimated time before the work starts."""
    spec, rows = work.spec, sum(len(plan.images) for plan in work.plans)
    layout, seconds = planned_layout(work, hardware, scratch)
    size = rows * bytes_per_row(spec)
    content, how = ("features", f" in {spec.precision}") if spec.blocks else (f"images of {spec.resolution} px", "")
    on = f"{layout.actors} x {hardware.name}{how}"
    say(
        f"{content}: {rows} of {len(table)} images left, {bytes_per_row(spec) / 1e6:.2f} MB each, "
        f"{size / 1e9:.2f} GB in {len(work.plans)} shards; about {seconds:.0f} s on {on}"
    )
    return layout
