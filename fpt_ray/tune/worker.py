"""What runs in a Tune worker: a trial, here or through Ray Train, or several as one model, over a host's features."""

import errno
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import ray.train
import torch
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.integration.ray_train import TuneReportCallback
from torch import nn

from fpt_ray.config.fitting import also_scored
from fpt_ray.config.identity import digest_of
from fpt_ray.config.space import SearchSpace
from fpt_ray.config.trial import TrialConfig
from fpt_ray.cost.prediction import trial_costs
from fpt_ray.errors import ConfigError
from fpt_ray.features.serving import Stores, feature_bytes, store_for, trial_identity
from fpt_ray.features.spec import StoreError
from fpt_ray.models.device import DeviceError, compute_device
from fpt_ray.models.weights import anchored
from fpt_ray.reading.places import Reading, rows_of_trials
from fpt_ray.search.messages import RESTARTS, Message, Proposal, TrialFailure, pack_messages, unpack_proposals
from fpt_ray.storage.errors import FullError, StorageError
from fpt_ray.storage.files import filesystem
from fpt_ray.train.loop import NonFiniteLossError
from fpt_ray.train.ray_train import train
from fpt_ray.train.reporting import TrainWork, train_and_report
from fpt_ray.train.seeds import Member, gains_together
from fpt_ray.tune.resources import Packing

_MOST_BATCH_BYTES = 2**28
"""Of the features that a step of several trials on a CPU reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """What all trials of a study share."""

    space: SearchSpace
    stores: Stores
    reading: Reading
    packing: Packing
    study_uri: str
    """Where the study's runs go: s3://bucket/prefix, or a folder that all hosts see."""
    weights_root: str
    """The driver's folder; relative paths of weights are found from there."""

    def costs(self, trial: TrialConfig) -> dict[str, float]:
        """What a trial costs, known before it is trained."""
        store = store_for(trial, self.stores)
        costs = trial_costs(trial, store.target.num_outputs, self.packing.hardware)
        return {**costs, "feature_bytes": float(feature_bytes(trial, store))}

    def is_ready(self, trial: TrialConfig) -> bool:
        """Whether the store that serves a trial is made."""
        return store_for(trial, self.stores).is_made

    def with_stores(self, stores: Stores, trial: TrialConfig) -> "Shared":
        """The same with stores of which the one that serves a trial has been made meanwhile."""
        return replace(self, stores=stores, reading=self.reading.with_store(store_for(trial, stores)))

    def resources(self, config: Mapping[str, Any]) -> dict[str, float]:
        """What a worker asks of Ray, by the configuration that Tune holds of its proposals."""
        proposals = unpack_proposals(config)
        return self.packing.trial(self.space.trial(proposals[0].values), self.gpu_bytes(proposals))

    def gpu_bytes(self, proposals: Sequence[Proposal]) -> float:
        """What a worker takes of a GPU's memory: for training its trials, and for features that lie there."""
        first, trials = max(proposals, key=lambda one: one.costs["peak_memory_bytes"]), len(proposals)
        networks = trials * first.seeds if trials > 1 or self.together(first) else 1
        return self._gpu_bytes(first, networks, len({one.values.get("side.blocks") for one in proposals}))

    def _gpu_bytes(self, proposal: Proposal, networks: int, readings: int) -> float:
        """``readings``: how many of the trials read other blocks than those before them."""
        trial = self.space.trial(proposal.values)
        held = self.reading.gpu_bytes(trial, store_for(trial, self.stores))
        return networks * proposal.costs["peak_memory_bytes"] + readings * held

    def together(self, proposal: Proposal, trials: int = 1) -> bool:
        """Whether a proposal's seeds train as one model, or those of so many trials of its shape.

        They do where that is faster and one worker has room for them, unless what is asked is how long a trial takes.
        Of trials that may be stopped early each trains by itself, and on CPUs those whose batches are large: they are
        bound by memory.
        """
        space, networks = self.space, trials * proposal.seeds
        readings = trials if "side.blocks" in proposal.values else 1
        return (
            networks > 1
            and "train_seconds" not in {*space.objectives, *space.constraints}
            and (trials == 1 or (space.early_stopping == "none" and self._has_small_batches(proposal, networks)))
            and gains_together(space.trial(proposal.values), self.packing.hardware.device)
            and self.packing.has_room(self._gpu_bytes(proposal, networks, readings))
        )

    def _has_small_batches(self, proposal: Proposal, networks: int) -> bool:
        images = networks * self.space.trial(proposal.values).training.batch_size
        on_cpu = self.packing.hardware.device == "cpu"
        return not on_cpu or images * proposal.costs["feature_bytes"] <= _MOST_BATCH_BYTES

    def most_together(self, proposal: Proposal, most: int) -> int:
        """How many trials of a proposal's shape train as one model, of so many at most."""
        return next((trials for trials in range(most, 1, -1) if self.together(proposal, trials)), 1)

    def work(self, proposals: Sequence[Proposal]) -> TrainWork:
        """What the workers of a trial are told, or of several that train as one model.

        Raises:
            ConfigError: no store serves them.
        """
        members = tuple(map(self._member, proposals))
        return TrainWork(
            members=members,
            stores=tuple(store_for(member.trial, self.stores) for member in members),
            reading=self.reading,
            planned=self.packing.hardware,
            together=self.together(proposals[0]),
            also=also_scored(self.space),
            run=self.study_uri,
        )

    def _member(self, proposal: Proposal) -> Member:
        trial = proposal.trial(self.space)
        trial = replace(trial, backbone=anchored(trial.backbone, self.weights_root))
        identity = digest_of(trial_identity(trial, self.stores))
        return Member(trial=trial, costs=proposal.costs, identity=identity, seeds=proposal.seeds)


class TuneSession:
    """A Tune worker's surroundings: one process, which reports to Tune itself."""

    rank, num_workers, says_epochs = 0, 1, False

    def __init__(self) -> None:
        self.device = compute_device()
        self.started = time.perf_counter()

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model itself: there is no other worker."""
        return model

    def saved(self) -> AbstractContextManager[str | None]:
        """What an earlier worker of this trial reported last."""
        saved = tune.get_checkpoint()
        return nullcontext() if saved is None else saved.as_directory()

    def report(self, messages: Sequence[Message], folder: str | None) -> None:
        """To Tune's loop in the driver."""
        checkpoint = None if folder is None else tune.Checkpoint.from_directory(folder)
        tune.report(pack_messages(*messages), checkpoint=checkpoint)


def run_trial(config: dict[str, Any], shared: Shared) -> None:
    """A trial, in the Tune worker itself or, with several workers, through Ray Train; or several as one model."""
    proposals = unpack_proposals(config)
    try:
        work = shared.work(proposals)
        if shared.packing.workers > 1:
            train_in_workers(work, proposals[0], shared)
        else:
            train_here(work, shared)
    except Exception as error:  # whatever it is, it belongs to this trial and must not end the search by itself
        failure = failure_of(error, len(proposals))
        if not failure.halts_search:
            traceback.print_exc()
        tune.report(pack_messages(*[failure] * len(proposals)))


def failure_of(error: Exception, trials: int = 1) -> TrialFailure:
    """Why a trial, or each of so many, came to no result, in one line; the whole of it is in the worker's log.

    A disk that is full or fails, storage that fails, a shard that is missing or damaged on this host and a GPU that
    PyTorch cannot use halt the search: they are no trial's fault, and the host would draw the next trials, too. Of a
    GPU whose memory was not enough, each one's share of what had been allocated is said.
    """
    error = error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, Exception) else error
    if isinstance(error, FullError | StorageError | StoreError | DeviceError):
        return TrialFailure(reason=str(error), halts_search=True)
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOMEM):
        remedy = "mend that, and resume the study: what is finished is kept"
        return TrialFailure(reason=f"{type(error).__name__}: {error}; {remedy}", halts_search=True)
    lines = str(error).strip().splitlines() or [""]
    expected = isinstance(error, ConfigError | NonFiniteLossError)
    reason = lines[-1] if expected else f"{type(error).__name__}: {lines[-1]}"
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return TrialFailure(reason=reason, out_of_memory_bytes=torch.cuda.max_memory_allocated() // trials)
    return TrialFailure(reason=reason)


def train_in_workers(work: TrainWork, proposal: Proposal, shared: Shared) -> None:
    """Trains through Ray Train, whose reports go on to Tune."""
    system, runs = filesystem(f"{shared.study_uri}/runs")
    train(
        work,
        ray.train.RunConfig(
            name=f"trial-{proposal.number:04d}",
            storage_path=runs,
            storage_filesystem=system,
            callbacks=[TuneReportCallback()],
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            # A lost worker or host: all workers are begun again from the last checkpoint. What goes wrong within the
            # training fails again, and is then the trial's reason.
            failure_config=ray.train.FailureConfig(max_failures=RESTARTS),
        ),
        shared.packing.workers,
        shared.packing.worker(work.trial, shared.gpu_bytes([proposal])),
    )


def train_here(work: TrainWork, shared: Shared) -> None:
    """Trains in this process."""
    torch.set_num_threads(max(1, int(shared.packing.worker(work.trial, 0)["CPU"])))
    session = TuneSession()
    networks = [
        (one.trial, store) for one, store in zip(work.members, work.stores, strict=True) for _ in range(one.seeds)
    ]
    trials, stores = zip(*networks, strict=True)
    train_and_report(work, lambda split: rows_of_trials(trials, stores, split, work.reading, session.device), session)
