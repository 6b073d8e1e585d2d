"""How the file of an image becomes the square of 8-bit RGB that the LPM sees: one value, part of a store's identity.

The options of ``features`` begin with it, and so does what a store says of itself; a bundle that predicts has it, too.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from fpt_ray.errors import ConfigError

Intensity = Literal["full", "window", "percentile"]
Aspect = Literal["squash", "pad", "crop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """What is done to the pixels of a file. The defaults are the authors'."""

    resolution: int = 512
    """The side of the square high-resolution input I_h, in pixels."""
    intensity: Intensity = "full"
    """What becomes black and white where grey values have more than 8 bits, or are DICOM's: the ends of their type's
    range, those of the window, or the image's own percentiles. Other images of 8 bits are taken as they are."""
    window: tuple[float, float] | None = None
    """The centre and the width of the window, in the file's values (of DICOM, rescaled: Hounsfield units). Default: the
    window or table that the DICOM file has."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """The percentiles of an image's values that become black and white."""
    aspect: Aspect = "squash"
    """How an image becomes a square: stretched, as the authors do it, with black bars, or cut down to its middle."""
    crop_black: int | None = None
    """The border is cut off, up to the first row and column that have a value above this, of 255 (fundus photographs:
    10). Default: nothing is cut off."""
    srgb: bool = False
    """Colours are converted from the colour profile that a file has to sRGB. Without, its numbers are taken."""
    reduced_scale: bool = False
    """JPEG and JPEG 2000 are decoded at the least of 1/2, 1/4 and 1/8 of their size whose shorter side is twice the
    resolution or more: large images take less time and memory, and have slightly other pixels. Without, whole."""

    def __post_init__(self) -> None:
        low, high = self.percentiles
        if not self.resolution > 0:
            raise ConfigError(f"features.resolution is {self.resolution!r}; it must be larger than 0")
        if self.window is not None and not self.window[1] > 1:
            raise ConfigError(f"features.window is {self.window!r}; give a centre and a width larger than 1")
        if not 0 <= low < high <= 100:
            raise ConfigError(f"features.percentiles is {self.percentiles!r}; give two of 0 to 100, rising")
        if self.crop_black is not None and not 0 <= self.crop_black < 255:
            raise ConfigError(f"features.crop_black is {self.crop_black!r}; give a value of 0 to 254")

    @property
    def preparation(self) -> "Preparation":
        """These settings alone, of a record that has others too."""
        return Preparation(**{item.name: getattr(self, item.name) for item in dataclasses.fields(Preparation)})

    @property
    def chosen(self) -> dict[str, Any]:
        """{name: value} of these settings where they are not the defaults; without the resolution, which is any."""
        usual, own = Preparation(), dataclasses.asdict(self.preparation)
        return {name: value for name, value in own.items() if name != "resolution" and value != getattr(usual, name)}
