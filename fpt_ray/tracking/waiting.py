"""The file in which lies what a driver has handed over and MLflow has not taken yet."""

import fcntl
import hashlib
import itertools
import os
from pathlib import Path
from typing import BinaryIO

from fpt_ray.display.terminal import without_secrets
from fpt_ray.errors import ConfigError
from fpt_ray.storage.errors import disk_full_as_error
from fpt_ray.storage.local import append


def waiting_file(folder: Path, uri: str) -> Path:
    """The file of what waits for an MLflow server or database.

    Raises:
        ConfigError: in the folder lies what waits for another one, which this one must not be given.
    """
    server = without_secrets(uri).rstrip("/")
    stem = f"mlflow_waiting_{hashlib.sha256(server.encode()).hexdigest()[:8]}"
    others = [path for path in sorted(folder.glob("mlflow_waiting*.jsonl")) if not path.name.startswith(stem)]
    if waits := [path for path in others if path.stat().st_size]:
        raise ConfigError(
            f"tracking_uri: {waits[0]} waits for another MLflow server than {server}; give that one as it was given "
            f"then, or, if {server} is that one, rename the file to {stem}.jsonl",
            fields=("tracking_uri",),
        )
    return folder / f"{stem}.jsonl"


class WaitingFile:
    """Lines that wait, kept durably; the file is there only while there are any.

    Drivers of one folder have a file each, locked while they live: ``NAME.jsonl``, ``NAME-2.jsonl`` and so on. What is
    not locked belonged to a driver that died.
    """

    def __init__(self, path: Path) -> None:
        self.first = self.path = path
        """Of these, ``path`` is where this driver's lines wait."""
        self.held: dict[Path, BinaryIO] = {}

    def take_over(self) -> list[str]:
        """The lines that drivers left behind that died; their files are this driver's from now on."""
        lines: list[str] = []
        for path in sorted(self.first.parent.glob(f"{self.first.stem}*{self.first.suffix}")):
            if file := _locked(path):
                self.held[path] = file
                self.path = path
                lines += _whole_lines(path)
        return lines

    def append(self, line: str) -> None:
        """Adds a line, durably.

        Raises:
            FullError: the disk is full; nothing was added.
        """
        with disk_full_as_error(self.path):
            if not self.held:
                self._begin()
            append(self.path, f"{line}\n".encode())

    def _begin(self) -> None:
        first = self.first
        first.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = first if number == 1 else first.with_name(f"{first.stem}-{number}{first.suffix}")
            file = _locked(path)
            if file and not os.fstat(file.fileno()).st_size:  # else its driver died just now: the next one delivers it
                self.path, self.held = path, {path: file}
                return
            if file:
                file.close()

    def clear(self) -> None:
        """Removes the files: nothing waits any more."""
        for path in self.held:
            path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Leaves the files to the next driver."""
        for file in self.held.values():
            file.close()
        self.held = {}


def _locked(path: Path) -> BinaryIO | None:
    """The file, begun if it is not there, locked until it is closed or this process ends; None if another has it."""
    file = path.open("ab", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
            return file
    except (BlockingIOError, FileNotFoundError):  # in use; its driver has removed it in between
        pass
    file.close()
    return None


def _whole_lines(path: Path) -> list[str]:
    """The file's lines; half a line, of a driver that died while it wrote, is cut off."""
    whole, end, half = path.read_bytes().rpartition(b"\n")
    if half:
        os.truncate(path, len(whole) + len(end))
    return [line.decode() for line in whole.splitlines()]
