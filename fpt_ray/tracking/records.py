"""Studies and trials as MLflow holds them, read: records over the parameters, metrics and tags of their runs."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, cast

from fpt_ray.config.objectives import Limit, Mode, broken_limits
from fpt_ray.tracking.names import LEDGER, trial_title

DATA_NOTE = "data_note"
"""Tag of a study: what must be said about its images wherever its numbers stand."""
CHECKPOINT = "checkpoint"
"""Tag of a trial: the URI of the folder with its weights."""
PRUNED = "fpt_ray.pruned"
"""Tag of a trial that has ended as it should without a result that counts."""
Pruned = Literal["stopped early", "infeasible", ""]
"""Why a trial has no result that counts though nothing failed; "" where that is not so."""
ON_FRONT = "fpt_ray.on_front"
"""Tag of a trial: "true" while it is on its study's front, "false" once it was shown and is not."""
STUDY_ID = "fpt_ray.study_id"
"""Tag of a study: the id that its storage and its folder bear, too."""
_OBJECTIVES, _CONSTRAINTS, _SEARCHED, _STORES = "objectives", "constraints", "searched", "stores"
_STARTS_AT_PAPER, _SCORE, _IMAGES = "starts_at_paper", "score", "images"
_PROPOSAL, _LABEL, _STAGE, _CONFIRMS, _SEEDS = "proposal", "label", "stage", "of", "seeds"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesNote:
    """Which images a study learns from, for people."""

    name: str
    """What the user called them: the last part of their folder's or table's path."""
    digest: str
    """Of the image table."""
    uri: str
    """Where the image table lies."""
    rows: Mapping[str, int]
    """{split: images of it}"""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRun:
    """A study's run."""

    name: str
    experiment_id: str
    run_id: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def objectives(self) -> Mapping[str, Mode]:
        """{name: whether more or less is better}."""
        return json.loads(self.tags[_OBJECTIVES])

    @property
    def constraints(self) -> Mapping[str, Limit]:
        """{name of a trial's number: what it must keep to}."""
        return {name: Limit(**ends) for name, ends in json.loads(self.tags.get(_CONSTRAINTS, "{}")).items()}

    @property
    def searched(self) -> tuple[str, ...]:
        """The dotted names that the study varies."""
        return tuple(json.loads(self.tags[_SEARCHED]))

    @property
    def starts_at_paper(self) -> bool:
        """Whether its trial 0 is the point of its space that is nearest to the paper's settings."""
        return json.loads(self.tags.get(_STARTS_AT_PAPER, "true"))

    @property
    def score(self) -> str:
        """The score that picks its best trials, by its name: "auc" unless it has said another."""
        return self.tags.get(_SCORE, "auc")

    @property
    def stores(self) -> tuple[str, ...]:
        """The URIs of the feature stores it reads, as far as they are made."""
        return tuple(json.loads(self.tags.get(_STORES, "[]")))

    @property
    def data_note(self) -> str:
        """What must be said about the images wherever their numbers stand, without a full stop."""
        return self.tags.get(DATA_NOTE, "").strip().rstrip(".")

    @property
    def images(self) -> ImagesNote | None:
        """The images that it and its trials learn from; None where it has not said."""
        return ImagesNote(**json.loads(self.tags[_IMAGES])) if _IMAGES in self.tags else None

    @property
    def ledger(self) -> Mapping[str, float]:
        """What it cost, once it has ended."""
        return {name.removeprefix(LEDGER): value for name, value in self.metrics.items() if name.startswith(LEDGER)}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """A trial as MLflow holds it; metrics are the last values."""

    number: int
    run_id: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    status: str
    reason: str
    started_s: float = 0.0
    """When its run began, in seconds since 1970."""
    ended_s: float | None = None
    """When its run ended; None while it goes on."""

    @property
    def values(self) -> Mapping[str, object]:
        """What it was asked to try: {dotted name: value}, and perhaps the name of a point."""
        return json.loads(self.tags[_PROPOSAL])

    @property
    def label(self) -> str:
        """The name of its point; "" where it has none."""
        return self.tags.get(_LABEL, "")

    @property
    def stage(self) -> str:
        """Why it was run: "choose", "final" or "confirm"; "" where it was refused before."""
        return self.tags.get(_STAGE, "")

    @property
    def confirms(self) -> int | None:
        """The number of the trial that it trained again with new seeds; None where it confirms none."""
        return int(self.tags[_CONFIRMS]) if _CONFIRMS in self.tags else None

    @property
    def seeds(self) -> int:
        """How many seeds it trained."""
        return int(self.tags[_SEEDS])

    @property
    def checkpoint(self) -> str:
        """The URI of the folder with its weights."""
        return self.tags[CHECKPOINT]

    @property
    def pruned(self) -> Pruned:
        """Why it has no result that counts though nothing failed; "" where that is not so."""
        return cast(Pruned, self.tags.get(PRUNED, ""))

    @property
    def complete(self) -> bool:
        """Whether its result counts: it was trained to its end. Fronts, tables and scores are of these alone."""
        return self.status == "FINISHED" and not self.pruned

    @property
    def auxiliary(self) -> bool:
        """Whether it only served to choose values for others, or to confirm others: no front or table shows it."""
        return self.stage in ("choose", "confirm")


def with_metrics(record: TrialRecord, metrics: Mapping[str, float]) -> TrialRecord:
    """A record with further numbers."""
    return replace(record, metrics={**record.metrics, **metrics})


def broken_by(record: TrialRecord, constraints: Mapping[str, Limit]) -> dict[str, float]:
    """``broken_limits`` of a trial that was trained.

    One that confirms another has other seeds, and ``train_seconds`` are of all of a trial's: those of the other count.
    """
    of_search = record.confirms is None
    limits = {name: limit for name, limit in constraints.items() if of_search or name != "train_seconds"}
    return broken_limits(limits, record.metrics)


def counted(
    records: Sequence[TrialRecord], constraints: Mapping[str, Limit], objectives: Iterable[str] = ("val_auc",)
) -> list[TrialRecord]:
    """The trials that count as results of their study: fronts, tables, scores and budgets are of these alone.

    They were trained to their end, have every objective as a number, keep to the constraints, and do not only serve
    others.
    """
    return [
        record
        for record in records
        if record.complete
        and not record.auxiliary
        and all(math.isfinite(record.metrics.get(name, math.nan)) for name in objectives)
        and not broken_by(record, constraints)
    ]


def infeasible(records: Sequence[TrialRecord], constraints: Mapping[str, Limit]) -> list[TrialRecord]:
    """The trials that were trained to their end and break a constraint."""
    return [
        record for record in records if record.complete and record.stage != "choose" and broken_by(record, constraints)
    ]


def study_tags(
    objectives: Mapping[str, Mode],
    searched: Sequence[str],
    data_note: str,
    *,
    study_id: str,
    constraints: Mapping[str, Limit],
    starts_at_paper: bool = True,
    score: str = "auc",
) -> dict[str, str]:
    """What ``StudyRun`` reads of a study."""
    return {
        STUDY_ID: study_id,
        _OBJECTIVES: json.dumps(dict(objectives)),
        _CONSTRAINTS: json.dumps({name: asdict(limit) for name, limit in constraints.items()}),
        _SEARCHED: json.dumps(list(searched)),
        DATA_NOTE: data_note,
        _STARTS_AT_PAPER: json.dumps(starts_at_paper),
        _SCORE: score,
    }


def store_tags(stores: Sequence[str]) -> dict[str, str]:
    """The same of the feature stores, which may be made later than the study began."""
    return {_STORES: json.dumps(list(stores))}


def images_tags(images: ImagesNote) -> dict[str, str]:
    """The same of the images."""
    return {_IMAGES: json.dumps(asdict(images))}


def title_of(number: int, tags: Mapping[str, str]) -> str:
    """What a trial's run is called (see ``names.trial_title``), by its number and its ``trial_tags``."""
    return trial_title(number, json.loads(tags.get(_PROPOSAL, "{}")), tags.get(_LABEL, ""), tags.get(_CONFIRMS))


def trial_tags(
    values: Mapping[str, object],
    label: str,
    *,
    stage: str | None = None,
    seeds: int | None = None,
    confirms: int | None = None,
) -> dict[str, str]:
    """What ``TrialRecord`` reads of a trial; ``label`` is the name of its point, if it has one."""
    beside = {_STAGE: stage, _SEEDS: seeds, _CONFIRMS: confirms}
    said = {name: str(value) for name, value in beside.items() if value is not None}
    return {_PROPOSAL: json.dumps(dict(values)), _LABEL: label, **said}
