"""S3 as everything here reaches it: found, signed and retried one way by pyarrow and boto3, failing in one line.

Endpoint, region and credentials come the usual AWS ways (``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, ``AWS_REGION``,
``AWS_DEFAULT_REGION``, ``AWS_PROFILE``, keys, web identity, instance roles); so does the number of attempts
(``AWS_MAX_ATTEMPTS``). ``FPT_RAY_S3_TIMEOUT_S`` is how long S3 may stay silent before a request is sent again.
"""

import os
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from fpt_ray.errors import ConfigError

SCHEME = "s3://"
MAX_ATTEMPTS = 10
TIMEOUT_S = 30
_CONNECT_TIMEOUT_S = 5
_LONGEST_WAIT_S = 20
_DELETED_AT_ONCE = 1000
_CONFLICT = "ConditionalRequestConflict"
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_PYARROW_ERROR = re.compile(
    r"AWS Error (?P<code>\w+)(?: \(HTTP status (?P<status>\d+)\))? during (?P<request>\w+) operation: (?P<text>.*)"
)
_REFUSED = re.compile(
    r"^(40[013]|Forbidden|Unauthorized|ACCESS_?DENIED|INVALID_?ACCESS_?KEY_?ID|SIGNATURE_?DOES_?NOT_?MATCH|"
    r"INVALID_?CLIENT_?TOKEN_?ID|UNRECOGNIZED_?CLIENT|NO_?CREDENTIALS(_?ERROR)?|INVALID_?SIGNATURE)$",
    re.IGNORECASE,
)


class StorageError(ConfigError):
    """A request to S3 failed for good; the message names bucket, key, request and the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Object:
    """What a listing says of an object."""

    path: str
    """Below the listed prefix."""
    bytes: int
    etag: str
    """S3's own checksum: it changes with the content."""


def split_uri(uri: str) -> tuple[str, str]:
    """(bucket, key) of ``s3://bucket/key``.

    Raises:
        ConfigError: there is no bucket's name in it; what might be a password is not repeated.
    """
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(
            "an s3:// location has no proper bucket name; give s3://bucket/prefix, and keys by AWS_PROFILE"
        )
    return bucket, key.rstrip("/")


# --- the two clients ------------------------------------------------------------------------------------------


@cache
def client() -> Any:
    """This process's boto3 client: for what pyarrow lacks, and for finding endpoint and region."""
    import boto3
    import botocore.session
    from botocore.config import Config

    core = botocore.session.get_session()
    region = os.environ.get("AWS_REGION") or core.get_config_variable("region") or "us-east-1"
    retries: Any = {"mode": "standard", "total_max_attempts": _max_attempts()}
    config = Config(retries=retries, connect_timeout=_CONNECT_TIMEOUT_S, read_timeout=_timeout_s())
    return boto3.Session(botocore_session=core).client("s3", region_name=region, config=config)


class _FileSystem(fs.S3FileSystem):
    """Carried to another process, it becomes that process's own: with its retries, and without keys under way."""

    def __reduce__(self) -> tuple[Any, ...]:
        return filesystem, ()


@cache
def filesystem() -> fs.S3FileSystem:
    """This process's pyarrow file system, on the same endpoint; it renews credentials of roles by itself."""
    region, endpoint = client().meta.region_name, urlsplit(client().meta.endpoint_url)
    aws = endpoint.netloc in ("s3.amazonaws.com", f"s3.{region}.amazonaws.com")
    return _FileSystem(
        region=region,
        scheme=endpoint.scheme,
        endpoint_override=None if aws else endpoint.netloc,
        connect_timeout=_CONNECT_TIMEOUT_S,
        request_timeout=_timeout_s(),
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_max_attempts()),
        tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE"),
    )


def _timeout_s() -> float:
    return _number("FPT_RAY_S3_TIMEOUT_S", TIMEOUT_S)


def _max_attempts() -> int:
    return _number("AWS_MAX_ATTEMPTS", MAX_ATTEMPTS)


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{variable} is {text!r}; give a whole number of at least 1")
    return int(text)


# --- what failed ----------------------------------------------------------------------------------------------


@contextmanager
def failure_as_error(uri: str, request: str = "a request") -> Iterator[None]:
    """What S3 answers last becomes a StorageError; what is wrong with the bytes or a local disk stays what it is.

    ``request`` is its name where no answer tells it.
    """
    if not uri.startswith(SCHEME):
        yield
        return
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        answer = error.response.get("Error", {})
        status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        code, text = answer.get("Code", status), answer.get("Message", "")
        raise StorageError(_message(uri, error.operation_name, code, status, text)) from None
    except BotoCoreError as error:
        raise StorageError(_message(uri, request, type(error).__name__, "", str(error))) from None
    except OSError as error:
        found = _PYARROW_ERROR.search(str(error))
        if found is None:
            raise
        raise StorageError(
            _message(uri, found["request"], found["code"], found["status"] or "", found["text"])
        ) from None


def _message(uri: str, request: str, code: str, status: str, text: str) -> str:
    """One line: which request on which key of which bucket, S3's answer, what to do."""
    bucket, key = split_uri(uri)
    said = f"{code}{f' (HTTP {status})' if status and status != code else ''}: {' '.join(text.split())[:200]}"
    return (
        f"bucket {bucket}, key {key or '(none)'}: {request} failed: {said.rstrip(': ')}; {_remedy(code, status, text)}"
    )


def _remedy(code: str, status: str, text: str) -> str:
    kept = "start again, what is finished is kept"
    if "expired" in f"{code} {text}".lower():
        return f"the credentials have expired: renew them and {kept}"
    if "bucket" in code.lower():
        return "create the bucket or correct its name"
    if _REFUSED.match(code) or _REFUSED.match(status):
        return f"the credentials are refused or have expired: give valid ones (AWS_PROFILE, for instance) and {kept}"
    return f"it was tried up to {_max_attempts()} times: see whether S3 can be reached, then {kept}"


# --- what pyarrow lacks ---------------------------------------------------------------------------------------


def put_once(uri: str, content: pa.Buffer | bytes) -> bool:
    """Puts an object whole, in one request with a checksum, if there is none; returns whether it is there now.

    An answer may be lost and the request repeated, so that our own object refuses us: the contents are compared then.
    """
    bucket, key = split_uri(uri)
    for attempt in range(_max_attempts()):
        with failure_as_error(uri, "PutObject"):
            refused = _put_if_none(bucket, key, content)
            if refused == "PreconditionFailed":
                with filesystem().open_input_file(f"{bucket}/{key}") as file:
                    return file.read_buffer().equals(pa.py_buffer(content))
        if not refused:
            return True
        time.sleep(random.uniform(0, min(2**attempt, _LONGEST_WAIT_S)))
    raise StorageError(_message(uri, "PutObject", _CONFLICT, "409", "others write it all the time"))


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


def put(uri: str, content: bytes) -> None:
    """Puts an object whole, in place of what was there."""
    bucket, key = split_uri(uri)
    with failure_as_error(uri, "PutObject"):
        client().put_object(Bucket=bucket, Key=key, Body=content)


def listed(uri: str) -> Iterator[Object]:
    """All objects below a prefix, in the order of their keys, with their checksums."""
    bucket, key = split_uri(uri)
    prefix = f"{key}/" if key else ""
    with failure_as_error(uri, "ListObjectsV2"):
        for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):  # some servers list folders
                    path = found["Key"].removeprefix(prefix)
                    yield Object(path=path, bytes=found["Size"], etag=found["ETag"].strip('"'))


def delete(uri: str, paths: Sequence[str]) -> None:
    """Deletes objects below a prefix; those that are gone already are no error."""
    bucket, key = split_uri(uri)
    prefix = f"{key}/" if key else ""
    for start in range(0, len(paths), _DELETED_AT_ONCE):
        names: Any = [{"Key": prefix + path} for path in paths[start : start + _DELETED_AT_ONCE]]
        with failure_as_error(uri, "DeleteObjects"):
            answer = client().delete_objects(Bucket=bucket, Delete={"Objects": names, "Quiet": True})
        for failed in answer.get("Errors", ()):
            refused = f"{SCHEME}{bucket}/{failed['Key']}"
            raise StorageError(_message(refused, "DeleteObjects", failed["Code"], "", failed.get("Message", "")))


def abort_uploads(uri: str) -> int:
    """Aborts the unfinished multipart uploads below a prefix, whose parts are paid for and never listed; how many."""
    bucket, key = split_uri(uri)
    aborted = 0
    with failure_as_error(uri, "ListMultipartUploads"):
        pages = client().get_paginator("list_multipart_uploads")
        for page in pages.paginate(Bucket=bucket, Prefix=f"{key}/" if key else ""):
            for found in page.get("Uploads", ()):
                client().abort_multipart_upload(Bucket=bucket, Key=found["Key"], UploadId=found["UploadId"])
                aborted += 1
    return aborted
