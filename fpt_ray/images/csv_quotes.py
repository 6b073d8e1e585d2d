"""Whether the quotes of a CSV are right: Arrow, which reads it, takes what it is given."""

import csv
import io

from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError


def checked_names(uri: str, data: bytes) -> list[str]:
    """The names in the first row of a CSV; a text of several lines is said.

    Raises:
        ConfigError: quotes are not closed, so that a cell would take in all rows that follow, or stand within a text.
    """
    rows = csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=""), strict=True)
    names: list[str] = []
    last, number, longest = 0, -1, (1, 0)
    try:
        for row in rows:
            names = names or row  # blank lines before it are none
            number += bool(row)
            longest = max(longest, (rows.line_num - last, number))
            last = rows.line_num
    except csv.Error as error:
        raise ConfigError(
            f"images: {uri}: line {last + 1} begins a row that is no CSV ({error}); close its quotes, and double those "
            "inside of a text"
        ) from None
    if longest[0] > 1:
        say(f"images: {uri}: the quotes of row {longest[1]} span {longest[0]:,} lines")
    return names
