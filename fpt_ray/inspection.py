"""Every image read and decoded once, in parallel, before anything expensive starts; what was found is remembered."""

import hashlib
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import ray
from tqdm import tqdm

from fpt_ray.datasets import ImageRow, ImageTable, accept, inspect_image
from fpt_ray.ray_session import ray_session

_CHUNK = 32


def inspected(table: ImageTable, workdir: str, *, local: bool = False) -> ImageTable:
    """The table with content hashes, without the few images that cannot be read.

    Findings are kept in ``workdir/images`` by path, size and time of change, so that a second call reads no image.

    Raises:
        ConfigError: more than 1 % cannot be read, or a class is missing from a split then.
    """
    cache = Path(workdir) / "images" / f"{hashlib.sha256(table.root.encode()).hexdigest()[:16]}.json"
    known: dict[str, list[str]] = json.loads(cache.read_text()) if cache.exists() else {}
    stamps = [_stamp(table.root, row) for row in table.rows]
    todo = [(stamp, row) for stamp, row in zip(stamps, table.rows, strict=True) if stamp not in known]
    if todo:
        known = {stamp: known[stamp] for stamp in stamps if stamp in known}
        with ray_session(local=local):
            known |= _inspect_all(table.root, todo)
        _write(cache, known)
    return accept(table, [(known[stamp][0], known[stamp][1]) for stamp in stamps])


def _stamp(root: str, row: ImageRow) -> str:
    try:
        stat = os.stat(os.path.join(root, row.path))
    except OSError:
        return f"{row.path}|gone"
    return f"{row.path}|{stat.st_size}|{stat.st_mtime_ns}"


def _inspect_all(root: str, todo: list[tuple[str, ImageRow]]) -> dict[str, list[str]]:
    chunks = [{"chunk": todo[start : start + _CHUNK]} for start in range(0, len(todo), _CHUNK)]
    dataset = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map(partial(_inspect_chunk, root=root))
    found: dict[str, list[str]] = {}
    with tqdm(total=len(todo), unit="image", desc="inspect", mininterval=1) as progress:
        for row in dataset.iter_rows():
            part = json.loads(row["found"])
            found |= part
            progress.update(len(part))
    return found


def _inspect_chunk(row: dict[str, Any], root: str) -> dict[str, str]:
    return {"found": json.dumps({stamp: inspect_image(root, image) for stamp, image in row["chunk"]})}


def _write(path: Path, known: dict[str, list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(known))
    os.replace(temporary, path)
