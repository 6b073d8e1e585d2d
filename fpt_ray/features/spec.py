"""What a feature store holds: the spec that determines it, and its columns. Pure; see ``shards``, ``store`` for files.

One row an image, known by the hash of its content. Keys and values lie in bands of neighbouring token ranks, best
first, a column for each band, block and kind: ``keys_06_0051`` holds LPM block 6, ranks from 51. So a smaller token
ratio reads fewer bands (a prefix), other blocks other columns, and one store serves every trial that asks for no more.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fpt_ray.config.identity import digest_of
from fpt_ray.config.preparation import Preparation
from fpt_ray.config.space import StoreNeed
from fpt_ray.config.trial import Importance, reads_images
from fpt_ray.errors import ConfigError
from fpt_ray.models.backbone import backbone_shape, kept_tokens, listed_blocks

SCHEMA_VERSION = 2
"""1: rows with labels and splits, one set of images a store; 2: rows by content hash, generations of manifests."""
SUMMARIES = "summaries"
"""The column of the class token and the mean patch token of every block of the LPM."""
BYTES_OF = {"float16": 2, "bfloat16": 2, "float32": 4}
_BANDS = 8


class StoreError(ConfigError):
    """A feature store cannot be used; the message names what differs and the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSpec(Preparation):
    """What determines a store's content: the first part is asked for, the second follows from the backbone."""

    backbone: str
    weights_digest: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    importance: Importance
    dtype: str
    precision: str
    blocks: tuple[int, ...]
    """The stored blocks of the LPM, from 0; none: images alone, for methods that run the LPM."""
    num_kept: int
    """Widest T: tokens stored of each head."""
    low_resolutions: tuple[int, ...]
    """Sides of the stored images in pixels: each I_l or, of images alone, I_h."""
    schema_version: int = SCHEMA_VERSION
    backbone_depth: int
    num_heads: int
    head_width: int
    num_tokens: int

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all fields.

        How pixels are prepared counts where it differs from the default: so a store is found that was made before there
        was a choice, or before there was this one.
        """
        return digest_of(self.identity)

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that count for the digest."""
        usual = {item.name for item in dataclasses.fields(Preparation)} - {"resolution", *self.chosen}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in usual}

    @property
    def name(self) -> str:
        """A readable name and twelve digits of the digest."""
        backbone = self.backbone.replace("/", "-")
        if not self.blocks:
            return f"images-{self.low_resolutions[0]}px-{backbone}-{self.digest[:12]}"
        return f"{backbone}-{self.resolution}px-{self.num_kept}tok-{len(self.blocks)}blocks-{self.digest[:12]}"

    @property
    def width(self) -> int:
        """D of the LPM."""
        return self.num_heads * self.head_width

    @property
    def bands(self) -> list[range]:
        """The token ranks of every band."""
        band = math.ceil(self.num_kept / _BANDS)
        starts = range(0, self.num_kept, band or 1)
        return [range(start, min(start + band, self.num_kept)) for start in starts]

    @property
    def token_dtype(self) -> str:
        """The type of the numbers of the kept tokens: of two bytes where they do not wrap."""
        return "uint16" if self.num_tokens <= 2**16 else "uint32"


def spec_from(document: Mapping[str, Any]) -> StoreSpec:
    """The spec whose fields stand in a manifest or bundle, as JSON has them."""
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
    }
    return StoreSpec(**plain)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """What is read of a store: keys and values of some blocks, the best ``num_kept`` tokens, images of some sizes."""

    blocks: tuple[int, ...]
    num_kept: int
    low_resolutions: tuple[int, ...]
    """A trial reads images of one size."""
    summaries: bool = False
    """Whether the class token and the mean patch token of every block are."""

    def with_other(self, other: "Slice") -> "Slice":
        """The slice that holds both."""
        return Slice(
            blocks=tuple(sorted({*self.blocks, *other.blocks})),
            num_kept=max(self.num_kept, other.num_kept),
            low_resolutions=tuple(sorted({*self.low_resolutions, *other.low_resolutions})),
            summaries=self.summaries or other.summaries,
        )

    def within(self, other: "Slice") -> "Slice":
        """What both hold."""
        return Slice(
            blocks=tuple(block for block in self.blocks if block in other.blocks),
            num_kept=min(self.num_kept, other.num_kept),
            low_resolutions=tuple(size for size in self.low_resolutions if size in other.low_resolutions),
            summaries=self.summaries and other.summaries,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureColumn:
    """A column of keys or values: one band of token ranks of one LPM block."""

    kind: str
    block: int
    """LPM block, from 0."""
    ranks: range

    @property
    def name(self) -> str:
        """Its kind, block and first rank."""
        return f"{self.kind}_{self.block:02d}_{self.ranks.start:04d}"


def feature_columns(spec: StoreSpec, cut: Slice) -> list[FeatureColumn]:
    """The columns of a slice; the last band may hold more ranks than the slice wants."""
    return [
        FeatureColumn(kind=kind, block=block, ranks=band)
        for kind in ("keys", "values")
        for block in cut.blocks
        for band in spec.bands
        if band.start < cut.num_kept
    ]


def image_column(resolution: int) -> str:
    """The column of the images of this size."""
    return f"low_res_{resolution:04d}"


def columns_of(spec: StoreSpec, cut: Slice) -> list[str]:
    """The columns that a slice reads, beside the hashes."""
    images = [image_column(resolution) for resolution in cut.low_resolutions]
    summaries = [SUMMARIES] if cut.summaries else []
    return [*images, *summaries, *(column.name for column in feature_columns(spec, cut))]


def everything(spec: StoreSpec) -> Slice:
    """The slice that holds all of a store that training can read."""
    return Slice(
        blocks=spec.blocks,
        num_kept=spec.num_kept,
        low_resolutions=spec.low_resolutions,
        summaries=bool(spec.blocks),
    )


def column_widths(spec: StoreSpec) -> dict[str, int]:
    """Bytes of one cell of every column of raw bytes."""
    number = BYTES_OF[spec.dtype]
    widths = {image_column(resolution): 3 * resolution**2 for resolution in spec.low_resolutions}
    if not spec.blocks:
        return widths
    token = 2 if spec.token_dtype == "uint16" else 4
    widths[SUMMARIES] = spec.backbone_depth * 2 * spec.width * number
    widths |= {f"tokens_{block:02d}": token * spec.num_heads * spec.num_kept for block in spec.blocks}
    columns = feature_columns(spec, everything(spec))
    return widths | {column.name: len(column.ranks) * spec.width * number for column in columns}


def bytes_per_row(spec: StoreSpec) -> int:
    """Bytes an image takes in the store, its hash aside."""
    return sum(column_widths(spec).values())


def store_spec(need: StoreNeed, *, weights_digest: str = "", precision: str = "float32") -> StoreSpec:
    """What determines the store that serves these trials, or the images of trials that read those.

    The digest may be left empty where only the size of the store matters; ``precision`` is the LPM's, resolved. Images
    do not depend on the LPM: of those alone, what configures its features is always the same.

    Raises:
        ConfigError: the LPM does not have the blocks.
    """
    trial = need.trial
    features, shape, images_alone = trial.features, backbone_shape(trial.backbone.name), reads_images(trial)
    num_tokens = shape.num_tokens(features.resolution)
    blocks = {block for text, depth in need.blocks for block in listed_blocks(text, depth, shape)}
    return StoreSpec(
        backbone=shape.name,
        weights_digest="" if images_alone else weights_digest,
        **dataclasses.asdict(features.preparation),
        mean=features.mean or shape.mean,
        std=features.std or shape.std,
        importance="global" if images_alone else features.importance,
        dtype="float16" if images_alone else features.dtype,
        precision="float32" if images_alone else precision,
        blocks=() if images_alone else tuple(sorted(blocks)),
        num_kept=0 if images_alone else kept_tokens(num_tokens, features.token_ratio),
        low_resolutions=(features.resolution,) if images_alone else need.side_resolutions,
        backbone_depth=shape.depth,
        num_heads=shape.num_heads,
        head_width=shape.head_width,
        num_tokens=num_tokens,
    )
