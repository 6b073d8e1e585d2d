"""What must be said of images wherever results on them are shown: the first line of a file beside them."""

from fpt_ray.errors import ConfigError
from fpt_ray.storage.files import exists, read_bytes

NOTE_FILE = "DATA_NOTE.txt"
"""Of all images of a folder, in it."""


def note_of_csv(uri: str) -> str:
    """Where the note of a CSV table lies, which cannot hold it as Parquet does: TABLE.note.txt beside TABLE.csv."""
    return f"{uri.removesuffix('.csv')}.note.txt"


def first_line(uri: str) -> str:
    """The first line of a note; empty where there is none.

    Raises:
        ConfigError: it is not UTF-8.
    """
    if not exists(uri):
        return ""
    try:
        lines = read_bytes(uri).decode("utf-8-sig").strip().splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"images: the note {uri} is not UTF-8; save it as UTF-8") from None
    return lines[0].strip() if lines else ""


def both(own: str, beside: str) -> str:
    """The note of a table and that of the folder in which it lies; once where one has the other in it."""
    if not own or beside.rstrip(".") in own:
        return own or beside
    return beside if own.rstrip(".") in beside else f"{own.rstrip('.')}; {beside}"
