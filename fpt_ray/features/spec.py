"""What a feature store holds: the spec that determines it, and its columns. Pure; see ``shards``, ``store`` for files.

One row an image. Keys and values lie in bands of neighbouring token ranks, best first, a column for each band, layer
and kind: ``keys_06_0051`` holds LPM block 6, ranks from 51. So a smaller token ratio reads fewer bands (a prefix), a
smaller depth fewer layers (a suffix), and one store written at the widest point serves every trial.
"""

import dataclasses
import math
from dataclasses import dataclass

from fpt_ray.config.identity import digest_of
from fpt_ray.config.trial import Importance, TrialConfig, image_resolution, reads_images
from fpt_ray.errors import ConfigError
from fpt_ray.models.backbone import backbone_shape, kept_tokens

SCHEMA_VERSION = 2
"""1: rows in the order of paths; 2: in the order of content hashes."""
BYTES_OF = {"float16": 2, "bfloat16": 2, "float32": 4}
_BANDS = 8


class StoreError(ConfigError):
    """A feature store cannot be used; the message names what differs and the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSpec:
    """What determines a store's content: the first part is asked for, the second follows from the backbone."""

    backbone: str
    weights_digest: str
    resolution: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    importance: Importance
    dtype: str
    precision: str
    depth: int
    """Widest: the last ``depth`` blocks of the LPM are stored; 0: images alone, for methods that run the LPM."""
    num_kept: int
    """Widest T: tokens stored of each head."""
    low_resolution: int
    """Side of the stored images in pixels: the widest I_l or, of images alone, I_h."""
    images_digest: str
    schema_version: int = SCHEMA_VERSION
    backbone_depth: int
    num_heads: int
    head_width: int
    num_tokens: int

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all fields."""
        return digest_of(dataclasses.asdict(self))

    @property
    def name(self) -> str:
        """A readable name and twelve digits of the digest."""
        backbone = self.backbone.replace("/", "-")
        if not self.depth:
            return f"images-{self.low_resolution}px-{backbone}-{self.digest[:12]}"
        return f"{backbone}-{self.resolution}px-{self.num_kept}tok-{self.depth}layers-{self.digest[:12]}"

    @property
    def layers(self) -> range:
        """Stored blocks of the LPM, from 0."""
        return range(self.backbone_depth - self.depth, self.backbone_depth)

    @property
    def band(self) -> int:
        """Token ranks in one band."""
        return math.ceil(self.num_kept / _BANDS)

    @property
    def bands(self) -> list[range]:
        """The token ranks of every band."""
        starts = range(0, self.num_kept, self.band)
        return [range(start, min(start + self.band, self.num_kept)) for start in starts]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """What a trial reads of a store: the last ``depth`` stored layers (0: none), the best ``num_kept`` tokens."""

    depth: int
    num_kept: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureColumn:
    """A column of keys or values: one band of token ranks of one LPM block."""

    kind: str
    layer: int
    """LPM block, from 0."""
    ranks: range

    @property
    def name(self) -> str:
        """Its kind, block and first rank."""
        return f"{self.kind}_{self.layer:02d}_{self.ranks.start:04d}"


def feature_columns(spec: StoreSpec, cut: Slice) -> list[FeatureColumn]:
    """The columns of a slice; the last band may hold more ranks than the slice wants."""
    layers = list(spec.layers)[len(spec.layers) - cut.depth :]
    return [
        FeatureColumn(kind=kind, layer=layer, ranks=band)
        for kind in ("keys", "values")
        for layer in layers
        for band in spec.bands
        if band.start < cut.num_kept
    ]


def column_widths(spec: StoreSpec) -> dict[str, int]:
    """Bytes of one cell of every column of raw bytes."""
    token_bytes = spec.num_heads * spec.head_width * BYTES_OF[spec.dtype]
    widths = {"low_res": 3 * spec.low_resolution**2}
    widths |= {f"tokens_{layer:02d}": 2 * spec.num_heads * spec.num_kept for layer in spec.layers}
    everything = Slice(depth=spec.depth, num_kept=spec.num_kept)
    return widths | {column.name: len(column.ranks) * token_bytes for column in feature_columns(spec, everything)}


def bytes_per_row(spec: StoreSpec) -> int:
    """Bytes an image takes in the store, names and numbers aside."""
    return sum(column_widths(spec).values())


def store_spec(
    trial: TrialConfig, *, weights_digest: str = "", images_digest: str = "", precision: str = "float32"
) -> StoreSpec:
    """What determines the store that serves this trial and all narrower ones, or the images of trials that read them.

    Digests may be left empty where only the size of the store matters; ``precision`` is the LPM's, resolved. Images
    do not depend on the LPM: of those alone, what configures its features is always the same.
    """
    features, shape, images_alone = trial.features, backbone_shape(trial.backbone.name), reads_images(trial)
    num_tokens = shape.num_tokens(features.resolution)
    return StoreSpec(
        backbone=shape.name,
        weights_digest=weights_digest,
        resolution=features.resolution,
        mean=features.mean or shape.mean,
        std=features.std or shape.std,
        importance="global" if images_alone else features.importance,
        dtype="float16" if images_alone else features.dtype,
        precision="float32" if images_alone else precision,
        depth=0 if images_alone else trial.side.depth,
        num_kept=0 if images_alone else kept_tokens(num_tokens, features.token_ratio),
        low_resolution=image_resolution(trial),
        images_digest=images_digest,
        backbone_depth=shape.depth,
        num_heads=shape.num_heads,
        head_width=shape.head_width,
        num_tokens=num_tokens,
    )
