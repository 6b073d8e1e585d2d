"""What a person at a terminal sees of a command: user errors as one line, messages on stderr."""

import sys
from collections.abc import Callable

from fpt_ray.config import ConfigError


def run_command(main: Callable[[], None]) -> None:
    """Runs a command's main(); what the user got wrong ends it with one line on stderr and exit status 2."""
    try:
        main()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def say(message: str) -> None:
    """One line of progress on stderr."""
    print(message, file=sys.stderr, flush=True)
