"""Files on a disk, written whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from fpt_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """What a listing says of a file."""

    path: str
    """Below the listed folder, with forward slashes."""
    bytes: int
    stamp: str
    """Changes with the content: S3's checksum, or size and time of change."""


def _local(uri: str) -> Path:
    if "://" in uri and not uri.startswith("file://"):
        raise ConfigError(f"{uri.partition('://')[0]}:// is no location; give a local path or s3://bucket/prefix")
    return Path(uri.removeprefix("file://"))


def _file(root: Path, path: str) -> File | None:
    try:
        stat = os.stat(root / path)
    except OSError:
        return None
    return File(path=path, bytes=stat.st_size, stamp=f"{stat.st_size}|{stat.st_mtime_ns}")


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
