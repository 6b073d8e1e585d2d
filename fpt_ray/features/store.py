"""A feature store as a whole: the manifest, written last and once, and what is checked before a store is used."""

import dataclasses
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from fpt_ray import __version__
from fpt_ray.features.shards import ShardEntry, check_schema, open_shard
from fpt_ray.features.spec import SCHEMA_VERSION, Slice, StoreError, StoreSpec, column_widths, feature_columns
from fpt_ray.images.sources import SPLITS
from fpt_ray.storage.errors import ExistsError
from fpt_ray.storage.files import absolute, exists, list_files, read_bytes, write_once

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """A finished store, opened."""

    uri: str
    spec: StoreSpec
    classes: tuple[str, ...]
    shards: tuple[ShardEntry, ...]
    skipped: tuple[tuple[str, str], ...]
    data_note: str
    manifest_text: str

    def num_rows(self, split: str) -> int:
        """Images of a split."""
        return sum(shard.rows for shard in self.shards if shard.split == split)

    @property
    def preload_seconds(self) -> float:
        """Seconds that the LPM and the writing took, over all actors."""
        return sum(shard.seconds for shard in self.shards)

    def shard_uris(self, split: str) -> list[str]:
        """The files of a split, in the order of its rows."""
        return [f"{self.uri}/{shard.path}" for shard in self.shards if shard.split == split]

    def row_ranges(self, split: str) -> list[range]:
        """The row ids of each file of a split."""
        stops = list(itertools.accumulate((shard.rows for shard in self.shards if shard.split == split), initial=0))
        return [range(*ends) for ends in itertools.pairwise(stops)]

    def columns(self, cut: Slice) -> list[str]:
        """The columns a trial reads."""
        return ["row", "label", "low_res", *(column.name for column in feature_columns(self.spec, cut))]

    def column_bytes(self, columns: Sequence[str], splits: Sequence[str]) -> int:
        """Bytes of these columns over these splits."""
        widths = {**column_widths(self.spec), "row": 8, "label": 8}
        return sum(widths.get(column, 64) for column in columns) * sum(self.num_rows(split) for split in splits)


def write_manifest(
    uri: str,
    spec: StoreSpec,
    classes: Sequence[str],
    shards: Sequence[ShardEntry],
    skipped: Sequence[tuple[str, str]] = (),
    data_note: str = "",
) -> None:
    """Writes the manifest, last and once: from then on the store is finished.

    If another writer was first with the same shards, its manifest stands.

    Raises:
        ExistsError: another writer was first with other shards.
    """
    document = {
        "schema_version": spec.schema_version,
        "spec": dataclasses.asdict(spec),
        "classes": list(classes),
        "shards": [dataclasses.asdict(shard) for shard in shards],
        "skipped": [list(pair) for pair in skipped],
        "data_note": data_note,
        "fpt_ray": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    try:
        write_once(f"{uri}/{MANIFEST}", json.dumps(document, indent=1).encode())
    except ExistsError:
        if _contents(read_manifest(uri).shards) != _contents(shards):
            raise ExistsError(
                f"{uri}: another preload finished this store first, with other shards; its manifest exists already and "
                "was left as it is; start again to use it"
            ) from None


def _contents(shards: Sequence[ShardEntry]) -> dict[str, tuple[int, str]]:
    return {shard.path: (shard.rows, shard.sha256) for shard in shards}


def open_store(uri: str, *, expect: StoreSpec | None = None) -> Store:
    """Opens a finished store; every shard must be there in its full size, the schema is checked, no value is read.

    Raises:
        StoreError: there is none, it is damaged, or it differs from what is expected.
    """
    uri = absolute(uri)
    store = read_manifest(uri)
    if expect is not None:
        check_same(store.spec, expect, uri)
    sizes = {file.path: file.bytes for file in list_files(uri)}
    for shard in store.shards:
        found = sizes.get(shard.path)
        if found != shard.bytes:
            fault = "is missing" if found is None else f"has {found} bytes, the manifest says {shard.bytes}"
            raise StoreError(f"{uri}/{shard.path} {fault}; delete the store and preload again")
    for split in SPLITS:
        for shard_uri in store.shard_uris(split)[:1]:
            check_schema(open_shard(shard_uri).schema_arrow, store.spec, shard_uri)
    return store


def check_same(found: StoreSpec, asked: StoreSpec, uri: str) -> None:
    """StoreError that names the first field in which a store differs from what is asked."""
    for item in dataclasses.fields(StoreSpec):
        has, wants = getattr(found, item.name), getattr(asked, item.name)
        if has != wants:
            raise StoreError(f"{uri}: {item.name} is {has!r}, asked is {wants!r}; preload a store for what is asked")


def read_manifest(uri: str) -> Store:
    """A finished store as its manifest tells it; no shard is looked at.

    Raises:
        StoreError: there is no manifest, or it cannot be used.
    """
    path = f"{uri}/{MANIFEST}"
    if not exists(path):
        raise StoreError(f"{uri} is no finished feature store (no {MANIFEST}); run fpt-ray preload")
    text = read_bytes(path)
    try:
        document = json.loads(text)
        version = document["schema_version"]
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{path}: schema_version is {version}, this program reads {SCHEMA_VERSION}; "
                + ("update fpt_ray" if version > SCHEMA_VERSION else "preload again")
            )
        spec = StoreSpec(**{**document["spec"], **{name: tuple(document["spec"][name]) for name in ("mean", "std")}})
        shards = tuple(ShardEntry(**shard) for shard in document["shards"])
        store = Store(
            uri=uri,
            spec=spec,
            classes=tuple(document["classes"]),
            shards=shards,
            skipped=tuple((path, reason) for path, reason in document["skipped"]),
            data_note=str(document["data_note"]),
            manifest_text=text.decode(),
        )
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is no manifest ({error}); delete the store and preload again") from None
    for shard in shards:
        if shard.split not in SPLITS or not _inside(shard.path):
            raise StoreError(f"{path}: the shard path {shard.path!r} leaves the store; do not use this store")
    return store


def _inside(path: str) -> bool:
    parts = path.split("/")
    return not path.startswith("/") and "\\" not in path and all(part not in ("", ".", "..") for part in parts)
