"""Says of new images what a trained trial makes of them: calibrated probabilities, with how far its seeds agree.

Any member of a study's front, any confirmed trial and any run of ``train`` left a bundle that serves. An interrupted
prediction goes on where it was. More than 1 % of images that cannot be read end it with exit status 1.
"""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from fpt_ray.predict.evidence.options import EvidenceOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """The options of ``predict``."""

    model: str
    """The folder of a bundle or of a run of train; or a study of workdir, whose best trial by its validation score is
    taken; or one of its trials, as STUDY:NUMBER."""
    images: str
    """An image; a folder of images, all below which are taken; or a table (CSV, Parquet) of path[, label]. Local, or on
    S3. Where labels are known, what the answers are worth is said too."""
    out: str
    """The file to write, .parquet or .csv, a row for each image."""
    workdir: str = "."
    """The working directory of the study."""
    columns: tuple[str, ...] = ()
    """What columns of a table are called there, such as path=file label=diagnosis. Default: path and label."""
    backbone: str | None = None
    """The file of the LPM's weights. Default: where they were in training."""
    local: bool = False
    """Start Ray on this machine even if RAY_ADDRESS names a cluster."""
    looking: Annotated[EvidenceOptions, tyro.conf.arg(name="")] = field(default_factory=EvidenceOptions)


def run(command: Command) -> int:
    """Predicts, writes, and says what came out.

    Raises:
        ConfigError: there is no such bundle, its LPM is another one, there are no images, the output is there, or there
            can be no evidence.
    """
    import torch

    from fpt_ray.cluster import ray_session
    from fpt_ray.display.terminal import say
    from fpt_ray.predict.classifier import classifier_of
    from fpt_ray.predict.evidence.writing import planned_evidence, write_evidence
    from fpt_ray.predict.finding import bundle_named
    from fpt_ray.predict.listing import listed
    from fpt_ray.predict.pipeline import check_output, predict_all
    from fpt_ray.predict.summary import summary_text
    from fpt_ray.storage.files import absolute
    from fpt_ray.train.bundle import bundle_digest, read_bundle, with_backbone_at

    uri, out = bundle_named(command.model, command.workdir), absolute(command.out)
    check_output(out)
    bundle = with_backbone_at(read_bundle(uri), command.backbone)
    listing = listed(command.images, command.columns, bundle.target)
    plan = planned_evidence(bundle, listing, command.looking)
    say(f"predict: {len(listing.paths)} images by {uri}")
    if note := bundle.data["note"]:
        say(f"predict: it was trained on: {note}")
    classifier = classifier_of(bundle, torch.device("cpu"))  # actors bring it to theirs
    with ray_session(local=command.local):
        found = predict_all(classifier, bundle_digest(uri), listing, out)
    print(summary_text(found, bundle, listing.labels, out))
    if plan is not None:
        print(write_evidence(classifier_of(bundle), listing, plan, found, command.workdir))
    unread = len(found) - found["error"].to_pylist().count("")
    return 1 if unread > 0.01 * len(found) else 0
