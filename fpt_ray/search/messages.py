"""What the driver of a search and its workers say to each other: a proposal, an epoch's report, a failure.

Tune carries plain dicts between them: one function packs each record, one unpacks it.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

from fpt_ray.config.objectives import OBJECTIVES
from fpt_ray.config.space import SearchSpace
from fpt_ray.config.trial import TrialConfig, with_seed

Stage = Literal["choose", "final", "confirm"]
"""Why a trial is run: to choose values on the validation split, for what tables show, or again with new seeds."""
RESTARTS = 2
"""Times a trial is begun again after its worker died."""
DIED = (
    f"its worker died {RESTARTS + 1} times while its host lived on: most likely the system killed it because the "
    "host's memory ran out"
)
"""Why a trial came to nothing that Tune gave up: what goes wrong within a trial, the trial tells itself."""
NEVER_RAN = "the worker it was given had died before; it is run again"
"""Why a trial came to nothing that had no living worker."""
TAKEN_FOR_DEAD = "its driver was taken for dead; the trial was run again"
"""Why a trial came to nothing that another driver has asked again."""
STOPPED = "stopped before its last epoch"
"""Why a trial has no result that the scheduler stopped."""
_FINAL_METRICS = (
    *(name for name in OBJECTIVES if name.startswith("val_")),
    *(f"{name}_std" for name in OBJECTIVES if name.startswith("val_")),
    "best_epoch",
    "epochs",
    "ppe",
    "pme",
    "param_ratio",
    "memory_ratio",
    "learnable_parameters",
    "peak_memory_bytes",
    "measured_peak_memory_bytes",
    "train_seconds",
    "fit_seconds",
    "data_seconds",
)
_PROPOSALS, _MESSAGES = "proposals", "messages"


# --- from the driver --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What a trial is to try."""

    number: int
    """The trial's in its study."""
    values: Mapping[str, Any]
    """{dotted name: value}, and perhaps the name of a point."""
    stage: Stage = "final"
    seeds: int = 1
    """How many seeds the trial trains, one after the other or together."""
    first_seed: int = 0
    """The first of these, counted from the configuration's."""
    confirms: int | None = None
    """The number of the trial that this one trains again with new seeds."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """What it costs by their names, known before it is trained: the driver asks once, the worker takes it over."""

    def trial(self, space: SearchSpace) -> TrialConfig:
        """The trial that the proposal stands for, with the first seed it trains."""
        return with_seed(space.trial(self.values), self.first_seed)


def pack_proposals(*proposals: Proposal) -> dict[str, Any]:
    """A proposal, or several whose trials train as one model, as the configuration of one of Tune's trials."""
    return {_PROPOSALS: [dataclasses.asdict(proposal) for proposal in proposals]}


def unpack_proposals(config: Mapping[str, Any]) -> tuple[Proposal, ...]:
    """The proposals that the configuration of one of Tune's trials holds."""
    return tuple(Proposal(**one) for one in config[_PROPOSALS])


def unpack_proposal(config: Mapping[str, Any]) -> Proposal:
    """The first of them, which is the only one unless trials train as one model."""
    return unpack_proposals(config)[0]


# --- from a worker ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedEpoch:
    """An epoch of one of a trial's seeds."""

    repeat: int
    """Which seed, from 0."""
    epoch: int
    """From 1."""
    train_loss: float | None
    """None where nothing is learnt."""
    val_score_epoch: float
    """By the score that picks the best epoch."""
    val_score: float
    """Of this seed's best epoch so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochReport:
    """What a trial's worker says after an epoch."""

    epochs: int
    """Of all the trial's seeds so far."""
    seeds: tuple[SeedEpoch, ...]
    """The epoch of each seed that trains now: of one, or of several together."""
    epoch_seconds: float
    finished: bool
    """Training has ended as planned: the metrics are final."""
    picked_by: str = "auc"
    """The score on the validation split that picks the best epoch."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The trial's numbers so far, by the names that objectives, constraints and MLflow have for them."""
    load: Mapping[str, float] = field(default_factory=dict)
    """What the worker's process takes of its host: of cores, in percent of one, since the last epoch; of memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialFailure:
    """What a trial's worker says when it cannot go on."""

    reason: str
    """In one line."""
    out_of_memory_bytes: int | None = None
    """What had been allocated of a GPU when its memory was not enough."""
    halts_search: bool = False
    """Whether it is no fault of the trial's, and no other trial would fare better."""


Message = EpochReport | TrialFailure


def pack_messages(*messages: Message) -> dict[str, Any]:
    """The message of each proposal's trial as one of Tune's or Ray Train's results.

    It is a text, because Tune flattens dicts for its searchers.
    """
    return {_MESSAGES: json.dumps([dataclasses.asdict(message) for message in messages], default=float)}


def unpack_messages(result: Mapping[str, Any] | None) -> tuple[Message, ...]:
    """The message of each proposal's trial that a result of Tune's holds; empty while nothing was said."""
    if result is None or _MESSAGES not in result:
        return ()
    return tuple(map(_message, json.loads(result[_MESSAGES])))


def unpack_message(result: Mapping[str, Any] | None) -> Message | None:
    """The first of them, which is the only one unless trials train as one model; None while nothing was said."""
    return next(iter(unpack_messages(result)), None)


def _message(content: Mapping[str, Any]) -> Message:
    if "reason" in content:
        return TrialFailure(**content)
    return EpochReport(**{**content, "seeds": tuple(SeedEpoch(**one) for one in content["seeds"])})


# --- what a message comes to --------------------------------------------------------------------------------------


def metric(message: Message | None, name: str) -> float | None:
    """A trial's number by its name, as far as it has said it."""
    return message.metrics.get(name) if isinstance(message, EpochReport) else None


def why_incomplete(message: Message | None, died: bool, space: SearchSpace) -> str | None:
    """Why a trial's last message does not count as a result; None if it does. ``died``: Tune gave its worker up."""
    if died:
        return DIED
    if isinstance(message, TrialFailure):
        return message.reason
    for name in space.objectives:
        if not is_finite(metric(message, name)):
            return f"{name} is {metric(message, name)}"
    return None if message is not None and message.finished else STOPPED


def final_metrics(message: Message | None) -> dict[str, float]:
    """The numbers of a trial's last message that stay with it; what is missing or not finite is left out."""
    if not isinstance(message, EpochReport):
        return {}
    found = {"epochs": message.epochs, **message.metrics}
    return {name: float(value) for name in _FINAL_METRICS if is_finite(value := found.get(name))}


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether a value is a number that can be told."""
    return isinstance(value, (int, float)) and math.isfinite(value)
