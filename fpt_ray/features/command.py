"""Lists feature stores on a disk or on S3, verifies that they are whole, removes them or images in them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from fpt_ray.features.spec import StoreSpec
    from fpt_ray.features.verification import Found


@dataclass(frozen=True, kw_only=True, slots=True)
class Ls:
    """List the stores at and below a location: what they hold, their rows and bytes, and which are unfinished."""

    uri: tyro.conf.Positional[str]
    """A working directory, its features folder, or any folder or s3://bucket/prefix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verify:
    """Read every shard of a store and list all that is not as it was written. The exit status is 1 if anything is."""

    uri: tyro.conf.Positional[str]
    """The folder of a finished store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rm:
    """Remove a store, finished or not, without asking."""

    uri: tyro.conf.Positional[str]
    """The folder of the store, as ls prints it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forget:
    """Remove images from a store: their shards are written anew without them, and nothing of them is left."""

    uri: tyro.conf.Positional[str]
    """The folder of the store."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """The content hashes (SHA-256 in hex) of the images: the sha256 column of an image table has them."""


Command = (
    Annotated[Ls, tyro.conf.subcommand("ls")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Rm, tyro.conf.subcommand("rm")]
    | Annotated[Forget, tyro.conf.subcommand("forget")]
)


def run_features(command: Ls | Verify | Rm | Forget) -> bool:
    """Lists, verifies or removes stores, or images in them, and prints what came of it; False if a store has faults.

    Raises:
        ConfigError: there is no such store, or S3 fails.
    """
    from fpt_ray.features.verification import find_stores, remove_store
    from fpt_ray.storage.files import absolute

    uri = absolute(command.uri)
    if isinstance(command, Ls):
        stores = list(find_stores(uri))
        print("\n".join(_found_text(found) for found in stores) or f"no feature store at or below {uri}")
    elif isinstance(command, Rm):
        files, size, uploads = remove_store(uri)
        aborted = f", aborted {uploads} unfinished uploads" if uploads else ""
        print(f"removed {uri}: {files} files, {size / 1e6:.2f} MB{aborted}")
    elif isinstance(command, Forget):
        from fpt_ray.features.withdrawal import forget

        shards = forget(uri, command.images)
        print(f"{uri}: {len(command.images)} images forgotten, {shards} shards written anew")
    else:
        return _verify(uri)
    return True


def _found_text(found: "Found") -> str:
    state = f"finished    {_contents(found.store.spec)}" if found.store else found.why
    return f"{found.uri}\n  {state}\n  {found.rows} rows, {found.bytes / 1e6:.2f} MB"


def _contents(spec: "StoreSpec") -> str:
    sizes = " and ".join(map(str, spec.low_resolutions))
    if not spec.blocks:
        return f"images of {sizes} px for {spec.backbone}"
    return (
        f"{spec.backbone} at {spec.resolution} px, blocks {', '.join(map(str, spec.blocks))} of "
        f"{spec.backbone_depth}, {spec.num_kept} of {spec.num_tokens} tokens, {spec.dtype}, images of {sizes} px"
    )


def _verify(uri: str) -> bool:
    from fpt_ray.features.store import read_manifest
    from fpt_ray.features.verification import store_faults

    store = read_manifest(uri)
    faults = 0
    for fault in store_faults(store):
        print(fault)
        faults += 1
    print(f"{uri}: {len(store.shards)} shards, {f'{faults} faults' if faults else 'all as written'}")
    return not faults


def run(command: Ls | Verify | Rm | Forget) -> int:
    """The exit status of ``run_features``: 1 if a store has faults."""
    return 0 if run_features(command) else 1
