"""What a kind of storage does, and what its listings say. ``local`` and ``s3`` are the two kinds; ``files`` picks one.

A module is an implementation: it has a function of each of these names. What each raises is said in ``files``.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.fs as pafs


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """What a listing says of a file."""

    path: str
    """Below the listed folder, with forward slashes."""
    bytes: int
    stamp: str
    """Changes with the content: S3's checksum, or size and time of change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A name that a walk meets, of a file or, where folders are things of their own, of a folder."""

    path: str
    """Below the folder that is walked, with forward slashes; a folder's ends with one."""
    fault: str = ""
    """Why nothing below a folder is met, in words that follow its path; empty: all is."""


@runtime_checkable
class Storage(Protocol):
    """Files of one scheme, by their URIs."""

    def absolute(self, uri: str, /) -> str:
        """The URI that other processes, in other folders, may use."""
        ...

    def local_path(self, uri: str, /) -> Path | None:
        """The path on this machine's file system; None: it lies elsewhere."""
        ...

    def filesystem(self, uri: str, /) -> tuple[pafs.FileSystem, str]:
        """The file system of pyarrow's and the path in it."""
        ...

    def uri_of(self, path: str, /) -> str:
        """The URI of a path in that file system."""
        ...

    def failure_as_error(self, uri: str, /) -> AbstractContextManager[None]:
        """A service that fails for good becomes a StorageError; any other error stays what it is."""
        ...

    def read_bytes(self, uri: str, at_most: int | None, /) -> bytes:
        """The whole content of a file, or its first bytes."""
        ...

    def list_files(self, uri: str, after: str, /) -> list[File]:
        """All files below a folder that follow one by name, in any order; none if there is no such folder."""
        ...

    def walk(self, uri: str, /) -> list[Entry]:
        """All names below a folder."""
        ...

    def find(self, uri: str, paths: Iterable[str], /) -> Iterator[tuple[str, File | None]]:
        """Each of these paths below a folder with its file; None: it is missing."""
        ...

    def leaving(self, root: str, paths: pa.StringArray, /) -> str | None:
        """The first of these paths below a root that leaves it when links are followed."""
        ...

    def write_once(self, uri: str, content: pa.Buffer | bytes, /) -> bool:
        """Writes a file whole if there is none; returns whether it has this content now."""
        ...

    def write(self, uri: str, content: bytes, /) -> None:
        """Writes a file whole, in place of what was there."""
        ...

    def remove(self, uri: str, paths: Sequence[str], /) -> None:
        """Removes these files below a folder."""
        ...

    def abort_uploads(self, uri: str, /) -> int:
        """Aborts the unfinished uploads below a folder; returns how many."""
        ...
