"""What a person at a terminal sees of a command: user errors as one line, messages on stderr, no secrets."""

import errno
import os
import re
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import unquote

from fpt_ray.errors import ConfigError

_SCHEME = r"([a-z][a-z0-9+.-]*://)"
# People paste passwords as they are. All up to the last @ of what may be one URL is taken for the password; what
# SQLAlchemy's ``render_as_string`` hides ends at the first @, and the rest of p@ss/word is shown.
_USER_IN_TEXT = re.compile(_SCHEME + r"(?:[^/\s@:\"']*:[^\s\"']*|[^/\s@\"']+)@", re.IGNORECASE)
_USER_IN_URL = re.compile(_SCHEME + r"(?:[^/\s@:]*:(?P<password>\S*)|[^/\s@]+)@(?=\S*$)", re.IGNORECASE)
_LOCATIONS = ("MLFLOW_TRACKING_URI", "FPT_RAY_STORAGE")
_SECRET_IN_QUERY = re.compile(
    r"([?&][\w-]*(?:secret|password|token|key|signature|credential)[\w-]*=)[^&\s\"']+", re.IGNORECASE
)


_NO_DEFECT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
"""Errors of a file or folder that say that somebody else has to be asked, or another place be given."""


def run_command(main: Callable[[], int | None], described: Callable[[ConfigError], str] = str) -> None:
    """Runs a command's main(); what the user got wrong ends it with one line on stderr and exit status 2.

    So does a place that may not be read or written.

    ``main`` may return another exit status; ``described`` puts an error into a line. Where nobody reads what it prints
    any more (``| head``), it ends without a word, with the status of SIGPIPE.
    """
    try:
        status = main()
        sys.stdout.flush()
        if status:
            sys.exit(status)
    except ConfigError as error:
        print(f"error: {described(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        if not _unread():
            raise  # another pipe or socket has broken
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_DEFECT and error.filename is not None:
            print(
                f"error: {error.filename}: {error.strerror}; give a place that can be read and written", file=sys.stderr
            )
            sys.exit(2)
        # A defect: all of it, but for passwords in the addresses that libraries quote.
        print(without_secrets(traceback.format_exc(), *_known_urls()), end="", file=sys.stderr)
        sys.exit(1)


def _unread() -> bool:
    """Whether stdout is a pipe that its reader has closed."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def say(message: str) -> None:
    """One line of progress on stderr; where it cannot be written (a log on a full disk), the work goes on."""
    with suppress(OSError):
        print(message, file=sys.stderr, flush=True)


@contextmanager
def without_lines(words: str) -> Iterator[None]:
    """Meanwhile lines with these words do not reach stderr, though it is C++ that writes them, past all loggers."""
    stderr = os.dup(2)
    read, written = os.pipe()
    os.dup2(written, 2)
    os.close(written)
    passing = threading.Thread(target=_pass_on, args=(read, stderr, words), daemon=True)
    passing.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)  # the pipe ends with its last writer
        passing.join(timeout=1)


def _pass_on(read: int, stderr: int, words: str) -> None:
    line = re.compile(rb"[^\r\n]*" + re.escape(words.encode()) + rb"[^\n]*\n?")
    while text := os.read(read, 2**16):
        os.write(stderr, line.sub(b"", text))
    os.close(read)
    os.close(stderr)


def without_secrets(text: str, *urls: str) -> str:
    """The text, or the URL, with users, passwords and keys that stand in URLs replaced by ``***``.

    ``urls`` are such as the text may quote: their passwords are replaced wherever they stand.
    """
    for url in urls:
        if password := password_in(url):
            text = text.replace(url, without_secrets(url))
            for written in (password, unquote(password)):
                text = text.replace(written, "***")
    hidden = _USER_IN_TEXT.sub(r"\1***@", _USER_IN_URL.sub(r"\1***@", text) if _USER_IN_URL.match(text) else text)
    return _SECRET_IN_QUERY.sub(r"\1***", hidden)


def password_in(url: str) -> str:
    """The password in a URL, as it is written there; "" where there is none."""
    found = _USER_IN_URL.match(url)
    return (found["password"] or "") if found else ""


def _known_urls() -> list[str]:
    """What the command was given of databases and servers."""
    words = [word.partition("=")[2] if word.startswith("--") else word for word in sys.argv[1:]]
    return [url for url in (*words, *(os.environ.get(name, "") for name in _LOCATIONS)) if "://" in url]
