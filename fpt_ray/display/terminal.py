"""What a person at a terminal sees of a command: user errors as one line, messages on stderr, no secrets."""

import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable

from fpt_ray.errors import ConfigError

_USER_IN_URI = re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@\"']+@", re.IGNORECASE)
_SECRET_IN_QUERY = re.compile(
    r"([?&][\w-]*(?:secret|password|token|key|signature|credential)[\w-]*=)[^&\s\"']+", re.IGNORECASE
)


def run_command(main: Callable[[], int | None], described: Callable[[ConfigError], str] = str) -> None:
    """Runs a command's main(); what the user got wrong ends it with one line on stderr and exit status 2.

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
    except Exception:  # a defect: all of it, but for passwords in the addresses that libraries quote
        print(without_secrets(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)


def _unread() -> bool:
    """Whether stdout is a pipe that its reader has closed."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def say(message: str) -> None:
    """One line of progress on stderr."""
    print(message, file=sys.stderr, flush=True)


def without_secrets(text: str) -> str:
    """The text with users, passwords and keys that stand in URIs replaced by ``***``."""
    return _SECRET_IN_QUERY.sub(r"\1***", _USER_IN_URI.sub(r"\1***@", text))
