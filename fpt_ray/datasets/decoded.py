"""What inspection has decoded, kept in Ray's object store for extraction, and how much may be kept."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
from jaxtyping import UInt8

from fpt_ray.cluster import computing_hosts, on_every_host
from fpt_ray.config.preparation import Preparation
from fpt_ray.images.picture import Picture, square_of
from fpt_ray.storage.local import free_bytes

Decoded = Mapping[tuple[str, Preparation], Any]
"""{(content hash, how it was prepared): a reference to the square in Ray's object store, which spills it to disk}.
The driver owns them: they go when it drops this."""
_LEAST_BYTES = 2**17
"""Of an object: Ray holds results of less than 100 kB in the driver's own memory, which no spilling relieves."""
_MEMORY_SHARE, _DISK_SHARE = 0.5, 0.25
"""Of the hosts' object stores, and of the free disk that they spill to, what decoded images may fill."""


def kept_bytes(resolution: int) -> int:
    """What it takes to keep an image at this resolution."""
    return max(_LEAST_BYTES, 3 * resolution**2)


def is_kept(width: int | None, height: int | None, preparation: Preparation) -> bool:
    """Whether an image of this size is kept: one whose own pixels take less is sooner decoded again.

    None: it was not decoded. At a reduced scale extraction decodes it itself, since what inspection decodes is whole.
    """
    if width is None or height is None or preparation.reduced_scale:
        return False
    return 3 * width * height >= kept_bytes(preparation.resolution)


def keep(picture: Picture, preparation: Preparation) -> UInt8[np.ndarray, " bytes"]:
    """I_h of an image as a task of inspection returns it, for ``image_at``."""
    content = square_of(picture, preparation).reshape(-1)
    return np.pad(content, (0, kept_bytes(preparation.resolution) - content.size))


def room_for_decoded() -> int:
    """Bytes of decoded images that the cluster may keep: a share of its object stores and of the disk behind them."""
    hosts = computing_hosts()
    memory = sum(host.get("object_store_memory", 0.0) for host in hosts)
    free = on_every_host(_free_disk_bytes)  # which of them spills most is not known before
    return int(_MEMORY_SHARE * memory + _DISK_SHARE * len(free) * min(free, default=0))


def _free_disk_bytes() -> int:
    return free_bytes(ray.get_runtime_context().get_temp_dir())
