"""A local path or s3://: open, list, and write once, whole or not at all."""

import os
import uuid
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from fpt_ray.config import ConfigError


class ExistsError(ConfigError):
    """Something of that name was written before; it is left as it is."""


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI and the path in it. A bare path is local."""
    if "://" not in uri:
        return fs.LocalFileSystem(), os.path.abspath(uri)
    try:
        return fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, ValueError) as error:
        raise ConfigError(
            f"{uri} cannot be used as a location ({error}); give a local path or s3://bucket/prefix"
        ) from None


def exists(uri: str) -> bool:
    """Whether there is a file at the URI."""
    system, path = filesystem(uri)
    return system.get_file_info(path).type == fs.FileType.File


def size(uri: str) -> int | None:
    """Bytes of a file; None if there is none."""
    system, path = filesystem(uri)
    info = system.get_file_info(path)
    return info.size if info.type == fs.FileType.File else None


def read_bytes(uri: str) -> bytes:
    """The whole content of a file."""
    system, path = filesystem(uri)
    with system.open_input_stream(path) as stream:
        return stream.read()


def write_once(uri: str, content: bytes) -> None:
    """Writes a file whole, durably, and only if there is none.

    Raises:
        ExistsError: somebody wrote it before.
    """
    if uri.startswith("s3://"):
        _put_once(uri, content)
        return
    final = Path(filesystem(uri)[1])
    temporary = temporary_path(final)
    try:
        _write_durably(temporary, content)
        os.link(temporary, final)  # unlike a rename, a link never replaces
    except FileExistsError:
        raise ExistsError(f"{final} exists already and was left as it is") from None
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(final: Path) -> Path:
    """A name beside the final one that nobody else uses and nobody takes for a finished file."""
    final.parent.mkdir(parents=True, exist_ok=True)
    return final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")


def sync(path: Path) -> None:
    """Makes a file's content durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_durably(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    sync(path)


def _put_once(uri: str, content: bytes) -> None:
    import boto3
    from botocore.exceptions import ClientError

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in ("PreconditionFailed", "ConditionalRequestConflict"):
            raise ExistsError(f"{uri} exists already and was left as it is") from None
        raise
