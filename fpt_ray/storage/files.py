"""A local path or s3://bucket/prefix: read, list, write whole or not at all, remove.

This is the one place that asks which of the two a URI is.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from fpt_ray.errors import ConfigError
from fpt_ray.storage import local, s3
from fpt_ray.storage.errors import ExistsError
from fpt_ray.storage.protocol import Entry, File, Storage

GONE = "gone"
"""The stamp of a file that is missing."""


def is_location(uri: str) -> bool:
    """Whether a URI names a local path or a place on S3, not a database, for instance."""
    return "://" not in uri or uri.startswith((local.SCHEME, s3.SCHEME))


def _storage_at(uri: str) -> Storage:
    """The kind of storage of a URI.

    Raises:
        ConfigError: there is none of its scheme.
    """
    if not is_location(uri):
        raise ConfigError(f"{uri.partition('://')[0]}:// is no location; give a local path or s3://bucket/prefix")
    return s3 if uri.startswith(s3.SCHEME) else local


# --- places ---------------------------------------------------------------------------------------------------


def absolute(uri: str) -> str:
    """The URI that other processes, in other folders, may use; a bare path is local."""
    return _storage_at(uri).absolute(uri)


def local_path(uri: str) -> Path | None:
    """The path of a location on this machine's file system; None: it lies elsewhere."""
    return _storage_at(uri).local_path(uri)


def own_folder(uri: str) -> Path:
    """The folder of this machine that goes with a location, for what only the driver reads.

    A local location is its own; any other has one in the user's state directory (``XDG_STATE_HOME``).
    """
    if (path := local_path(uri)) is not None:
        return path
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state, "fpt_ray", *absolute(uri).partition("://")[2].split("/"))


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a URI and the path in it."""
    return _storage_at(uri).filesystem(uri)


def located(path: str, beside: str) -> str:
    """The URI of a path in the file system of another URI."""
    return _storage_at(beside).uri_of(path)


def located_in(system: pafs.FileSystem | None, path: str) -> str:
    """The URI of a path in a file system of pyarrow's; None stands for the local one."""
    return (s3 if isinstance(system, pafs.S3FileSystem) else local).uri_of(path)


def failure_as_error(uri: str) -> AbstractContextManager[None]:
    """What S3 answers last, if the location is there, becomes a StorageError; any other error stays what it is."""
    return _storage_at(uri).failure_as_error(uri)


# --- reading --------------------------------------------------------------------------------------------------


def exists(uri: str) -> bool:
    """Whether there is a file at the URI; a folder is none.

    Raises:
        StorageError: S3 fails.
    """
    system, path = filesystem(uri)
    with failure_as_error(uri):
        return system.get_file_info(path).type == pafs.FileType.File


def read_bytes(uri: str, at_most: int | None = None) -> bytes:
    """The whole content of a file, or its first bytes.

    Raises:
        FileNotFoundError: there is no file; a folder or a pipe is none.
        OSError: a local one cannot be read.
        StorageError: S3 fails.
    """
    return _storage_at(uri).read_bytes(uri, at_most)


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A file as a local path: itself, or for a while a copy of what lies elsewhere.

    Raises:
        FileNotFoundError, StorageError: as ``read_bytes``, of what lies elsewhere.
    """
    if (path := local_path(uri)) is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, uri.rpartition("/")[2])
        path.write_bytes(read_bytes(uri))
        yield path


def list_files(uri: str, after: str = "") -> list[File]:
    """All files below a folder, by path; none if there is no such folder.

    ``after``, of a folder that holds no others: only those whose names follow this one. Some servers that speak S3 keep
    another order across folders.

    Raises:
        StorageError: S3 fails.
    """
    return sorted(_storage_at(uri).list_files(uri, after), key=lambda file: file.path)


def walk(uri: str) -> list[Entry]:
    """All names below a folder, also of what cannot be read; no file is looked at.

    Raises:
        FileNotFoundError: there is no such folder.
        StorageError: S3 fails.
    """
    return _storage_at(uri).walk(uri)


def stamps(uri: str, paths: Iterable[str]) -> Iterator[str]:
    """The path and stamp of each of these files below a folder, one by one; of one that is missing, that it is.

    Raises:
        StorageError: S3 fails.
    """
    return (f"{path}|{file.stamp if file else GONE}" for path, file in _storage_at(uri).find(uri, paths))


def any_there(uri: str, paths: Iterable[str]) -> bool:
    """Whether one of these files is below a folder.

    Raises:
        StorageError: S3 fails.
    """
    return any(file is not None for _, file in _storage_at(uri).find(uri, paths))


def leaving(root: str, paths: pa.StringArray) -> str | None:
    """The first of these paths below an absolute root that leaves it when links are followed; they hold no '..'.

    It takes a look at each folder, and none at a file that is no link.
    """
    return _storage_at(root).leaving(root, paths)


# --- writing --------------------------------------------------------------------------------------------------


def write_once(uri: str, content: pa.Buffer | bytes) -> None:
    """Writes a file whole, durably, and only if there is none.

    Raises:
        ExistsError: there is one, of another content.
        OSError: the disk is full, for instance; nothing is left under the name.
        StorageError: S3 fails; nothing is left under the name, or all where only the answer was lost.
    """
    if not _storage_at(uri).write_once(uri, content):
        raise ExistsError(f"{uri} exists already with another content and was left as it is")


def write(uri: str, content: bytes) -> None:
    """Writes a file whole, in place of what was there.

    Raises:
        OSError: the disk is full, for instance; what was there is left as it is.
        StorageError: S3 fails; so it is then, or all is written where only the answer was lost.
    """
    _storage_at(uri).write(uri, content)


def remove(uri: str, paths: Sequence[str]) -> None:
    """Removes these files below a folder, in this order on a disk, and their local folders where they are empty then.

    Raises:
        StorageError: S3 fails.
    """
    _storage_at(uri).remove(uri, paths)


def abort_uploads(uri: str) -> int:
    """Aborts what killed writers left of uploads below a folder, which no listing shows; returns how many.

    Raises:
        StorageError: S3 fails.
    """
    return _storage_at(uri).abort_uploads(uri)
