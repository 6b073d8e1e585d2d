"""What happens at random to the images that a network learns from, as a value."""

from dataclasses import dataclass

from fpt_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """How images are augmented where ``training.augment`` is on. The defaults are the authors'."""

    min_area: float = 0.8
    """The smallest share of an image's area that a random crop keeps; with 1, nothing is cropped."""
    horizontal_flip: float = 0.5
    """The probability that left and right change places."""
    vertical_flip: float = 0.0
    """The probability that top and bottom change places."""
    rotation_degrees: float = 0.0
    """The largest angle by which an image is turned, to either side."""
    blur_sigma: float = 0.0
    """The largest standard deviation of a Gaussian blur, in pixels of the image that is read."""
    jitter: float = 0.2
    """By how much brightness and contrast are changed at most, as a share of them."""

    def __post_init__(self) -> None:
        if not 0 < self.min_area <= 1:
            raise ConfigError(f"augment.min_area is {self.min_area!r}; it is a share, above 0 and at most 1")
        for name in ("horizontal_flip", "vertical_flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment.{name} is {getattr(self, name)!r}; it is a probability, of 0 to 1")
        if not 0 <= self.rotation_degrees <= 180:
            raise ConfigError(f"augment.rotation_degrees is {self.rotation_degrees!r}; give 0 to 180")
        if not 0 <= self.blur_sigma <= 20:
            raise ConfigError(f"augment.blur_sigma is {self.blur_sigma!r}; give 0 to 20 pixels")
        if not 0 <= self.jitter < 1:
            raise ConfigError(f"augment.jitter is {self.jitter!r}; it must be in [0, 1)")
