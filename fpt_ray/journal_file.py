"""A study's journal in a local file: one driver at a time writes it, whole entries or nothing.

Optuna's own journal file is locked by a link beside it, which outlives a killed driver and does not tell two drivers of
one study from one; and where the disk is full it keeps half an entry, after which nobody can read it any more.
"""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from fpt_ray.config import ConfigError
from fpt_ray.storage import FullError, append


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
        with FullError.told(self.path):
            append(self.path, entries.encode())


@contextlib.contextmanager
def one_driver(location: str) -> Iterator[None]:
    """Holds a journal file for this driver alone, until the block or the process ends, however it ends.

    What lies elsewhere (dialect://..., s3://...) has its own ways, and is let be.

    Raises:
        ConfigError: another driver holds it.
    """
    if "://" in location:
        yield
        return
    path = Path(f"{location}.driver")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another driver searches this study just now ({path.read_text() or 'just started'}; {location}): wait "
                "for its end or stop it, or choose another --study. Several drivers may share a database (--storage)"
            ) from None
        with contextlib.suppress(OSError):  # on a full disk there is no room for what only informs
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        _drop_half_an_entry(Path(location))
        yield


def _drop_half_an_entry(journal: Path) -> None:
    """What a driver that died was about to add."""
    if not journal.exists():
        return
    whole = journal.read_bytes().rpartition(b"\n")
    if whole[2]:
        os.truncate(journal, len(whole[0]) + len(whole[1]))
