"""Every image read and decoded once, in parallel, before anything expensive starts; what was found is remembered."""

import hashlib
import json
from functools import partial
from typing import Any

import ray
from tqdm.auto import tqdm

from fpt_ray.cluster import ray_session
from fpt_ray.display.terminal import say
from fpt_ray.images.splits import imbalance, with_hashed_splits
from fpt_ray.images.table import ImageRow, ImageTable, accept, check_splits, inspect_image
from fpt_ray.storage.errors import StorageError
from fpt_ray.storage.files import exists, read_bytes, stamps, write

_CHUNK = 32


def inspected(table: ImageTable, workdir: str, *, local: bool = False) -> ImageTable:
    """The table with content hashes and a split for every image, without the few images that cannot be read.

    A table that has the hashes is taken as it is; whoever reads an image then sees whether it still is that one.

    Findings are kept in ``workdir/images`` by path, size and time of change, so that a second call reads no image.

    Raises:
        StorageError: S3 fails.
        ConfigError: more than 1 % cannot be read, or a class is missing from a split.
    """
    if all(row.sha256 for row in table.rows):
        return _divided(accept(table, [(row.sha256, "") for row in table.rows]))
    cache = f"{workdir}/images/{hashlib.sha256(table.root.encode()).hexdigest()[:16]}.json"
    known: dict[str, list[str]] = json.loads(read_bytes(cache)) if exists(cache) else {}
    found = stamps(table.root, [row.path for row in table.rows])
    todo = [(stamp, row) for stamp, row in zip(found, table.rows, strict=True) if stamp not in known]
    if todo:
        known = {stamp: known[stamp] for stamp in found if stamp in known}
        with ray_session(local=local):
            known |= _inspect_all(table.root, todo)
        write(cache, json.dumps(known).encode())
    return _divided(accept(table, [(known[stamp][0], known[stamp][1]) for stamp in found]))


def _divided(accepted: ImageTable) -> ImageTable:
    """With a split for every image."""
    if all(row.split for row in accepted.rows):
        return accepted
    divided = with_hashed_splits(accepted)
    check_splits(divided.rows, divided.classes, divided.root)
    say(f"images: split by a hash of {'group' if divided.rows[0].group else 'content'}: {imbalance(divided)}")
    return divided


def _inspect_all(root: str, todo: list[tuple[str, ImageRow]]) -> dict[str, list[str]]:
    chunks = [{"chunk": todo[start : start + _CHUNK]} for start in range(0, len(todo), _CHUNK)]
    dataset = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map(partial(_inspect_chunk, root=root))
    found: dict[str, list[str]] = {}
    with tqdm(total=len(todo), unit="image", desc="inspect", mininterval=1) as progress:
        for row in dataset.iter_rows():
            if row["error"]:
                raise StorageError(row["error"])
            part = json.loads(row["found"])
            found |= part
            progress.update(len(part))
    return found


def _inspect_chunk(row: dict[str, Any], root: str) -> dict[str, str]:
    try:
        found = {stamp: inspect_image(root, image) for stamp, image in row["chunk"]}
    except StorageError as error:
        return {"found": "", "error": str(error)}
    return {"found": json.dumps(found), "error": ""}
