"""Says of new images what a trained trial makes of them: calibrated probabilities, with how far its seeds agree.

Any member of a study's front, any confirmed trial and any run of ``train`` left a bundle that serves. An interrupted
prediction goes on where it was. More than 1 % of images that cannot be read end it with exit status 1.

`predict pack` writes a bundle that needs no network, `predict log` brings bundles to MLflow; their --help says how.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from fpt_ray.predict.evidence.options import EvidenceOptions
from fpt_ray.predict.verbs import VERBS as VERBS


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """The options of ``predict``."""

    model: str
    """The folder of a bundle or of a run of train; or a study of workdir, whose best trial by its validation score is
    taken; or one of its trials, as STUDY:NUMBER; or `best`, of all studies of workdir; or a registered model,
    models:/NAME@ALIAS or models:/NAME/VERSION."""
    images: str
    """An image; a folder of images, all below which are taken; or a table (CSV, Parquet) of path[, label]. Local, or on
    S3. Where labels are known, what the answers are worth is said too."""
    out: str
    """The file to write, .parquet or .csv, a row for each image."""
    ensemble: Literal["seeds", "front"] = "seeds"
    """What answers, in the mean of calibrated probabilities: the seeds of one bundle; or all members of a study's
    front, for which model is a study."""
    workdir: str = "."
    """The working directory of the study. Features of images that its stores have already are read from there."""
    columns: tuple[str, ...] = ()
    """What columns of a table are called there, such as path=file label=diagnosis; label= leaves labels out. Default:
    path and label."""
    backbone: str | None = None
    """The file of the LPM's weights. Default: where they were in training."""
    tracking_uri: str | None = None
    """MLflow's tracking server or database, for models:/... Default: MLFLOW_TRACKING_URI, else mlflow.db in workdir."""
    local: bool = False
    """Start Ray on this machine even if RAY_ADDRESS names a cluster."""
    looking: Annotated[EvidenceOptions, tyro.conf.arg(name="")] = field(default_factory=EvidenceOptions)


def run(command: Command) -> int:
    """Predicts, writes, and says what came out.

    Raises:
        ConfigError: there is no such bundle, its LPM is another one, there are no images, the output is there, or there
            can be no evidence.
    """
    import dataclasses

    import torch

    from fpt_ray.cluster import ray_session
    from fpt_ray.display.terminal import say
    from fpt_ray.predict.classifier import images_held
    from fpt_ray.predict.ensemble import ensemble_of
    from fpt_ray.predict.evidence.worker import evidence_by_worker
    from fpt_ray.predict.evidence.writing import planned_evidence
    from fpt_ray.predict.finding import bundle_named, bundles_of_front
    from fpt_ray.predict.listing import listed
    from fpt_ray.predict.parts import check_output, planned, remove_parts
    from fpt_ray.predict.pipeline import predict_all
    from fpt_ray.predict.stored import stores_of
    from fpt_ray.predict.summary import summary_text
    from fpt_ray.predict.trained_on import learnt_from
    from fpt_ray.storage.files import absolute
    from fpt_ray.train.bundle import bundle_digest, read_bundle, with_backbone_at

    front, out = command.ensemble == "front", absolute(command.out)
    model, workdir = command.model, command.workdir
    uris = bundles_of_front(model, workdir) if front else [bundle_named(model, workdir, command.tracking_uri)]
    check_output(out)
    bundles = {uri: with_backbone_at(read_bundle(uri), command.backbone) for uri in uris}
    bundle, *others = bundles.values()
    listing = listed(command.images, command.columns, bundle.target)
    held = images_held([one.spec for one in bundles.values()])
    work = planned("\n".join(map(bundle_digest, uris)), listing, out, held)
    plan = planned_evidence(bundle, listing, command.looking)
    say(f"predict: {len(listing.paths)} images by {', '.join(uris)}")
    if note := bundle.data["note"]:
        say(f"predict: it was trained on: {note}")
    ensemble = ensemble_of(bundles, torch.device("cpu"))  # actors bring it to theirs
    stores = stores_of(absolute(workdir), ensemble.asked)
    for one in stores:
        say(f"predict: features that are in the store {one.store.uri} are read from it")
    ensemble = dataclasses.replace(ensemble, stores=stores)
    with ray_session(local=command.local):
        found = predict_all(ensemble, work)
        learnt = None if listing.labels is None else learnt_from(found["sha256"].to_pylist(), bundle, workdir)
        print(summary_text(found, bundle, listing, out, others, learnt=learnt))
        if plan is not None:
            print(evidence_by_worker(ensemble, listing, plan, found, absolute(workdir)))
    remove_parts(work)
    unread = len(found) - found["error"].to_pylist().count("")
    return 1 if unread > 0.01 * len(found) else 0
