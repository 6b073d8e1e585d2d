"""S3 as everything here reaches it: found, signed and retried one way by pyarrow and boto3, failing in one line.

Endpoint, region and credentials come the usual AWS ways (``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, ``AWS_REGION``,
``AWS_DEFAULT_REGION``, ``AWS_PROFILE``, keys, web identity, instance roles); so does the number of attempts
(``AWS_MAX_ATTEMPTS``). ``FPT_RAY_S3_TIMEOUT_S`` is how long S3 may stay silent before a request is sent again.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

from fpt_ray.errors import ConfigError
from fpt_ray.storage.errors import StorageError

SCHEME = "s3://"
MAX_ATTEMPTS = 10
TIMEOUT_S = 30
_CONNECT_TIMEOUT_S = 5
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_PYARROW_ERROR = re.compile(
    r"AWS Error (?P<code>\w+)(?: \(HTTP status (?P<status>\d+)\))? during (?P<request>\w+) operation: (?P<text>.*)"
)
_REFUSED = re.compile(
    r"^(40[013]|Forbidden|Unauthorized|ACCESS_?DENIED|INVALID_?ACCESS_?KEY_?ID|SIGNATURE_?DOES_?NOT_?MATCH|"
    r"INVALID_?CLIENT_?TOKEN_?ID|UNRECOGNIZED_?CLIENT|NO_?CREDENTIALS(_?ERROR)?|INVALID_?SIGNATURE)$",
    re.IGNORECASE,
)


def split_uri(uri: str) -> tuple[str, str]:
    """The bucket and the key of ``s3://bucket/key``.

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
    retries: Any = {"mode": "standard", "total_max_attempts": max_attempts()}
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
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=max_attempts()),
        tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE"),
    )


def _timeout_s() -> float:
    return _number("FPT_RAY_S3_TIMEOUT_S", TIMEOUT_S)


def max_attempts() -> int:
    """How often a request is made before its failure is told."""
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
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        answer = error.response.get("Error", {})
        status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        code, text = answer.get("Code", status), answer.get("Message", "")
        raise failure(uri, error.operation_name, code, status, text) from None
    except BotoCoreError as error:
        raise failure(uri, request, type(error).__name__, "", str(error)) from None
    except OSError as error:
        found = _PYARROW_ERROR.search(str(error))
        if found is None:
            raise
        raise failure(uri, found["request"], found["code"], found["status"] or "", found["text"]) from None


def failure(uri: str, request: str, code: str, status: str, text: str) -> StorageError:
    """The error that says in one line which request failed on which key, what S3 answered and what to do."""
    bucket, key = split_uri(uri)
    said = f"{code}{f' (HTTP {status})' if status and status != code else ''}: {' '.join(text.split())[:200]}"
    return StorageError(
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
    return f"it was tried up to {max_attempts()} times: see whether S3 can be reached, then {kept}"
