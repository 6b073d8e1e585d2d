"""What a prediction came to, for people."""

from collections.abc import Sequence

import pyarrow as pa

from fpt_ray.display.typesetting import Table, text_column, typeset

_SHOWN = 5
"""Of the images that could not be read."""


def summary_text(table: pa.Table, classes: Sequence[str], out: str) -> str:
    """How many images were called what, and which could not be read."""
    called = table["class"].to_pylist()
    counts = Table(
        heading="class",
        labels=list(classes),
        columns=[text_column("images", [str(called.count(name)) for name in classes])],
    )
    unread = [(row["path"], row["error"]) for row in table.select(["path", "error"]).to_pylist() if row["error"]]
    lines = [typeset(counts, "text")]
    if unread:
        lines.append(f"{len(unread)} of {len(table)} images could not be read:")
        lines += [f"  {path}: {error}" for path, error in unread[:_SHOWN]]
        lines += [f"  and {len(unread) - _SHOWN} more"] if len(unread) > _SHOWN else []
    return "\n".join([*lines, f"written to {out}"])
