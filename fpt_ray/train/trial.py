"""One trial, trained on a feature store under Ray Train: what came of it, as a value."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import ray.train

from fpt_ray.cluster import ask_worker, ray_session, run_on_workers, whole_worker
from fpt_ray.config.fitting import check_batch, fitted
from fpt_ray.config.identity import as_text, digest_of
from fpt_ray.config.trial import Read, TrialConfig
from fpt_ray.cost.prediction import trial_costs
from fpt_ray.display.terminal import say
from fpt_ray.features.joining import Features
from fpt_ray.features.serving import Stores, trial_identity, trial_slice
from fpt_ray.metrics.scores import Scores
from fpt_ray.models.hardware import hardware_here
from fpt_ray.models.methods import check_trial
from fpt_ray.models.weights import anchored, check_packable, known_weights
from fpt_ray.reading.host_disk import host_disk
from fpt_ray.reading.places import clearing_disks, prepare_reading
from fpt_ray.search.messages import EpochReport, unpack_message
from fpt_ray.storage.files import absolute, exists, filesystem, write
from fpt_ray.tracking.provenance import provenance
from fpt_ray.train.leaving import Leaving, leave_saved
from fpt_ray.train.ray_train import train
from fpt_ray.train.reporting import TrainWork
from fpt_ray.train.seeds import Member

_ENDED = "ended.json"
"""In a run's folder, once it has ended: all that determined its numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResult:
    """What came of a trial that was trained on its own."""

    trial: TrialConfig
    store: str
    """The feature store that it learnt from."""
    val: Scores
    """Of the best epoch's weights on the validation split."""
    test: Scores
    """Of the same weights on the test split."""
    best_epoch: int
    """From 1; the one with the highest validation score, by ``training.select_by``."""
    learnable_parameters: int
    param_ratio: float
    """Learnable parameters, as a share of all (Eq. 9)."""
    peak_memory_bytes: float
    """Of a training process on a GPU, predicted."""
    memory_ratio: float
    """Of full fine-tuning's peak memory, predicted alike."""
    ppe: float | None
    """Performance-parameter efficiency on the validation score (section 4.2.3); None of one that may be negative."""
    pme: float | None
    """Performance-memory efficiency, likewise."""
    run: str
    """The folder of the run."""
    checkpoint: str
    """The folder of its last checkpoint, which holds the best epoch's weights, too."""
    bundle: str
    """The folder of its bundle, which ``predict`` takes."""


def train_trial(
    trial: TrialConfig,
    store: Features,
    *,
    workdir: str = ".",
    name: str = "train",
    num_workers: int = 1,
    read: Read = "auto",
    local: bool = False,
    with_backbone: bool = False,
) -> TrialResult:
    """Trains one trial on a feature store and scores its best epoch on the validation and the test split.

    Ray is joined or started for it unless it runs already (``local``: started here whatever RAY_ADDRESS says). The run
    lies in workdir/runs, under its name and the digest of all that determines its numbers (trial, weights, features,
    image table): an equal one that was interrupted goes on, one that has ended is not trained again, any other is
    another run. The numbers do not depend on ``num_workers``, nor on ``read``: where features are read from.
    ``with_backbone``: the LPM's weights lie in the bundle, too.

    Raises:
        ConfigError: the trial cannot be built, the store does not serve it, its loss is no number, or there are too few
            images, or too small a cluster or disk.
    """
    trial = fitted(replace(trial, backbone=anchored(trial.backbone, str(Path.cwd()))), store.target)
    check_trial(trial)
    check_batch(trial, store.num_rows("train"))
    if with_backbone:
        check_packable(trial.backbone)
    with ray_session(local=local):
        weights = known_weights([trial.backbone], str(Path.cwd()))
        hardware = ask_worker(hardware_here)
        identity = trial_identity(trial, Stores(stores=(store,), weights=weights, hardware=hardware))
        digest = digest_of(identity)
        run = f"{absolute(workdir)}/runs/{name}-{digest[:12]}"
        if exists(f"{run}/{_ENDED}"):
            say(f"train: {run} has ended before, with all that determines its numbers the same; they are not made anew")
        cuts, disk = {store.uri: trial_slice(trial, store.spec)}, host_disk(None, digest[:12])
        reading = prepare_reading({store.uri: store}, cuts, read, disk, hardware)
        costs = trial_costs(trial, store.target.num_outputs, hardware)
        member = Member(trial=trial, costs=costs, identity=digest)
        with clearing_disks(reading):
            result = train(
                TrainWork(members=(member,), stores=(store,), reading=reading, planned=hardware),
                _run_config(f"{name}-{digest[:12]}", f"{absolute(workdir)}/runs"),
                num_workers,
            )
        assert result.checkpoint is not None
        report = unpack_message(result.metrics)
        assert isinstance(report, EpochReport)
        leaving = Leaving(
            uri=f"{run}/bundle",
            identity=digest,
            weights_digest=weights[trial.backbone],
            metrics=report.metrics,
            versions=provenance(),
            with_backbone=with_backbone,
        )
        found = _result(trial, store, report, f"{run}/{Path(result.checkpoint.path).name}", leaving)
    write(f"{run}/{_ENDED}", as_text(identity).encode())
    return found


def _run_config(name: str, runs: str) -> ray.train.RunConfig:
    system, path = filesystem(runs)
    return ray.train.RunConfig(
        name=name,
        storage_path=path,
        storage_filesystem=system,
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        failure_config=ray.train.FailureConfig(max_failures=1),
    )


def _result(trial: TrialConfig, store: Features, report: EpochReport, checkpoint: str, leaving: Leaving) -> TrialResult:
    calls = {"bundle": partial(leave_saved, trial, store, checkpoint, leaving)}
    ((_, found),) = run_on_workers(calls, {"bundle": whole_worker()})
    (val,), (test,), numbers = found["val"], found["test"], report.metrics
    return TrialResult(
        trial=trial,
        store=store.uri,
        val=val,
        test=test,
        best_epoch=int(numbers["best_epoch"]),
        learnable_parameters=int(numbers["learnable_parameters"]),
        param_ratio=numbers["param_ratio"],
        peak_memory_bytes=numbers["peak_memory_bytes"],
        memory_ratio=numbers["memory_ratio"],
        ppe=numbers.get("ppe"),
        pme=numbers.get("pme"),
        run=leaving.uri.rpartition("/")[0],
        checkpoint=checkpoint,
        bundle=leaving.uri,
    )
