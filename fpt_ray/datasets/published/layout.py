"""What the published layouts share: a data set's record, and a download of it whose files are found by their names."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fpt_ray.errors import ConfigError
from fpt_ray.storage.files import absolute, read_bytes, walk


class Box(NamedTuple):
    """A known finding, in pixels from the upper left corner of its image."""

    x0: float
    y0: float
    x1: float
    y1: float


class Entry(NamedTuple):
    """An image as the files of its data set name it."""

    path: str
    """Below the download's root."""
    label: str
    """Empty: it was published without one, such as an ungradable image; it is counted and not in the table."""
    split: str = ""
    """The official one; empty where there is none."""
    group: str = ""
    """Whose image it is; empty where that is not published."""
    boxes: tuple[Box, ...] = ()
    """Of its findings, where these are published."""
    decided: str = ""
    """What its label was taken for where its data set contradicts itself, in words that follow "images"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A data set as it is published."""

    title: str
    home: str
    """Where it is had."""
    images: int
    """How many images it has, those without a label among them."""
    labelled: int | None
    """How many of these have a label, and so are in the table; None: no public page says so."""
    entries: Callable[["Download"], list[Entry]]
    """Reads a download; what its label files name need not be there (see ``prepare``)."""
    group: str = ""
    """What the images of one group share, such as "patient"; empty: the data set does not say."""
    table: str = ""
    """The usual name of its table. Default: the data set's, as Parquet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """The files of a data set, wherever below the root its archives were unpacked."""

    of: Published
    root: str
    paths: frozenset[str]
    """Of all files, below the root."""

    def locate(self, name: str) -> str:
        """The path of a file or folder by the end of its published path; the one nearest to the root.

        Raises:
            ConfigError: there is none, or there are several as near.
        """
        places = {place for path in self.paths if (place := _ending_in(path, name))}
        if not places:
            raise ConfigError(f"{self.root} lacks {name} of {self.of.title}; get it from {self.of.home}")
        nearest = min(place.count("/") for place in places)
        found = sorted(place for place in places if place.count("/") == nearest)
        if len(found) > 1:
            raise ConfigError(f"{self.root} has {name} in {' and '.join(found)}; give the folder of one download alone")
        return found[0]

    def below(self, name: str) -> list[str]:
        """The paths of all files below a folder, which is located, in order."""
        folder = self.locate(name)
        return sorted(path for path in self.paths if path.startswith(f"{folder}/"))

    def read(self, name: str) -> bytes:
        """The content of a file, which is located.

        Raises:
            ConfigError: there is none, or it cannot be read.
        """
        return self.content(self.locate(name))

    def content(self, path: str, at_most: int | None = None) -> bytes:
        """The content of a file, or its first bytes; ConfigError where it cannot be read."""
        try:
            return read_bytes(f"{self.root}/{path}", at_most)
        except OSError as error:
            raise ConfigError(f"{self.root}/{path} cannot be read ({error.strerror}); get it anew") from None

    def rows(self, name: str, columns: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
        """The rows of a CSV file with a header, which is located; names and values without the blanks around them.

        Raises:
            ConfigError: it is missing, no such file, or lacks a column.
        """
        lines = self.lines(name, delimiter)
        header = lines[0] if lines else []
        for column in columns:
            if column not in header:
                raise ConfigError(f"{name} of {self.of.title} lacks the column {column!r}; it has {', '.join(header)}")
        return [dict(zip(header, line, strict=False)) for line in lines[1:]]

    def lines(self, name: str, delimiter: str = ",") -> list[list[str]]:
        """The fields of each line of a CSV file, which is located, without the blanks around them."""
        try:
            text = self.read(name).decode("utf-8-sig")
            found = [[field.strip() for field in line] for line in csv.reader(io.StringIO(text), delimiter=delimiter)]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{name} of {self.of.title} is no CSV file in UTF-8 ({error}); get it anew") from None
        return [line for line in found if any(line)]


def open_download(published: Published, source: str) -> Download:
    """The download in a folder; no file of it is opened.

    Raises:
        ConfigError: there is no such folder, or a folder of it cannot be read or is a link.
        StorageError: S3 fails.
    """
    root = absolute(source)
    try:
        listed = [entry for entry in walk(root) if not _of_the_system(entry.path)]
    except FileNotFoundError:
        raise ConfigError(f"--from: {root} is no folder; {published.title} is had from {published.home}") from None
    for entry in listed:
        if entry.fault:
            raise ConfigError(f"--from: {f'{root}/{entry.path}'.rstrip('/')} {entry.fault}")
    return Download(of=published, root=root, paths=frozenset(e.path for e in listed if not e.path.endswith("/")))


def _ending_in(path: str, name: str) -> str:
    """The part of a path that ends in a name of one or more parts; empty: it has no such part."""
    before, found, _ = f"/{path}/".partition(f"/{name}/")
    return f"{before}/{name}".lstrip("/") if found else ""


def _of_the_system(path: str) -> bool:
    """Whether it is a hidden file, or one that macOS puts into archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
