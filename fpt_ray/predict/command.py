"""Says of new images what a trained trial makes of them: calibrated probabilities, with how far its seeds agree.

Any member of a study's front, any confirmed trial and any run of ``train`` left a bundle that serves. An interrupted
prediction goes on where it was. More than 1 % of images that cannot be read end it with exit status 1.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """The options of ``predict``."""

    model: str
    """The folder of a bundle or of a run of train; or a study of workdir, whose best trial by validation AUC is taken;
    or one of its trials, as STUDY:NUMBER."""
    images: str
    """An image, or a folder of images: all below it are taken. Local, or on S3."""
    out: str
    """The file to write, .parquet or .csv, a row for each image."""
    workdir: str = "."
    """The working directory of the study."""
    backbone: str | None = None
    """The file of the LPM's weights. Default: where they were in training."""
    local: bool = False
    """Start Ray on this machine even if RAY_ADDRESS names a cluster."""


def run(command: Command) -> int:
    """Predicts, writes, and says what came out.

    Raises:
        ConfigError: there is no such bundle, its LPM is another one, there are no images, or the output is there.
    """
    from fpt_ray.cluster import ray_session
    from fpt_ray.display.terminal import say
    from fpt_ray.predict.classifier import classifier_of
    from fpt_ray.predict.finding import bundle_named
    from fpt_ray.predict.listing import listed
    from fpt_ray.predict.pipeline import check_output, predict_all
    from fpt_ray.predict.summary import summary_text
    from fpt_ray.storage.files import absolute
    from fpt_ray.train.bundle import bundle_digest, read_bundle, with_backbone_at

    uri, out = bundle_named(command.model, command.workdir), absolute(command.out)
    check_output(out)
    listing = listed(command.images)
    bundle = with_backbone_at(read_bundle(uri), command.backbone)
    say(f"predict: {len(listing.paths)} images by {uri}")
    if note := bundle.data["note"]:
        say(f"predict: it was trained on: {note}")
    classifier = classifier_of(bundle)
    with ray_session(local=command.local):
        found = predict_all(classifier, bundle_digest(uri), listing, out)
    print(summary_text(found.table, bundle.classes, out))
    return 1 if found.unread > 0.01 * len(found.table) else 0
