"""Lists feature stores on a disk or on S3, verifies them, removes them or images in them, says which blocks to read."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fpt_ray.config.tasks import ImagesOptions
from fpt_ray.display.typesetting import Form

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance(ImagesOptions):
    """Measure, without training, which tokens the heads of each stored block keep, and whether they touch findings.

    Training and validation images alone are read.
    """

    uri: tyro.conf.Positional[str]
    """The folder of the store."""
    images: str
    """The images that it was made of: class folders, or a table (CSV, Parquet) of path, label[, split][, group]."""
    boxes: str | None = None
    """A table (CSV, Parquet) of known findings: image (its path as images has it), x0, y0, x1, y1 in pixels."""
    ratios: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    """Token ratios. Those that are more than the store holds are an error."""
    max_images: int = 2000
    """The number of images, at most."""
    flips: int = 0
    """The number of images on which the LPM is run again, and on their mirror images."""
    weights: str | None = None
    """For flips: the weights that the store was made with, a local file or "random". Default: timm's."""
    picture: Path | None = None
    """A PNG file to write."""
    form: Form = "text"
    """The form of the table that is printed."""


Command = (
    Annotated[Ls, tyro.conf.subcommand("ls")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Rm, tyro.conf.subcommand("rm")]
    | Annotated[Forget, tyro.conf.subcommand("forget")]
    | Annotated[Importance, tyro.conf.subcommand("importance")]
)


def run_features(command: Ls | Verify | Rm | Forget | Importance) -> bool:
    """Does what is asked of stores and prints what came of it; False if a store has faults.

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
        print("what --read_folder keeps on hosts is no part of a store: remove those folders if they have held it")
    elif isinstance(command, Importance):
        _importance(uri, command)
    else:
        return _verify(uri)
    return True


def _found_text(found: "Found") -> str:
    state = f"finished    {_contents(found.store.spec)}" if found.store else found.why
    return f"{found.uri}\n  {state}\n  {found.rows} rows, {found.bytes / 1e6:.2f} MB"


def _contents(spec: "StoreSpec") -> str:
    sizes = " and ".join(map(str, spec.low_resolutions))
    prepared = "".join(f", {name} {value}" for name, value in spec.chosen.items())
    if not spec.blocks:
        return f"images of {sizes} px for {spec.backbone}{prepared}"
    return (
        f"{spec.backbone} at {spec.resolution} px{prepared}, blocks {', '.join(map(str, spec.blocks))} of "
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


def _importance(uri: str, command: Importance) -> None:
    from fpt_ray.display.typesetting import typeset
    from fpt_ray.features.importance.display import draw_survey, survey_table
    from fpt_ray.features.importance.findings import read_findings
    from fpt_ray.features.importance.flips import kept_when_flipped
    from fpt_ray.features.importance.survey import sampled, stored_table, survey
    from fpt_ray.features.store import read_manifest
    from fpt_ray.images.table import read_images
    from fpt_ray.models.backbone import backbone_shape

    store = read_manifest(uri)
    spec, whole = store.spec, stored_table(read_images(command.images, command), store)
    table = sampled(whole, command.max_images)
    findings = (
        None
        if command.boxes is None
        else read_findings(command.boxes, whole, table, backbone_shape(spec.backbone), spec.preparation)
    )
    found = survey(store, table, command.ratios, findings)
    few = sampled(whole, command.flips)
    flipped = kept_when_flipped(few, spec, command.weights, command.ratios) if command.flips else {}
    print(typeset(survey_table(found, flipped), command.form))
    if command.picture is not None:
        draw_survey(found, flipped, command.picture)


def run(command: Ls | Verify | Rm | Forget | Importance) -> int:
    """The exit status of ``run_features``: 1 if a store has faults."""
    return 0 if run_features(command) else 1
