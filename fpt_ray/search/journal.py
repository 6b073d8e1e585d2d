"""A study's journal: in a local file or on S3, written by one driver at a time, whole entries or nothing.

What an entry says is Optuna's, where and how it is kept is ours. Optuna's own journal file is locked by a link beside
it, which outlives a killed driver and does not tell two drivers of one study from one; where the disk is full it keeps
half an entry, after which nobody can read it any more. For S3 Optuna has no journal.
"""

import contextlib
import fcntl
import itertools
import json
import os
import re
import socket
import uuid
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from sqlalchemy.engine import make_url

from fpt_ray.errors import ConfigError
from fpt_ray.storage.errors import ExistsError, StorageError, disk_full_as_error
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


_SPANS = (65_536, 4_096, 256, 16, 1)
"""Objects of entries that one piece holds, the most first: segments and, at last, an object itself."""
_NUMBERED = re.compile(r"(\d{8})\.json")


class Piece(NamedTuple):
    """What is read at once: the objects of entries from a number on, as a segment or, if it is one, itself."""

    start: int
    span: int


class S3Journal(BaseJournalBackend):
    """Optuna's journal below ``s3://bucket/prefix``, one object an entry; a study's trial takes about ten.

    It is read once. From then on its driver knows it all, and a number that is taken when it writes tells that another
    driver has gone on with the study: S3's conditional put decides which of two drivers goes on.

    So that reading takes few requests, a driver repeats every 16, 256, ... objects in a segment beside them, once they
    are there. A segment follows from its objects, and only spares reading them: one that is missing, because its driver
    died before it was put, is put by the next driver that writes. Objects are never removed, since their numbers decide
    between drivers.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.driver = uuid.uuid4().hex
        self.logs: list[dict[str, Any]] | None = None
        """All entries; None: not read yet."""
        self.ends: list[int] = []
        """How many entries there are up to the end of each object."""
        self.segments: set[Piece] = set()
        """Those of the last number of objects that are known to be there."""
        self.compacted = 0
        """Objects up to which segments have been looked after."""

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """The entries from a number on.

        Raises:
            ConfigError: one is missing between others.
        """
        if self.logs is None:
            self._read()
        assert self.logs is not None
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds entries, durably.

        Raises:
            ConfigError: another driver has written since this one read.
        """
        assert self.logs is not None, "Optuna reads before it writes"
        content = json.dumps({"driver": self.driver, "logs": logs}).encode()
        try:
            write_once(self._uri(Piece(len(self.ends), 1)), content)
        except ExistsError:
            raise ConfigError(f"another driver goes on with the study at {self.uri}; this one stops") from None
        self.logs.extend(json.loads(content)["logs"])
        self.ends.append(len(self.logs))
        self._compact()

    # --- reading ----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        pieces, found = self._list()
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            objects = [entries for piece in pool.map(self._objects, pieces) for entries in piece]
        self.segments = {piece for piece in found if piece.span > 1}
        self.ends = list(itertools.accumulate(map(len, objects)))
        self.logs = [log for entries in objects for log in entries]

    def _list(self) -> tuple[list[Piece], set[Piece]]:
        """What is to be read, in order, and what was found; what larger segments hold is not listed."""
        found: set[Piece] = set()
        pieces: list[Piece] = []
        for span in _SPANS:
            end = pieces[-1].start + pieces[-1].span if pieces else 0
            files = list_files(self._folder(span), after=_name(end - 1) if end else "")
            numbers = (match[1] for file in files if (match := _NUMBERED.fullmatch(file.path)))
            found |= {Piece(int(number), span) for number in numbers}
            pieces = _in_order(found)
        end = pieces[-1].start + pieces[-1].span if pieces else 0
        if any(piece.start > end for piece in found):
            raise ConfigError(f"{self.uri}/{_name(end)} is missing, and other entries of the study are there")
        return pieces, found

    def _objects(self, piece: Piece) -> list[list[dict[str, Any]]]:
        """The entries of each object of a piece."""
        content = json.loads(read_bytes(self._uri(piece)))
        objects = [content["logs"]] if piece.span == 1 else content["objects"]
        if len(objects) != piece.span:
            raise ConfigError(f"{self._uri(piece)} holds {len(objects)} objects; it was written with {piece.span}")
        return objects

    # --- segments ---------------------------------------------------------------------------------------------

    def _compact(self) -> None:
        """Puts the segments that are missing. S3 failing here costs requests later and no entry: it is tried again."""
        number = len(self.ends)
        if number // _SPANS[-2] == self.compacted // _SPANS[-2]:
            return
        for piece in segments_of(number):
            if piece not in self.segments:
                try:
                    write_once(self._uri(piece), self._segment(piece))
                except ExistsError:  # another driver's, of another release
                    pass
                except StorageError:
                    return
                self.segments.add(piece)
        self.compacted = number

    def _segment(self, piece: Piece) -> bytes:
        assert self.logs is not None
        first = self.ends[piece.start - 1] if piece.start else 0
        ends = [first, *self.ends[piece.start : piece.start + piece.span]]
        return json.dumps({"objects": [self.logs[start:end] for start, end in itertools.pairwise(ends)]}).encode()

    def _folder(self, span: int) -> str:
        return self.uri if span == 1 else f"{self.uri}.segments/{span}"

    def _uri(self, piece: Piece) -> str:
        return f"{self._folder(piece.span)}/{_name(piece.start)}"


def segments_of(number: int) -> list[Piece]:
    """The fewest segments that hold the first so many objects, but for the last few."""
    pieces, start = [], 0
    for span in _SPANS[:-1]:
        while start + span <= number:
            pieces.append(Piece(start, span))
            start += span
    return pieces


def _in_order(found: Container[Piece]) -> list[Piece]:
    """Of these pieces the largest, one after the other, as far as they follow upon each other."""
    pieces, start = [], 0
    while span := next((span for span in _SPANS if Piece(start, span) in found), 0):
        pieces.append(Piece(start, span))
        start += span
    return pieces


def _name(number: int) -> str:
    return f"{number:08d}.json"
