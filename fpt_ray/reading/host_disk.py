"""Rows in memory-mapped Arrow files on the host's own disk, written once a host from the feature store.

A file is named by all that decides its content: store, slice, shard, and which of its rows. It is written under another
name and renamed, so that a kill leaves nothing that could be taken for whole; of several trials that need it, one
writes it.
"""

import dataclasses
import fcntl
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from fpt_ray.config.identity import digest_of
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import Features
from fpt_ray.features.places import GroupsAtHand, read_shard_rows
from fpt_ray.features.rows import Group, group_parts
from fpt_ray.features.spec import Slice
from fpt_ray.storage.errors import FullError, disk_full_as_error
from fpt_ray.storage.local import free_bytes

DISK_SHARE = 0.8
"""Of what a host's disk has free or holds of them already, what features may fill."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HostDisk:
    """A folder on every host."""

    folder: str
    """Its path, or its name among a host's temporary files, which may lie elsewhere on another host."""
    kept: bool
    """Whether it stays when the study has ended, for others that read the same."""
    limit_bytes: int = 0
    """What it may hold in all."""


def room_on_disk(folder: str, parts: Sequence[str]) -> tuple[int, int]:
    """(what these parts of a folder may fill on this host's disk, what the folder may), in bytes.

    What is written there already counts as room of its own part.
    """
    path = root = on_this_host(folder)
    while not path.exists():
        path = path.parent
    if not os.access(path, os.W_OK):
        return 0, 0
    written, own = _written_bytes(root), sum(_written_bytes(root / part) for part in parts)
    limit = int(DISK_SHARE * (free_bytes(path) + written))
    return limit - (written - own), limit


def _written_bytes(folder: Path) -> int:
    """Of rows, those included that are being written or that a dead writer left."""
    sizes = 0
    for file in (*folder.rglob("*.arrow"), *folder.rglob("*.tmp")):
        with suppress(FileNotFoundError):  # it has just got its name
            sizes += file.stat().st_size
    return sizes


def part_of(features: Features, cut: Slice) -> str:
    """The part of the folder for a slice of a store."""
    return f"{features.spec.name}/{digest_of(dataclasses.asdict(cut))[:12]}"


def host_disk(folder: str | None, name: str) -> HostDisk:
    """The folder that is asked for, which is kept, or one of this user's among the hosts' temporary files."""
    if folder is not None:
        return HostDisk(folder=os.path.abspath(folder), kept=True)
    return HostDisk(folder=f"fpt_ray-{os.getuid()}-{name}", kept=False)


def on_this_host(folder: str) -> Path:
    """Where the folder of a ``HostDisk`` is."""
    return Path(tempfile.gettempdir(), folder)


def mapped_groups(disk: HostDisk, features: Features, cut: Slice, wanted: Mapping[int, np.ndarray]) -> GroupsAtHand:
    """Rows of shards at a slice, mapped from this host's disk; what is not there yet is written.

    Raises:
        ConfigError: the folder is another user's.
        FullError: the disk is full, or the files would exceed the limit.
        StoreError: a shard is damaged, missing or not of this store.
        StorageError: S3 fails.
    """
    folder = on_this_host(disk.folder) / part_of(features, cut)
    groups = {}
    for shard, rows in wanted.items():
        name = f"{features.shards[shard].sha256[:16]}-{hashlib.sha256(rows.tobytes()).hexdigest()[:12]}"
        read = partial(read_shard_rows, features.shard_uri(shard), features, cut, rows)
        try:
            groups[shard] = _at_hand(folder / f"{name}.arrow", read, disk, cut)
        except FileNotFoundError:  # another driver of the study has ended meanwhile, and removed the folder
            groups[shard] = _at_hand(folder / f"{name}.arrow", read, disk, cut)
    return GroupsAtHand(groups)


def _at_hand(
    file: Path, read: Callable[[], tuple[np.ndarray, Group]], disk: HostDisk, cut: Slice
) -> tuple[np.ndarray, Group]:
    """The rows of a file, which is written if it is not there."""
    _make_private(on_this_host(disk.folder))
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file.with_suffix(".lock")):
        if not file.exists():
            _write(file, *read(), disk)
        return _mapped(file, cut)


def remove_folder(folder: str) -> None:
    """Removes what was written to a host's disk; files that are mapped stay readable to those who read them."""
    shutil.rmtree(on_this_host(folder), ignore_errors=True)


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (owner := folder.stat().st_uid) != os.getuid():
        raise ConfigError(f"{folder} is of the user number {owner}; give another folder", fields=("read_folder",))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of the host at a time; the lock of a process that dies is free."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(file: Path, rows: np.ndarray, group: Group, disk: HostDisk) -> None:
    size = sum(cells.nbytes for cells in group.values())
    root, temporary = on_this_host(disk.folder), file.with_suffix(f".{uuid.uuid4().hex}.tmp")
    for left in file.parent.glob(f"{file.stem}.*.tmp"):  # by dead writers, since the lock is held
        left.unlink(missing_ok=True)
    written = _written_bytes(root)
    if written + size > disk.limit_bytes:
        raise FullError(
            f"{root} holds {written / 1e9:.2f} GB of features and may hold {disk.limit_bytes / 1e9:.2f}; free "
            "space, give another folder, or read=stream",
            fields=("read", "read_folder"),
        )
    try:
        with disk_full_as_error(file):
            with pa.OSFile(str(temporary), "wb") as sink:
                for part in (rows, *(group[name] for name in sorted(group))):
                    pa.ipc.write_tensor(pa.Tensor.from_numpy(part), sink)
            with temporary.open("rb+") as whole:
                os.fsync(whole)
            os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _mapped(file: Path, cut: Slice) -> tuple[np.ndarray, Group]:
    """(which rows of its shard, these rows), as views of a file's pages."""
    source = pa.memory_map(str(file))
    rows, *parts = (pa.ipc.read_tensor(source).to_numpy() for _ in range(1 + len(group_parts(cut))))
    return rows, dict(zip(sorted(group_parts(cut)), parts, strict=True))
