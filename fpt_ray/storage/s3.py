"""Files on S3, each an object that is put whole or not at all; a folder is what keys begin with."""

import dataclasses
import errno
import os
import posixpath
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from fpt_ray.storage import s3_client
from fpt_ray.storage.protocol import Entry, File
from fpt_ray.storage.s3_client import SCHEME, client, failure, failure_as_error, max_attempts, split_uri

_LONGEST_WAIT_S = 20
_REMOVED_AT_ONCE = 1000
_LISTINGS = 16
"""Folders that are listed one by one to find files; of more, all that lies beside them is listed, too."""
_CONFLICT = "ConditionalRequestConflict"


# --- places ---------------------------------------------------------------------------------------------------


def local_path(_uri: str) -> None:
    """Nothing on S3 has a path on this machine."""


def absolute(uri: str) -> str:
    """The URI without a slash at its end."""
    bucket, key = split_uri(uri)
    return f"{SCHEME}{bucket}/{key}".rstrip("/")


def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """This process's S3 file system of pyarrow's, and bucket/key."""
    bucket, key = split_uri(uri)
    return s3_client.filesystem(), f"{bucket}/{key}"


def uri_of(path: str) -> str:
    """The URI of bucket/key."""
    return f"{SCHEME}{path}"


def _prefixed(uri: str) -> tuple[str, str]:
    """The bucket, and what the keys of all files below the URI begin with."""
    bucket, key = split_uri(uri)
    return bucket, f"{key}/" if key else ""


# --- reading --------------------------------------------------------------------------------------------------


def read_bytes(uri: str, at_most: int | None) -> bytes:
    """The whole content of an object, or its first bytes."""
    system, path = filesystem(uri)
    with failure_as_error(uri), system.open_input_file(path) as file:
        return file.read(at_most)


def list_files(uri: str, after: str = "") -> list[File]:
    """All objects below a prefix, with their checksums; those up to ``after`` are not asked for."""
    bucket, prefix = _prefixed(uri)
    start = {"StartAfter": prefix + after} if after else {}
    with failure_as_error(uri, "ListObjectsV2"):
        pages = client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **start)
        found = [one for page in pages for one in page.get("Contents", ())]
    return [_file(one, prefix) for one in found if not one["Key"].endswith("/")]  # some servers list folders


def _file(found: Mapping[str, Any], prefix: str) -> File:
    checksum = found["ETag"].strip('"')
    return File(path=found["Key"].removeprefix(prefix), bytes=found["Size"], stamp=f"{found['Size']}|{checksum}")


def find(uri: str, paths: Iterable[str]) -> Iterator[tuple[str, File | None]]:
    """Each of these paths below a folder with its file; None: it is missing.

    The folders that hold them are listed; one file alone is asked for.
    """
    wanted, members = list(paths), dict[str, list[str]]()
    if len(wanted) == 1:
        return iter([(wanted[0], _asked(uri, wanted[0]))])
    for path in wanted:
        members.setdefault(path.partition("/")[0], []).append(path)
    groups = [wanted] if len(members) > _LISTINGS else list(members.values())
    folders = {posixpath.commonprefix([min(group), max(group)]).rpartition("/")[0] for group in groups}
    listed: dict[str, File] = {}
    for folder in {""} if "" in folders else folders:
        begin = f"{folder}/" if folder else ""
        for file in list_files(f"{uri}/{begin}".rstrip("/")):
            listed[begin + file.path] = dataclasses.replace(file, path=begin + file.path)
    return ((path, listed.get(path)) for path in wanted)


def _asked(uri: str, path: str) -> File | None:
    """A file below a folder, which need not be listed for it."""
    from botocore.exceptions import ClientError

    bucket, prefix = _prefixed(uri)
    with failure_as_error(f"{uri}/{path}", "HeadObject"):
        try:
            found = client().head_object(Bucket=bucket, Key=prefix + path)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("404", "NoSuchKey"):
                return None
            raise
    return _file({"Key": prefix + path, "ETag": found["ETag"], "Size": found["ContentLength"]}, prefix)


def walk(uri: str) -> list[Entry]:
    """All names below a folder, which is there if something lies in it."""
    entries = [Entry(path=file.path) for file in list_files(uri)]
    if not entries:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), uri)
    return entries


def leaving(_root: str, _paths: pa.StringArray) -> str | None:
    """A key is never a link."""
    return None


# --- writing --------------------------------------------------------------------------------------------------


def write_once(uri: str, content: pa.Buffer | bytes) -> bool:
    """Puts an object whole, in one request with a checksum, if there is none; returns whether it has this content now.

    An answer may be lost and the request repeated, so that our own object refuses us: the contents are compared then.
    """
    bucket, key = split_uri(uri)
    for attempt in range(max_attempts()):
        with failure_as_error(uri, "PutObject"):
            refused = _put_if_none(bucket, key, content)
            if refused == "PreconditionFailed":
                with s3_client.filesystem().open_input_file(f"{bucket}/{key}") as file:
                    return file.read_buffer().equals(pa.py_buffer(content))
        if not refused:
            return True
        time.sleep(random.uniform(0, min(2**attempt, _LONGEST_WAIT_S)))
    raise failure(uri, "PutObject", _CONFLICT, "409", "others write it all the time")


def _put_if_none(bucket: str, key: str, content: pa.Buffer | bytes) -> str:
    """Nothing, or why it was not put: there is one, or another request for it is under way."""
    from botocore.exceptions import ClientError

    try:
        client().put_object(Bucket=bucket, Key=key, Body=pa.BufferReader(content), IfNoneMatch="*")
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code not in ("PreconditionFailed", _CONFLICT):
            raise
        return code
    return ""


def write(uri: str, content: bytes) -> None:
    """Puts an object whole, in place of what was there."""
    bucket, key = split_uri(uri)
    with failure_as_error(uri, "PutObject"):
        client().put_object(Bucket=bucket, Key=key, Body=content)


def remove(uri: str, paths: Sequence[str]) -> None:
    """Removes objects below a prefix; those that are gone already are no error."""
    bucket, prefix = _prefixed(uri)
    for start in range(0, len(paths), _REMOVED_AT_ONCE):
        names: Any = [{"Key": prefix + path} for path in paths[start : start + _REMOVED_AT_ONCE]]
        with failure_as_error(uri, "DeleteObjects"):
            answer = client().delete_objects(Bucket=bucket, Delete={"Objects": names, "Quiet": True})
        for failed in answer.get("Errors", ()):
            refused = f"{SCHEME}{bucket}/{failed['Key']}"
            raise failure(refused, "DeleteObjects", failed["Code"], "", failed.get("Message", ""))


def abort_uploads(uri: str) -> int:
    """Aborts the unfinished multipart uploads below a prefix, whose parts are paid for and never listed; how many."""
    bucket, prefix = _prefixed(uri)
    aborted = 0
    with failure_as_error(uri, "ListMultipartUploads"):
        pages = client().get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Uploads", ()):
                client().abort_multipart_upload(Bucket=bucket, Key=found["Key"], UploadId=found["UploadId"])
                aborted += 1
    return aborted
