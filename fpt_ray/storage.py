"""A local path or s3://bucket/prefix: read, list, write whole or not at all, remove."""

import errno
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from fpt_ray import s3
from fpt_ray.config import ConfigError


class ExistsError(ConfigError):
    """Something else of that name was written before; it is left as it is."""


class FullError(ConfigError):
    """A disk is full."""


@contextmanager
def full_told(what: str | Path) -> Iterator[None]:
    """A full disk becomes a FullError, however deep the library that met it hides that; ``what`` was to be written."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ConfigError) or (why := _why_full(error)) is None:
            raise
        remedy = "free space and start again, a study with --resume: what is finished is kept"
        raise FullError(f"{what} cannot be written ({why}); {remedy}") from None


def _why_full(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return os.strerror(error.errno)
        error = error.__cause__ or error.__context__
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """What a listing says of a file."""

    path: str
    """Below the listed folder, with forward slashes."""
    bytes: int
    stamp: str
    """Changes with the content: S3's checksum, or size and time of change."""


def is_s3(uri: str) -> bool:
    """Whether a URI names a place on S3."""
    return uri.startswith(s3.SCHEME)


def absolute(uri: str) -> str:
    """The URI that other processes, in other folders, may use; a bare path is local."""
    if is_s3(uri):
        bucket, key = s3.split_uri(uri)
        return f"{s3.SCHEME}{bucket}/{key}".rstrip("/")
    return str(_local(uri).resolve())


def _local(uri: str) -> Path:
    if "://" in uri and not uri.startswith("file://"):
        raise ConfigError(f"{uri.partition('://')[0]}:// is no location; give a local path or s3://bucket/prefix")
    return Path(uri.removeprefix("file://"))


def own_folder(uri: str) -> Path:
    """The folder of this machine that goes with a location: a local one is its own; one on S3 has one in the user's
    state directory (``XDG_STATE_HOME``), for what only the driver reads."""
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
    with s3.told(uri):
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
    with s3.told(uri), system.open_input_file(path) as file:
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


def _file(root: Path, path: str) -> File | None:
    try:
        stat = os.stat(root / path)
    except OSError:
        return None
    return File(path=path, bytes=stat.st_size, stamp=f"{stat.st_size}|{stat.st_mtime_ns}")


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


def _link_once(uri: str, content: pa.Buffer | bytes) -> bool:
    final = _local(uri)
    with _written_beside(final, content) as temporary:
        try:
            os.link(temporary, final)  # unlike a rename, a link never replaces
        except OSError:
            if not final.exists():
                raise
            # Somebody was first; whoever finished the whole store may have removed ours already.
            return final.read_bytes() == pa.py_buffer(content)
    return True


def write(uri: str, content: bytes) -> None:
    """Writes a file whole, in place of what was there."""
    if is_s3(uri):
        s3.put(uri, content)
        return
    final = _local(uri)
    with _written_beside(final, content) as temporary:
        os.replace(temporary, final)


def append(path: Path, content: bytes) -> None:
    """Adds to a local file durably, whole or not at all.

    Raises:
        OSError: the disk is full, for instance; the file is as it was.
    """
    with path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            left = memoryview(content)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


@contextmanager
def _written_beside(final: Path, content: pa.Buffer | bytes) -> Iterator[Path]:
    """A durable file under a name beside the final one that nobody else uses and nobody takes for a finished file."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


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
