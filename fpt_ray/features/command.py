"""Lists feature stores on a disk or on S3, verifies that they are whole, and removes them."""

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


Command = (
    Annotated[Ls, tyro.conf.subcommand("ls")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Rm, tyro.conf.subcommand("rm")]
)


def run_features(command: Ls | Verify | Rm) -> bool:
    """Lists, verifies or removes stores and prints what came of it; False if a store has faults.

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
    else:
        return _verify(uri)
    return True


def _found_text(found: "Found") -> str:
    state = f"finished    {_contents(found.store.spec)}" if found.store else found.why
    return f"{found.uri}\n  {state}\n  {found.rows} rows, {found.bytes / 1e6:.2f} MB"


def _contents(spec: "StoreSpec") -> str:
    if not spec.depth:
        return f"images of {spec.low_resolution} px for {spec.backbone}"
    return (
        f"{spec.backbone} at {spec.resolution} px, last {spec.depth} of {spec.backbone_depth} layers, "
        f"{spec.num_kept} of {spec.num_tokens} tokens, {spec.dtype}, images of {spec.low_resolution} px"
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


def run(command: Ls | Verify | Rm) -> int:
    """The exit status of ``run_features``: 1 if a store has faults."""
    return 0 if run_features(command) else 1
