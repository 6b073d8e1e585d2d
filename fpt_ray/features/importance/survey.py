"""Goes through a store's tokens and measures them, block by block and ratio by ratio."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions when it is imported)

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Bool, Int
from tqdm.auto import tqdm

from fpt_ray.errors import ConfigError
from fpt_ray.features.importance.findings import Findings
from fpt_ray.features.importance.measures import (
    beside_kept,
    chance_of_touching,
    kept_of,
    shared_by_heads,
    shared_by_images,
    touched,
)
from fpt_ray.features.joining import Features, join
from fpt_ray.features.shards import HASH, cell_view, damage_as_error, open_shard
from fpt_ray.features.spec import column_widths
from fpt_ray.features.store import Store, read_index
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.dicom import is_dicom
from fpt_ray.images.splits import with_hashed_splits
from fpt_ray.images.table import ImageTable
from fpt_ray.models.backbone import backbone_shape, kept_tokens
from fpt_ray.storage.files import read_bytes

_THREADS = 8
"""Images that are read at once: on S3, requests."""
_SPLITS = ("train", "val")
"""The test split is read once, when a study is scored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockFigures:
    """What was found of one block at one ratio. Shares are in 0..1; ``kept / num_tokens`` is that of all tokens."""

    block: int
    """From 0."""
    ratio: float
    kept: int
    """Tokens of each head."""
    heads: float
    """See ``measures.shared_by_heads``."""
    images: float
    """See ``measures.shared_by_images``."""
    neighbours: float
    """See ``measures.beside_kept``."""
    touched: float | None
    """Of known findings and heads, the share where the head keeps a token of the finding; None: no boxes were given."""
    touched_by_best: float | None
    """The same of the head that keeps most."""
    chance: float | None
    """What ``touched`` would be of tokens drawn at random."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What was found of a store."""

    num_images: int
    num_findings: int
    num_tokens: int
    figures: tuple[BlockFigures, ...]
    """By block, then by ratio."""


# --- which images -------------------------------------------------------------------------------------------------


def stored_table(table: ImageTable, store: Store) -> ImageTable:
    """The images of a table that are in the store, with content hashes and splits as ``preload`` gives them.

    Files whose hash the table does not give are read for it.

    Raises:
        ConfigError: none is in the store, a file is missing, or ``preload`` divides them by what DICOM files say, which
            is not looked up here.
    """
    of_patients = pc.any(pc.ends_with(table.paths, ".dcm", ignore_case=True)).as_py()
    if table.hashes_ is None:
        with ThreadPoolExecutor(_THREADS) as pool:
            uris = (f"{table.root}/{path}" for path in table.paths)
            reading = list(tqdm(pool.map(_looked_at, uris), "hashing images", len(table), mininterval=1))
        found = np.frombuffer(b"".join(sha256 for sha256, _ in reading), np.uint8).reshape(-1, 32)
        table, of_patients = dataclasses.replace(table, hashes_=found), any(dicom for _, dicom in reading)
    if of_patients and table.groups is None and not table.is_divided:
        raise ConfigError(
            f"images: {table.root} has DICOM files without splits and groups, which are divided by the patients that "
            "they name; give the table of a study, WORKDIR/studies/NAME/images.parquet, or one of `fpt-ray datasets "
            "split`: else test images might be measured"
        )
    inside = np.flatnonzero(read_index(store).find(table.hashes()) >= 0)
    if not len(inside):
        raise ConfigError(f"{store.uri} has none of the images of {table.root}; give those that it was made of")
    return with_hashed_splits(table.take(inside))


def _looked_at(uri: str) -> tuple[bytes, bool]:
    """A file's SHA-256, and whether it is DICOM."""
    try:
        data = read_bytes(uri)
    except OSError as error:
        raise ConfigError(f"images: {uri} cannot be read ({error.strerror})") from None
    return hashlib.sha256(data).digest(), is_dicom(data)


def sampled(table: ImageTable, max_images: int) -> ImageTable:
    """So many training and validation images at most, those of the smallest hashes: as good as drawn at random."""
    order = table.by_hash()
    numbers = [SPLITS.index(split) for split in _SPLITS]
    return table.take(order[np.isin(table.splits[order], numbers)][:max_images])


# --- measuring ----------------------------------------------------------------------------------------------------


def survey(store: Store, table: ImageTable, ratios: Sequence[float], findings: Findings | None) -> Survey:
    """Measures the tokens of a table's images.

    Raises:
        ConfigError: a ratio is more than the store holds, or the store has no features.
        StoreError: a shard is damaged or missing.
        StorageError: S3 fails.
    """
    spec = store.spec
    if not spec.blocks:
        raise ConfigError(f"{store.uri} holds images alone, and no tokens")
    numbers = {ratio: kept_tokens(spec.num_tokens, ratio) for ratio in ratios}
    for ratio, number in numbers.items():
        if number > spec.num_kept:
            most = spec.num_kept / spec.num_tokens
            raise ConfigError(f"ratios: {ratio} is {number} tokens, {store.uri} holds {spec.num_kept} ({most:.3g})")
    tallies = {
        (block, ratio): _Tally(number, spec.num_heads, spec.num_tokens)
        for block in spec.blocks
        for ratio, number in numbers.items()
    }
    features, num_prefix = join(store, table), backbone_shape(spec.backbone).num_prefix_tokens
    for block, tokens, hashes in _stored_tokens(features):
        for ratio, number in numbers.items():
            kept = kept_of(tokens[:, :, :number], spec.num_tokens)
            tallies[block, ratio].add(kept, hashes, findings, num_prefix)
    first = next(iter(tallies.values()))
    return Survey(
        num_images=first.num_images,
        num_findings=first.num_findings,
        num_tokens=spec.num_tokens,
        figures=tuple(tally.figures(block, ratio) for (block, ratio), tally in tallies.items()),
    )


def _stored_tokens(
    features: Features,
) -> Iterator[tuple[int, Int[np.ndarray, "images heads ranks"], Sequence[bytes]]]:
    """(block, its tokens, the images' hashes) of every shard and block."""
    spec, widths = features.spec, column_widths(features.spec)
    names = {block: f"tokens_{block:02d}" for block in spec.blocks}
    wanted = features.rows_by_shard(_SPLITS)
    for shard, rows in tqdm(wanted.items(), desc="reading tokens", unit="shard", mininterval=1):
        uri = features.shard_uri(shard)
        with damage_as_error(uri):
            file = open_shard(uri, spec)
            size = features.shards[shard].group_rows
            groups = np.unique(rows // size)
            table = file.read_row_groups(groups.tolist(), columns=[HASH, *names.values()]).combine_chunks()
        at = np.searchsorted(groups, rows // size) * size + rows % size
        hashes = [bytes(one) for one in cell_view(table[HASH].chunk(0), 32)[at]]
        for block, name in names.items():
            cells = cell_view(table[name].chunk(0), widths[name])[at]
            tokens = np.ascontiguousarray(cells).view(spec.token_dtype).astype(np.int64)
            yield block, tokens.reshape(len(at), spec.num_heads, spec.num_kept), hashes


@dataclass(slots=True)
class _Tally:
    """What has been counted so far of a block at a ratio."""

    number: int
    heads: int
    tokens: int
    num_images: int = 0
    num_findings: int = 0
    shared: float = 0.0
    times: np.ndarray = field(init=False)
    beside: int = 0
    possible: int = 0
    touched: np.ndarray = field(init=False)
    chance: float = 0.0

    def __post_init__(self) -> None:
        self.times, self.touched = np.zeros((self.heads, self.tokens), np.int64), np.zeros(self.heads, np.int64)

    def add(
        self,
        kept: Bool[np.ndarray, "images heads tokens"],
        hashes: Sequence[bytes],
        findings: Findings | None,
        num_prefix: int,
    ) -> None:
        self.num_images += len(kept)
        self.shared += len(kept) * shared_by_heads(kept)
        self.times += kept.sum(axis=0)
        beside, possible = beside_kept(kept, num_prefix)
        self.beside, self.possible = self.beside + beside, self.possible + possible
        for image, sha256 in zip(kept, hashes, strict=True):
            for patches in (findings or {}).get(sha256, ()):
                self.num_findings += 1
                self.touched += touched(image, patches)
                self.chance += chance_of_touching(self.tokens, self.number, len(patches))

    def figures(self, block: int, ratio: float) -> BlockFigures:
        found = self.num_findings
        return BlockFigures(
            block=block,
            ratio=ratio,
            kept=self.number,
            heads=self.shared / self.num_images,
            images=shared_by_images(self.times, self.num_images, self.number),
            neighbours=self.beside / self.possible if self.possible else math.nan,
            touched=float(self.touched.mean()) / found if found else None,
            touched_by_best=float(self.touched.max()) / found if found else None,
            chance=self.chance / found if found else None,
        )
