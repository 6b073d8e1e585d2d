"""A stratified split, frozen into a table beside the images."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import csv
import io

import pyarrow as pa
import pyarrow.compute as pc

from fpt_ray.config.tasks import ImagesOptions
from fpt_ray.datasets.checking import in_short, listed
from fpt_ray.datasets.checks.table_remarks import remarks_on
from fpt_ray.datasets.inspection import inspect
from fpt_ray.datasets.units import units_of
from fpt_ray.datasets.usable import without_unreadable
from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.labels import CLASS_TASKS, task_said
from fpt_ray.images.notes import note_of_csv
from fpt_ray.images.splits import stratified
from fpt_ray.images.table import ImageTable, read_images
from fpt_ray.storage.errors import ExistsError
from fpt_ray.storage.files import absolute, write_once

_ROWS = 2**14
"""That are at hand at once."""


def write_stratified(
    images: str, table: str | None, seed: int, options: ImagesOptions | None = None, *, workdir: str = "."
) -> str:
    """Writes path, label, split, group and weight of all images as CSV, and their note, if they have one.

    Returns what is said of it: where both are, how many images each split has, and the task, if it must be given.

    Images are inspected first, as ``inspection.inspect`` keeps it in the working directory: those of one group or DICOM
    patient, and those of the same pixels, have one split. What is odd is said; images that cannot be read are left out.

    Raises:
        ConfigError: the images have splits already, the task has no classes, a class is too small, more images cannot
            be read than may be left out, or the table would lie where it cannot name them; or it is there already,
            since to write it anew could move images between splits; or another note is.
        StorageError: S3 fails.
    """
    found = read_images(images, options)
    if found.fold:
        raise ConfigError("folds: they are not written down; give them where the images are used", fields=("folds",))
    if found.split_seed:
        raise ConfigError("split_seed: it is of a hash; give --seed to divide class by class", fields=("split_seed",))
    if found.task not in CLASS_TASKS:
        raise ConfigError(f"images: the task {found.task} has no classes to be divided; leave splits out, or give them")
    if found.is_divided:
        raise ConfigError(f"images: {images} has splits already; give images without, to have them divided")
    root = found.root
    uri = absolute(table or f"{root}/stratified.csv")
    folder = uri.rpartition("/")[0]
    if not uri.endswith(".csv") or not f"{root}/".startswith(f"{folder}/"):
        raise ConfigError(f"table is {uri}; give a .csv in {root} or above it, since its paths start there")
    below = f"{root}/".removeprefix(f"{folder}/")
    divided = _inspected_and_divided(found, seed, absolute(workdir))
    noted = _write_note(uri, found.note)  # first, so that no table is ever without
    try:
        write_once(uri, _csv_text(divided, below).encode())
    except ExistsError:
        raise ConfigError(f"table: {uri} is there already; give it as images, or another name") from None
    sizes = ", ".join(f"{len(divided.of(split))} {split}" for split in SPLITS)
    return "\n".join([uri, *noted, sizes, *_task_to_give(found)])


def _write_note(uri: str, note: str) -> list[str]:
    """Where the note of a table is now, if there is one."""
    if not note:
        return []
    try:
        write_once(note_of_csv(uri), f"{note}\n".encode())
    except ExistsError:
        raise ConfigError(
            f"{note_of_csv(uri)} is there already and is another; remove it, or give another --table"
        ) from None
    return [note_of_csv(uri)]


def _task_to_give(table: ImageTable) -> list[str]:
    """What is said where the names of the classes, all that a CSV table has, say another task."""
    if task_said({"label": pa.array(table.classes, pa.string())}) == table.task:
        return []
    return [f"give --task {table.task} with it from now on, since a CSV table does not keep that"]


def _inspected_and_divided(table: ImageTable, seed: int, workdir: str) -> ImageTable:
    whole, findings = without_unreadable(table, inspect(table.root, table.paths, workdir).findings)
    divided = stratified(whole, units_of(whole, findings), seed)
    own = findings.take(pc.index_in(divided.paths, value_set=whole.paths))
    for remark in remarks_on(divided, own):
        if remark.doubt == "unreadable":
            raise ConfigError(f"images: {listed(remark)}")
        say(f"images: {in_short(remark)}")
    return divided


def _csv_text(table: ImageTable, below: str) -> str:
    columns = {"path": "path", "label": "label", "split": "split"}
    columns |= {"group": "group"} if table.groups is not None else {}
    columns |= {"weight": "weight"} if table.weights is not None else {}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for first in range(0, len(table), _ROWS):
        for row in table.rows_at(range(first, min(first + _ROWS, len(table)))):
            cells = [f"{below}{row.path}", table.classes[row.label], row.split]
            writer.writerow(cells + [row.group] * ("group" in columns) + [row.weight] * ("weight" in columns))
    return text.getvalue()
