"""A feature store as a whole: the manifest, written last and once, and what is checked before a store is used."""

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fpt_ray import __version__
from fpt_ray.features import (
    SCHEMA_VERSION,
    SPLITS,
    Slice,
    StoreError,
    StoreSpec,
    column_widths,
    feature_columns,
)
from fpt_ray.shards import ShardEntry, check_schema, digest_of, open_shard
from fpt_ray.storage import ExistsError, exists, read_bytes, size, write_once


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

    def columns(self, cut: Slice) -> list[str]:
        """The columns a trial reads."""
        return ["row", "label", "low_res", *(name for name, _ in feature_columns(self.spec, cut))]

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
        write_once(f"{uri}/manifest.json", json.dumps(document, indent=1).encode())
    except ExistsError:
        if {shard.path: shard.rows for shard in _read_manifest(uri)[1].shards} != {s.path: s.rows for s in shards}:
            raise


def open_store(uri: str, *, expect: StoreSpec | None = None) -> Store:
    """Opens a finished store; every shard must be there in its full size, the schema is checked, no value is read.

    Raises:
        StoreError: there is none, it is damaged, or it differs from what is expected.
    """
    uri = uri.rstrip("/")
    if not exists(f"{uri}/manifest.json"):
        raise StoreError(f"{uri} is no finished feature store (no manifest.json); run python -m fpt_ray.preload")
    _, store = _read_manifest(uri)
    if expect is not None:
        check_same(store.spec, expect, uri)
    for shard in store.shards:
        found = size(f"{uri}/{shard.path}")
        if found != shard.bytes:
            what = "is missing" if found is None else f"has {found} bytes, the manifest says {shard.bytes}"
            raise StoreError(f"{uri}/{shard.path} {what}; delete the store and preload again")
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


def _read_manifest(uri: str) -> tuple[dict[str, Any], Store]:
    path = f"{uri}/manifest.json"
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
    return document, store


def _inside(path: str) -> bool:
    parts = path.split("/")
    return not path.startswith("/") and "\\" not in path and all(part not in ("", ".", "..") for part in parts)


def verify_store(store: Store, splits: Sequence[str] = SPLITS) -> None:
    """StoreError that names the first shard whose content is not what was written."""
    for shard in store.shards:
        if shard.split in splits and digest_of(f"{store.uri}/{shard.path}") != shard.sha256:
            raise StoreError(f"{store.uri}/{shard.path} was changed since it was written; delete it and preload again")
