"""A local path or s3://bucket/prefix: read, list, write whole or not at all, remove."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from fpt_ray.storage import s3
from fpt_ray.storage.errors import ExistsError
from fpt_ray.storage.local import File, _file, _link_once, _local, _written_beside


def is_s3(uri: str) -> bool:
    """Whether a URI names a place on S3."""
    return uri.startswith(s3.SCHEME)


def absolute(uri: str) -> str:
    """The URI that other processes, in other folders, may use; a bare path is local."""
    if is_s3(uri):
        bucket, key = s3.split_uri(uri)
        return f"{s3.SCHEME}{bucket}/{key}".rstrip("/")
    return str(_local(uri).resolve())


def own_folder(uri: str) -> Path:
    """The folder of this machine that goes with a location, for what only the driver reads.

    A local one is its own; one on S3 has one in the user's state directory (``XDG_STATE_HOME``).
    """
    if not is_s3(uri):
        return _local(uri)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state, "fpt_ray", *(part for part in s3.split_uri(uri) if part))


def located(path: str, beside: str) -> str:
    """The URI of a path in the file system of another URI."""
    return f"{s3.SCHEME}{path}" if is_s3(beside) else path


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a URI and the path in it."""
    if is_s3(uri):
        bucket, key = s3.split_uri(uri)
        return s3.filesystem(), f"{bucket}/{key}"
    return pafs.LocalFileSystem(), os.path.abspath(_local(uri))


# --- reading --------------------------------------------------------------------------------------------------


def exists(uri: str) -> bool:
    """Whether there is a file at the URI."""
    system, path = filesystem(uri)
    with s3.failure_as_error(uri):
        return system.get_file_info(path).type == pafs.FileType.File


def read_bytes(uri: str, at_most: int | None = None) -> bytes:
    """The whole content of a file, or its first bytes.

    Raises:
        OSError: it is missing, or a local one cannot be read.
        StorageError: S3 fails.
    """
    if not is_s3(uri):
        with _local(uri).open("rb") as file:
            return file.read(-1 if at_most is None else at_most)
    system, path = filesystem(uri)
    with s3.failure_as_error(uri), system.open_input_file(path) as file:
        return file.read(at_most)


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A file as a local path: itself, or for a while a copy of what lies on S3."""
    if not is_s3(uri):
        yield _local(uri)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, uri.rpartition("/")[2])
        path.write_bytes(read_bytes(uri))
        yield path


def list_files(uri: str) -> list[File]:
    """All files below a folder, by path; none if there is no such folder."""
    if is_s3(uri):
        found = [File(path=file.path, bytes=file.bytes, stamp=f"{file.bytes}|{file.etag}") for file in s3.listed(uri)]
    else:
        root = _local(uri)
        paths = [Path(folder, name).relative_to(root) for folder, _, names in os.walk(root) for name in names]
        found = [file for path in paths if (file := _file(root, path.as_posix()))]
    return sorted(found, key=lambda file: file.path)


def stamps(uri: str, paths: Sequence[str]) -> list[str]:
    """The path and stamp of each of these files below a folder; of one that is missing, that it is."""
    listed = {file.path: file for file in list_files(uri)} if is_s3(uri) else {}
    found = [listed.get(path) if is_s3(uri) else _file(_local(uri), path) for path in paths]
    return [f"{path}|{file.stamp if file else 'gone'}" for path, file in zip(paths, found, strict=True)]


# --- writing --------------------------------------------------------------------------------------------------


def write_once(uri: str, content: pa.Buffer | bytes) -> None:
    """Writes a file whole, durably, and only if there is none.

    Raises:
        ExistsError: there is one, of another content.
        OSError: the disk is full, for instance; nothing is left under the name.
        StorageError: S3 fails; nothing is left under the name.
    """
    ours = s3.put_once(uri, content) if is_s3(uri) else _link_once(uri, content)
    if not ours:
        raise ExistsError(f"{uri} exists already with another content and was left as it is")


def write(uri: str, content: bytes) -> None:
    """Writes a file whole, in place of what was there."""
    if is_s3(uri):
        s3.put(uri, content)
        return
    final = _local(uri)
    with _written_beside(final, content) as temporary:
        os.replace(temporary, final)


def remove(uri: str, paths: Sequence[str]) -> None:
    """Removes these files below a folder, in this order on a disk, and local folders that are empty then."""
    if is_s3(uri):
        s3.delete(uri, paths)
        return
    root = _local(uri)
    for path in paths:
        (root / path).unlink(missing_ok=True)
    for folder, _, _ in os.walk(root, topdown=False):
        if not os.listdir(folder):
            os.rmdir(folder)
