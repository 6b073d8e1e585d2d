"""What a server takes at most, checked once at the door."""

from dataclasses import dataclass

from fpt_ray.errors import ConfigError
from fpt_ray.images.decoding import MAX_BYTES, MAX_PIXELS

_FLAGS = {"request_bytes": ("request_mib",), "image_pixels": ("image_megapixels",)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """At most so much; what is beyond is refused with a reason, before it is read, decoded or waited for.

    Raises:
        ConfigError: one of them is less than 1, or more than images may have at all.
    """

    request_bytes: int
    """Of the body of a request."""
    request_images: int
    image_pixels: int
    """By the header of its file."""
    requests: int
    """At once: being received, waiting, or computed."""

    def __post_init__(self) -> None:
        for name, most in (("request_bytes", MAX_BYTES), ("image_pixels", MAX_PIXELS)):
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name):,}; give 1 to {most:,}", fields=_FLAGS[name])
        for name in ("request_images", "requests"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 1 or more", fields=(name,))
