"""Pictures inside a page: PNG files as text."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from fpt_ray.report.page.bundles import BundleText
from fpt_ray.storage.files import read_bytes

MOST_BYTES = 12_000_000
"""Of all pictures from bundles in a page; what is beyond is counted, and left where it is."""
_PNG = b"\x89PNG\r\n\x1a\n"
_CAPTIONS = {"reliability": "Reliability: how often the answer is right, against how sure it is"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """A picture, and what is said below it."""

    caption: str
    data: str
    """Its address, which holds all of it."""


def png_address(content: bytes) -> str:
    """The address of a picture that holds all of it."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def embedded(bundles: Sequence[BundleText]) -> tuple[dict[int, list[Embedded]], int]:
    """({trial: the pictures of its bundle}, how many had no room), the bundles in this order.

    Raises:
        StorageError: S3 fails.
    """
    found: dict[int, list[Embedded]] = {}
    room, left_out = MOST_BYTES, 0
    for bundle in bundles:
        for uri, size in bundle.pictures.items():
            if size > room:
                left_out += 1
                continue
            content = read_bytes(uri)
            if not content.startswith(_PNG):
                continue
            room -= size
            picture = Embedded(caption=_caption(uri), data=png_address(content))
            found.setdefault(bundle.number, []).append(picture)
    return found, left_out


def _caption(uri: str) -> str:
    """What a picture shows, by its name."""
    name = uri.rpartition("/")[2].removesuffix(".png")
    return _CAPTIONS.get(name, name.replace("_", " "))
