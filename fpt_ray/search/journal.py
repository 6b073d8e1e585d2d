"""A study's journal: in a local file or on S3, written by one driver at a time, whole entries or nothing.

What an entry says is Optuna's, where and how it is kept is ours. Optuna's own journal file is locked by a link beside
it, which outlives a killed driver and does not tell two drivers of one study from one; where the disk is full it keeps
half an entry, after which nobody can read it any more. For S3 Optuna has no journal.
"""

import contextlib
import fcntl
import json
import os
import socket
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from sqlalchemy.engine import make_url

from fpt_ray.errors import ConfigError
from fpt_ray.storage.errors import ExistsError, disk_full_as_error
from fpt_ray.storage.files import is_location, list_files, local_path, read_bytes, write_once
from fpt_ray.storage.local import append

_READ_AT_ONCE = 16


def open_journal(location: str) -> BaseJournalBackend:
    """The journal at a path or an s3:// location; where there is none, it begins."""
    path = journal_file(location)
    if path is None:
        return S3Journal(location)
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalFile(str(path))


def journal_file(location: str) -> Path | None:
    """The local file of a study's journal; None: the study lies on S3 or in a database."""
    return local_path(location) if is_location(location) else None


# --- in a file ------------------------------------------------------------------------------------------------


class JournalFile(JournalFileBackend):
    """Optuna's journal, read as Optuna does. It is written under ``one_driver``."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = Path(path)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds entries, durably.

        Raises:
            FullError: the disk is full; nothing was added.
        """
        entries = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with disk_full_as_error(self.path):
            append(self.path, entries.encode())


@contextlib.contextmanager
def one_driver(location: str) -> Iterator[None]:
    """Holds a journal file for this driver alone, until the block or the process ends, however it ends.

    So it does with SQLite's, which knows no heartbeats of drivers on several hosts. What lies elsewhere (another
    dialect://..., s3://...) has its own ways, and is let be.

    Raises:
        ConfigError: another driver holds it.
    """
    journal = journal_file(location)
    held = journal or _sqlite_file(location)
    if held is None:
        yield
        return
    path = held.with_name(f"{held.name}.driver")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another driver searches this study just now ({path.read_text() or 'just started'}; {location}): wait "
                "for its end or stop it, or choose another name or storage. Several drivers may share a database as "
                "storage, of PostgreSQL or MySQL",
                fields=("study", "storage"),
            ) from None
        with contextlib.suppress(OSError):  # on a full disk there is no room for what only informs
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        if journal is not None:
            _drop_half_an_entry(journal)
        yield


def _sqlite_file(location: str) -> Path | None:
    """The file of an SQLite database; None: it is another database, or in memory."""
    if not location.startswith("sqlite"):
        return None
    name = make_url(location).database
    return None if name is None or name == ":memory:" else Path(name)


def _drop_half_an_entry(journal: Path) -> None:
    """What a driver that died was about to add."""
    if not journal.exists():
        return
    whole = journal.read_bytes().rpartition(b"\n")
    if whole[2]:
        os.truncate(journal, len(whole[0]) + len(whole[1]))


# --- on S3 ----------------------------------------------------------------------------------------------------


class S3Journal(BaseJournalBackend):
    """Optuna's journal below ``s3://bucket/prefix``, one object an entry; a study's trial takes about ten.

    It is read once. From then on its driver knows it all, and a number that is taken when it writes tells that another
    driver has gone on with the study: S3's conditional put decides which of two drivers goes on.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.driver = uuid.uuid4().hex
        self.logs: list[dict[str, Any]] | None = None
        """All entries; None: not read yet."""
        self.objects = 0

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """The entries from a number on.

        Raises:
            ConfigError: one is missing between others.
        """
        if self.logs is None:
            self.logs = self._read()
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds entries, durably.

        Raises:
            ConfigError: another driver has written since this one read.
        """
        assert self.logs is not None, "Optuna reads before it writes"
        content = json.dumps({"driver": self.driver, "logs": logs}).encode()
        try:
            write_once(f"{self.uri}/{_name(self.objects)}", content)
        except ExistsError:
            raise ConfigError(f"another driver goes on with the study at {self.uri}; this one stops") from None
        self.objects += 1
        self.logs.extend(json.loads(content)["logs"])

    def _read(self) -> list[dict[str, Any]]:
        found = [file.path for file in list_files(self.uri)]
        self.objects = len(found)
        missing = sorted({_name(number) for number in range(len(found))} - set(found))
        if missing:
            raise ConfigError(f"{self.uri}/{missing[0]} is missing, and other entries of the study are there")
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            contents = pool.map(lambda path: json.loads(read_bytes(f"{self.uri}/{path}")), found)
            return [log for content in contents for log in content["logs"]]


def _name(number: int) -> str:
    return f"{number:08d}.json"
