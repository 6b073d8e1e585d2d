"""The images that a bundle was made with, by the table that lies in its working directory."""

from collections.abc import Sequence

from fpt_ray.images.table import read_images
from fpt_ray.storage.files import absolute, exists
from fpt_ray.train.bundle import Bundle


def table_uri(bundle: Bundle, workdir: str) -> str:
    """Where the table of a bundle's images lies, if that is its working directory."""
    return f"{absolute(workdir)}/tables/{bundle.data['images_digest'][:12]}.parquet"


def learnt_from(hashes: Sequence[str], bundle: Bundle, workdir: str) -> int | None:
    """How many of some images, by their content hashes in hex, are of the bundle's training or validation images.

    None: its table is not there, so that nobody can tell.

    Raises:
        ConfigError: the table is damaged.
        StorageError: S3 fails.
    """
    uri = table_uri(bundle, workdir)
    if not exists(uri):
        return None
    table = read_images(uri)
    known = {row.tobytes().hex() for split in ("train", "val") for row in table.hashes()[table.of(split)]}
    return sum(one in known for one in hashes)
