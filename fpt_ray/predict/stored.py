"""What a frozen LPM makes of images that a feature store has already: it is read from there, and not computed again.

A store serves where its spec is the bundle's in all that determines a number, and it holds at least as much.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from fpt_ray.features.index import Index
from fpt_ray.features.joining import Features, SplitRows
from fpt_ray.features.places import ShardFiles
from fpt_ray.features.rows import Rows, check_serves
from fpt_ray.features.serving import WIDTH
from fpt_ray.features.spec import Slice, StoreError, StoreSpec
from fpt_ray.features.store import Store, open_store, read_index
from fpt_ray.models.importance import Extracted
from fpt_ray.storage.files import list_files

_ALL = "all"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stored:
    """A store, and where its images lie."""

    store: Store
    index: Index

    def places(self, hashes: Sequence[str]) -> Int[np.ndarray, " N"]:
        """Where in the index each image is, by its SHA-256 (hex); -1 where it has none."""
        return self.index.find(_as_bytes(hashes))

    def features(self, hashes: Sequence[str], spec: StoreSpec) -> Extracted:
        """The features of images that are in it, at a spec that it serves; which tokens they are of is not read.

        Raises:
            StoreError: a shard is damaged, or holds other images than the index says.
        """
        at, cut = self.places(hashes), _read_of(spec)
        rows = SplitRows(
            hashes=_as_bytes(hashes),
            labels=np.zeros(len(at), np.int64),
            shards=self.index.shards[at].astype(np.int64),
            rows=self.index.rows[at].astype(np.int64),
        )
        features = Features(
            uri=self.store.uri,
            spec=self.store.spec,
            shards=self.store.shards,
            classes=(),
            splits={_ALL: rows},
            table_digest="",
            data_note="",
            skipped=(),
        )
        batch = Rows(ShardFiles(features, cut), features, _ALL, cut).take(range(len(at)))
        assert batch.keys is not None
        assert batch.values is not None
        assert batch.summaries is not None
        unread = torch.empty(*batch.keys.shape[:3], 0, dtype=torch.int64)
        return Extracted(batch.keys, batch.values, unread, batch.summaries.permute(1, 2, 0, 3))


def serves(has: StoreSpec, asked: StoreSpec) -> bool:
    """Whether the features of a store are those that are asked for, or more of the same."""
    ours, theirs = has.identity, asked.identity
    try:
        check_serves(has, _read_of(asked))
    except StoreError:
        return False
    return all(ours.get(name) == theirs.get(name) for name in {*ours, *theirs} - {*WIDTH})


def stores_of(workdir: str, specs: Sequence[StoreSpec]) -> tuple[Stored, ...]:
    """The feature stores of a working directory that serve some of these specs.

    Raises:
        StoreError: the index of one of them is damaged.
        StorageError: S3 fails.
    """
    names = sorted({file.path.partition("/")[0] for file in list_files(f"{workdir}/features")}) if specs else []
    found = []
    for uri in (f"{workdir}/features/{name}" for name in names):
        try:
            store = open_store(uri)
        except StoreError:
            continue  # it is being made, or of another version: images can be looked at anew
        if any(serves(store.spec, spec) for spec in specs):
            found.append(Stored(store=store, index=read_index(store)))
    return tuple(found)


def merged(parts: Sequence[tuple[np.ndarray, Extracted]], count: int) -> Extracted:
    """The features of so many images, from parts that each say which of them they have."""
    whole = []
    for name, axis in (("keys", 1), ("values", 1), ("summaries", 2)):
        tensors: list[Tensor] = [getattr(part, name) for _, part in parts]
        shape = list(tensors[0].shape)
        shape[axis] = count
        tensor = torch.empty(shape, dtype=tensors[0].dtype)
        for (at, _), one in zip(parts, tensors, strict=True):
            tensor.index_copy_(axis, torch.from_numpy(at), one)
        whole.append(tensor)
    keys, values, summaries = whole
    return Extracted(keys, values, torch.empty(*keys.shape[:3], 0, dtype=torch.int64), summaries)


def _read_of(spec: StoreSpec) -> Slice:
    return Slice(blocks=spec.blocks, num_kept=spec.num_kept, low_resolutions=(), summaries=True)


def _as_bytes(hashes: Sequence[str]) -> UInt8[np.ndarray, "N 32"]:
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(-1, 32)
