"""What a study leaves to be used: the bundle of every trial whose test scores it shows."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

import optuna

from fpt_ray.config.trial import TrialConfig
from fpt_ray.display.terminal import say
from fpt_ray.features.joining import Features
from fpt_ray.report.confirmation import confirming
from fpt_ray.report.front import front_of
from fpt_ray.search.drivers import turn
from fpt_ray.storage.files import exists, list_files, read_bytes, write
from fpt_ray.tracking.provenance import provenance
from fpt_ray.tracking.records import TrialRecord, broken_by
from fpt_ray.train.bundle import BACKBONE_FILE, BUNDLE_FILE, FRONT_FILE
from fpt_ray.train.checkpoint import Checkpoint
from fpt_ray.train.leaving import SPLITS, Leaving, leave_bundle
from fpt_ray.tune.log import StudyLog
from fpt_ray.tune.scoring import on_workers, shown_trials
from fpt_ray.tune.worker import Shared


def bundle_folder(study_uri: str, number: int) -> str:
    """Where a trial's bundle lies."""
    return f"{study_uri}/bundles/trial-{number:04d}"


def leave_all(
    study: optuna.Study, log: StudyLog, shared: Shared, records: Sequence[TrialRecord], *, with_backbone: bool
) -> None:
    """Leaves the bundles of the trials that are shown; of several drivers the first does."""
    with turn(study):
        left = list(leave_bundles(records, shared, with_backbone=with_backbone))
    if left:
        size = sum(file.bytes for file in list_files(left[0])) / 1e6
        also = ", and the LPM" if with_backbone else ""
        each = f"each with a model card and the command that uses it{also} ({size:,.0f} MB)"
        say(f"bundles: {len(left)} in {log.study_uri}/bundles, {each}")


def leave_bundles(records: Sequence[TrialRecord], shared: Shared, *, with_backbone: bool = False) -> Iterator[str]:
    """The folders of bundles as they are written: of the front's members, a grid's rows, and what was confirmed.

    Those that have theirs are left alone; beside them stands which are the front's. Records that have no test score by
    now, as where only what was confirmed is tested, leave bundles that the test split was not read for.
    ``with_backbone``: the LPM's weights lie in each, too.

    Raises:
        ConfigError: a checkpoint or the store cannot be read.
    """
    score, limits = shared.space.score.removeprefix("val_"), shared.space.constraints
    again = [record for record in confirming(records, score) if not broken_by(record, limits)]
    numbered = {record.number: record for record in (*shown_trials(records, shared.space), *again)}
    missing = [
        record
        for number, record in numbered.items()
        if not _is_left(bundle_folder(shared.study_uri, number), with_backbone, f"test_{score}" in record.metrics)
    ]
    by_run = {record.run_id: record for record in missing}
    leave = partial(_leave, shared, by_run, provenance(), with_backbone)
    for run_id, _ in on_workers(leave, missing, shared):
        yield bundle_folder(shared.study_uri, by_run[run_id].number)
    _name_front(numbered, front_of(records, shared.space.objectives, limits), shared.study_uri)


def _is_left(folder: str, with_backbone: bool, tested: bool) -> bool:
    """Whether a bundle is there with all that it is to have."""
    if not exists(f"{folder}/{BUNDLE_FILE}"):
        return False
    found = json.loads(read_bytes(f"{folder}/{BUNDLE_FILE}"))
    has_test = any(name.startswith("test_") for name in found["metrics"])
    return (has_test or not tested) and (BACKBONE_FILE in found["sha256"] or not with_backbone)


def _name_front(left: Collection[int], front: Sequence[TrialRecord], study_uri: str) -> None:
    """Writes which bundles are the front's; a study that goes on has another front when it ends again."""
    folders = [bundle_folder(study_uri, record.number) for record in front if record.number in left]
    names = [folder.rpartition("/")[2] for folder in folders]
    if names:
        write(f"{study_uri}/bundles/{FRONT_FILE}", json.dumps(names).encode())


def _leave(
    shared: Shared,
    records: Mapping[str, TrialRecord],
    versions: Mapping[str, str],
    with_backbone: bool,
    trial: TrialConfig,
    store: Features,
    saved: Checkpoint,
    run_id: str,
) -> None:
    """On a worker: one bundle."""
    record, tested = records[run_id], f"test_{shared.space.score.removeprefix('val_')}"
    leaving = Leaving(
        uri=bundle_folder(shared.study_uri, record.number),
        identity=saved.identity,
        weights_digest=shared.stores.weights[trial.backbone],
        metrics=record.metrics,
        versions=versions,
        with_backbone=with_backbone,
        splits=SPLITS if tested in record.metrics else SPLITS[:1],
        confirms=record.confirms,
    )
    leave_bundle(trial, store, saved, leaving)
