"""What storing files may end with that a user can mend: it exists already, the disk is full, S3 fails."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fpt_ray.errors import ConfigError


class ExistsError(ConfigError):
    """Something else of that name was written before; it is left as it is."""


class FullError(ConfigError):
    """A disk is full."""


class StorageError(ConfigError):
    """A request to S3 failed for good; the message names bucket, key, request and the remedy."""


@contextmanager
def disk_full_as_error(written: str | Path) -> Iterator[None]:
    """A full disk becomes a FullError, however deep a library hides that; ``written`` was to be written."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ConfigError) or (why := why_full(error)) is None:
            raise
        remedy = "free space and start again, or resume the study: what is finished is kept"
        raise FullError(f"{written} cannot be written ({why}); {remedy}", fields=("resume",)) from None


def why_full(error: BaseException | None) -> str | None:
    """In the system's words, where an error says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return os.strerror(error.errno)
        error = error.__cause__ or error.__context__
    return None
