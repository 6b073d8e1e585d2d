"""Where the rows of trials are read from: the GPU, Ray's shared memory, the hosts' disks, or the store's own shards.

Which of them is chosen by size and changes no number.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import ray
import torch
from ray.exceptions import RayError, RayTaskError

from fpt_ray.cluster import computing_hosts, on_every_host
from fpt_ray.config.space import SearchSpace
from fpt_ray.config.trial import Read, TrialConfig
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import Features
from fpt_ray.features.places import GroupsAtHand, ShardFiles, read_shard_rows
from fpt_ray.features.rows import Rows
from fpt_ray.features.serving import Stores, holders, need_slice, trial_slice
from fpt_ray.features.spec import Slice, everything
from fpt_ray.models.hardware import Hardware
from fpt_ray.reading.host_disk import HostDisk, mapped_groups, on_this_host, part_of, remove_folder, room_on_disk
from fpt_ray.reading.of_each import RowsOfEach
from fpt_ray.reading.on_device import RowsOnDevice

GPU_SHARE = 0.25
"""Of a GPU's memory, what the features of a trial may fill: each trial on it holds its own."""
SHARED_MEMORY_SHARE = 0.6
"""Of the object store's memory, what features may fill."""
_LOSSES = 100
"""How often a shard's rows that are lost with a host are read again; what kills every reader is given up then."""
_SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What features may fill, in bytes, where there is least."""

    gpu: int
    """0: there is none."""
    memory: int
    disk: int
    disk_limit: int = 0
    """Of the folder on a disk, whosever features it holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Where the rows of trials are read from."""

    shared: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    """{store's URI: {shard: a reference to its rows in Ray's shared memory}}."""
    disk: HostDisk | None = None
    """None: nothing is on the hosts' disks."""
    cuts: Mapping[str, Slice] = field(default_factory=dict)
    """{store's URI: what of it is written to the hosts' disks}. What is neither there nor shared is streamed."""
    in_memory: bool = False
    """Whether what is made later is read into shared memory, too."""
    on_gpu: bool = False
    """Each trial brings its rows, from wherever they are, to its GPU."""

    def with_store(self, features: Features) -> "Reading":
        """The same with a store that has been made meanwhile; what is there is not touched.

        Raises:
            StoreError: a file is damaged.
            StorageError: S3 fails.
        """
        if not self.in_memory:
            return self
        rows = share_rows(features, self.cuts[features.uri])
        return replace(self, shared={**self.shared, features.uri: rows})

    def gpu_bytes(self, trial: TrialConfig, features: Features) -> int:
        """What a trial's features take of its GPU's memory."""
        return features.slice_bytes(trial_slice(trial, features.spec), _SPLITS) if self.on_gpu else 0


# --- which one ----------------------------------------------------------------------------------------------------


def room_for_features(hardware: Hardware, folder: str, parts: Sequence[str]) -> Room:
    """What features may fill on this cluster, on disks as these parts of a folder on every host."""
    memory = min((host.get("object_store_memory", 0.0) for host in computing_hosts()), default=0.0)
    disks = on_every_host(partial(room_on_disk, folder, parts))
    return Room(
        gpu=int(GPU_SHARE * hardware.memory_bytes) if hardware.device == "cuda" else 0,
        memory=int(SHARED_MEMORY_SHARE * memory),
        disk=max(0, min((own for own, _ in disks), default=0)),
        disk_limit=min((whole for _, whole in disks), default=0),
    )


def choose_places(asked: Read, size: int, room: Room) -> tuple[bool, Literal["memory", "disk", "stream"], str]:
    """(whether rows lie on the GPU, where they are on the host, why), for features of so many bytes.

    Raises:
        ConfigError: they do not fit where they are asked to be.
    """
    on_gpu = 0 < size <= room.gpu
    fitting = "memory" if size <= room.memory else "disk" if size <= room.disk else "stream"
    limits = {"gpu": room.gpu, "memory": room.memory, "disk": room.disk, "stream": size}
    if asked != "auto" and size > limits[asked]:
        there = f"{_gigabytes(limits[asked])} may be filled there" if limits[asked] else f"there is no {asked}"
        raise ConfigError(
            f"read is {asked}, but the features have {_gigabytes(size)} and {there}; take another place, or auto",
            fields=("read",),
        )
    if asked in ("auto", "gpu"):
        place = fitting
    else:
        on_gpu, place = False, asked
    why = "as asked" if asked != "auto" else _why(room, place, on_gpu)
    return on_gpu, place, why


def _why(room: Room, place: str, on_gpu: bool) -> str:
    if on_gpu:
        return f"a GPU may hold {_gigabytes(room.gpu)}"
    if place == "memory":
        return f"shared memory may hold {_gigabytes(room.memory)}"
    beyond = f"shared memory may hold only {_gigabytes(room.memory)}"
    return f"{beyond}, {'the disk' if place == 'disk' else 'and the disk'} {_gigabytes(room.disk)}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


_TEXTS = {
    "memory": "read once into shared memory",
    "disk": "written once to every host's disk ({folder})",
    "stream": "streamed by every trial",
}


# --- getting ready ------------------------------------------------------------------------------------------------


def share_features(space: SearchSpace, stores: Stores, asked: Read, disk: HostDisk) -> Reading:
    """Chooses the place for what the trials of a space read together, says which and why, and fills it.

    What of its stores is not made yet counts, so that nothing has to move later.

    Raises:
        ConfigError: they do not fit where they are asked to be.
        StoreError: a file is damaged or not of its store.
        StorageError: S3 fails.
    """
    cuts: dict[str, Slice] = {}
    for need in space.stores():
        for store in holders(need, stores):
            cut = need_slice(need, store.spec).within(everything(store.spec))
            cuts[store.uri] = cuts[store.uri].with_other(cut) if store.uri in cuts else cut
    return prepare_reading({store.uri: store for store in stores}, cuts, asked, disk, stores.hardware)


def prepare_reading(
    stores: Mapping[str, Features], cuts: Mapping[str, Slice], asked: Read, disk: HostDisk, hardware: Hardware
) -> Reading:
    """The same for slices of stores by their URIs."""
    size = sum(stores[uri].slice_bytes(cut, _SPLITS) for uri, cut in cuts.items())
    room = room_for_features(hardware, disk.folder, [part_of(stores[uri], cut) for uri, cut in cuts.items()])
    on_gpu, place, why = choose_places(asked, size, room)
    gpu = "on each trial's GPU, " if on_gpu else ""
    say(f"features: {_gigabytes(size)}, {gpu}{_TEXTS[place].format(folder=on_this_host(disk.folder))} ({why})")
    written = replace(disk, limit_bytes=room.disk_limit) if place == "disk" else None
    reading = Reading(disk=written, cuts=cuts, in_memory=place == "memory", on_gpu=on_gpu)
    for uri in cuts:
        reading = reading.with_store(stores[uri]) if stores[uri].is_made else reading
    return reading


def share_rows(features: Features, cut: Slice, splits: Sequence[str] = _SPLITS) -> dict[int, Any]:
    """{shard: a reference to its rows of these splits, at a slice, in Ray's shared memory}; a task a shard.

    Ray Data's own reader gives tables whose bands would be put together at every step; see docs/decisions.md.

    Raises:
        StoreError: a shard is damaged or not of this store.
        StorageError: S3 fails.
    """
    read: Any = ray.remote(_read_and_count).options(num_returns=2, max_retries=_LOSSES)
    whole = ray.put(features)
    found = {
        shard: read.remote(features.shard_uri(shard), whole, cut, rows)
        for shard, rows in features.rows_by_shard(splits).items()
    }
    try:
        ray.get([count for count, _ in found.values()])
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, ConfigError) else error from None
    return {shard: rows for shard, (_, rows) in found.items()}


def _read_and_count(uri: str, features: Features, cut: Slice, wanted: np.ndarray) -> tuple[int, Any]:
    """A task: how many rows it has read, for the driver, and the rows, which stay where they are."""
    rows = read_shard_rows(uri, features, cut, wanted)
    return len(wanted), rows


@contextmanager
def clearing_disks(reading: Reading) -> Iterator[None]:
    """Removes in the end what was written to the hosts' disks, unless it is kept; also after an error.

    Who interrupts is expected to go on, and finds it there.
    """
    try:
        yield
    except Exception:
        with suppress(ConfigError, RayError):  # which say less than what has happened
            _clear_disks(reading)
        raise
    with suppress(RayError):  # a host that has just been lost has nothing left
        _clear_disks(reading)


def _clear_disks(reading: Reading) -> None:
    if reading.disk is not None and not reading.disk.kept:
        on_every_host(partial(remove_folder, reading.disk.folder))


# --- reading ------------------------------------------------------------------------------------------------------


def rows_of_trials(
    trials: Sequence[TrialConfig], stores: Sequence[Features], split: str, reading: Reading, device: torch.device
) -> Rows | RowsOnDevice | RowsOfEach:
    """A split as trials read it that train as one model, each of the store that serves it: all the same, or its own."""
    made: dict[tuple[str, Slice], Rows | RowsOnDevice] = {}
    of_each = []
    for trial, store in zip(trials, stores, strict=True):
        key = store.uri, trial_slice(trial, store.spec)
        if key not in made:
            made[key] = trial_rows(trial, store, split, reading, device)
        of_each.append(made[key])
    return RowsOfEach(of_each) if len(made) > 1 else of_each[0]


def trial_rows(
    trial: TrialConfig,
    features: Features,
    split: str,
    reading: Reading,
    device: torch.device,
    share: range | None = None,
) -> Rows | RowsOnDevice:
    """A split, or a worker's share of it, as this trial reads it on a device; nothing else is fetched to this host."""
    cut = trial_slice(trial, features.spec)
    share = range(features.num_rows(split)) if share is None else share
    place = _place(features, cut, np.unique(features.splits[split].shards[share.start : share.stop]), reading)
    rows = Rows(place, features, split, cut).within(share)
    return RowsOnDevice(rows, device) if reading.on_gpu else rows


def _place(features: Features, cut: Slice, shards: np.ndarray, reading: Reading) -> GroupsAtHand | ShardFiles:
    """Where these shards' rows are found on this host."""
    if (shared := reading.shared.get(features.uri)) is not None:
        groups = ray.get([shared[shard] for shard in shards.tolist()])
        return GroupsAtHand(dict(zip(shards.tolist(), groups, strict=True)))
    if reading.disk is not None:
        wanted = features.rows_by_shard(_SPLITS)
        return mapped_groups(
            reading.disk, features, reading.cuts[features.uri], {shard: wanted[shard] for shard in shards.tolist()}
        )
    return ShardFiles(features, cut)
