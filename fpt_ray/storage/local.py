"""Files on a disk, written whole or not at all."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import errno
import os
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from fpt_ray.storage.protocol import Entry, File

SCHEME = "file://"


# --- places ---------------------------------------------------------------------------------------------------


def local_path(uri: str) -> Path:
    """The path of a bare path or of ``file://PATH``."""
    return Path(uri.removeprefix(SCHEME))


def absolute(uri: str) -> str:
    """The path from the root of the file system, links resolved."""
    return str(local_path(uri).resolve())


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """The local file system of pyarrow's and the path from its root."""
    return pafs.LocalFileSystem(), os.path.abspath(local_path(uri))


_IN_MEMORY = ("tmpfs", "ramfs")
_MOUNTS = Path("/proc/self/mountinfo")


def free_bytes(path: str | Path) -> int:
    """What the disk below a folder has free; none where it is no disk, and what is written there fills memory."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = [line.split() for line in _MOUNTS.read_text().splitlines()] if _MOUNTS.exists() else []
    kinds = [mount[mount.index("-") + 1] for mount in mounts if mount[2] == number]  # proc_pid_mountinfo(5)
    return 0 if any(kind in _IN_MEMORY for kind in kinds) else shutil.disk_usage(path).free


_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors by which there is no file."""


def uri_of(path: str) -> str:
    """The path itself."""
    return path


def failure_as_error(_uri: str) -> AbstractContextManager[None]:
    """An error of a disk stays what it is."""
    return nullcontext()


# --- reading --------------------------------------------------------------------------------------------------


def read_bytes(uri: str, at_most: int | None) -> bytes:
    """The whole content of a file, or its first bytes; what is no regular file may never end, and is none."""
    path = local_path(uri)
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with path.open("rb") as file:
        return file.read(-1 if at_most is None else at_most)


def list_files(uri: str, after: str = "") -> list[File]:
    """All files below a folder that follow one by name; links to folders are not followed.

    Raises:
        OSError: a folder is there and cannot be read.
    """
    root, walked = local_path(uri), os.walk(local_path(uri), onerror=_raise_unless_missing)
    paths = [Path(folder, name).relative_to(root).as_posix() for folder, _, names in walked for name in names]
    return [file for path in paths if path > after and (file := _file(root, path))]


def find(uri: str, paths: Iterable[str]) -> Iterator[tuple[str, File | None]]:
    """Each of these paths below a folder with its file, one by one; None: it is missing, or may not be looked at."""
    root = local_path(uri)
    return ((path, _file(root, path, (*_MISSING, errno.EACCES, errno.EPERM))) for path in paths)


def _file(root: Path, path: str, missing: Collection[int] = _MISSING) -> File | None:
    """A file, or None by one of these errors; whatever else keeps it from being looked at says nothing of it."""
    try:
        stat = os.stat(root / path)
    except OSError as error:
        if error.errno not in missing:
            raise
        return None
    return File(path=path, bytes=stat.st_size, stamp=f"{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}")


def _raise_unless_missing(error: OSError) -> None:
    """What cannot be looked at is not taken for missing."""
    if error.errno not in _MISSING:
        raise error


def walk(uri: str) -> list[Entry]:
    """All names below a folder, folder by folder."""
    root = local_path(uri)
    if not root.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(root))
    return list(_entries(root, ""))


def _entries(root: Path, below: str) -> Iterator[Entry]:
    try:
        with os.scandir(root / below) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        yield Entry(path=below, fault=f"is a folder that cannot be read ({error.strerror})")
        return
    if below:
        yield Entry(path=below)
    for entry in entries:
        path = below + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(root, f"{path}/")
        elif os.path.isdir(entry.path):
            yield Entry(path=f"{path}/", fault="is a link to a folder; put the folder itself in its place")
        else:
            yield Entry(path=path)


def leaving(root: str, paths: pa.StringArray) -> str | None:
    """The first of these paths below a root, itself without links (see ``absolute``), that links lead out of it."""
    folders = pc.replace_substring_regex(paths, r"[^/]*$", "").dictionary_encode()
    links: list[bytes] = []  # one that is not UTF-8 is none of the paths
    suspect: list[int] = []
    for number, folder in enumerate(folders.dictionary.to_pylist()):
        try:
            with os.scandir(local_path(root) / folder) as found:
                links += [os.fsencode(folder + entry.name) for entry in found if entry.is_symlink()]
            sure = True
        except OSError as error:  # its files may be read where it may not be listed
            sure = isinstance(error, FileNotFoundError)
        if not (sure and _is_within(root, folder)):
            suspect.append(number)
    asked = pc.or_(
        pc.is_in(paths.cast(pa.binary()), pa.array(links, pa.binary())),
        pc.is_in(folders.indices, pa.array(suspect, pa.int32())),
    )
    return next((path for path in paths.filter(asked).to_pylist() if not _is_within(root, path)), None)


def _is_within(root: str, path: str) -> bool:
    return Path(os.path.realpath(local_path(root) / path)).is_relative_to(local_path(root))


# --- writing --------------------------------------------------------------------------------------------------


def write_once(uri: str, content: pa.Buffer | bytes) -> bool:
    """Writes a file whole and durably if there is none; returns whether it has this content now."""
    final = local_path(uri)
    try:
        return _linked(final, content)
    except FileNotFoundError:  # whoever tidied up beside us took our temporary file, or its folder, for a dead writer's
        return _linked(final, content)


def _linked(final: Path, content: pa.Buffer | bytes) -> bool:
    with _written_beside(final, content) as temporary:
        try:
            os.link(temporary, final)  # unlike a rename, a link never replaces
        except OSError:
            if not final.exists():
                raise
            return final.read_bytes() == pa.py_buffer(content)  # somebody was first
    return True


def write(uri: str, content: bytes) -> None:
    """Writes a file whole and durably, in place of what was there."""
    final = local_path(uri)
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


def remove(uri: str, paths: Sequence[str]) -> None:
    """Removes these files below a folder, in this order, and those of their folders that are empty then."""
    root = local_path(uri)
    for path in paths:
        (root / path).unlink(missing_ok=True)
    folders = {folder for path in paths for folder in PurePath(path).parents}  # the root itself among them
    for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
        with suppress(OSError):  # it is not empty, or gone
            os.rmdir(root / folder)


def abort_uploads(_uri: str) -> int:
    """A disk has no uploads."""
    return 0


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
