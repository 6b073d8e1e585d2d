"""What a study searches, as a value: rows over dotted names, objectives and fixed overrides.

``points`` are named configurations beside the rows, such as the methods of a table. With ``sampler: grid`` every point
is run with every combination of the rows' values, ``repeats`` times with different seeds; of the rows named by
``choose`` only the values of the highest validation score are repeated, the others run once.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fpt_ray.config.dotted import flatten
from fpt_ray.config.identity import identifying
from fpt_ray.config.objectives import Limit, Mode
from fpt_ray.config.preparation import Preparation
from fpt_ray.config.rungs import Rung
from fpt_ray.config.trial import (
    EVEN,
    NESTED,
    OF_EACH,
    PATTERNS,
    SUMMARY_METHODS,
    BackboneConfig,
    TrialConfig,
    Value,
    override,
    reads_features,
    reads_images,
    reads_low_resolution,
    trial_from,
)
from fpt_ray.errors import ConfigError

SAMPLERS = ("tpe", "nsga2", "gp", "random", "grid")
EARLY_STOPPING = ("none", "asha", "median")
POINT = "point"
"""Key beside the dotted names of a proposal: the name of its point."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRow:
    """One searched dotted name: a range or a list of choices, perhaps conditional on another row."""

    name: str
    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = None
    log: bool = False
    choices: tuple[Value, ...] | None = None
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def active(self, values: Mapping[str, Any]) -> bool:
        """Whether the rows this one depends on have a value it wants."""
        return all(values.get(other) in wanted for other, wanted in self.when.items())

    def holds(self, value: Any) -> bool:
        """Whether a value is one of this row's."""
        if self.choices is not None or self.step is not None:
            return any(value == known for known in self.values())
        return isinstance(value, (int, float)) and self.low <= value <= self.high  # type: ignore[operator]

    def widest(self) -> Any:
        """The largest value this row can take."""
        if self.choices is not None:
            return max((choice for choice in self.choices if choice is not None), default=None)
        return self.values()[-1] if self.step is not None else self.high

    def values(self) -> tuple[Any, ...]:
        """All values of a finite row; ConfigError for a continuous one."""
        if self.choices is not None:
            return self.choices
        if self.step is None or self.low is None or self.high is None:
            raise ConfigError(f"{self.name} is searched continuously; give it {{choices: [...]}} or a step")
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(type(self.low)(self.low + i * self.step) for i in range(count))


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreNeed:
    """What a store must hold for some trials that read the same features."""

    trial: TrialConfig
    """One of them, with the most tokens, layers and prompts of all."""
    blocks: tuple[tuple[str, int], ...]
    """What they have as ``side.blocks`` and ``side.depth``, sorted; of patterns that nest, the most layers."""
    side_resolutions: tuple[int, ...]
    """In pixels, rising."""
    summaries: bool = False
    """Whether some of them read the class tokens and mean patch tokens."""
    images: bool = True
    """Whether some of them read low-resolution images."""

    def trials(self) -> tuple[TrialConfig, ...]:
        """The widest trial of each choice of blocks and of each side resolution."""
        return tuple(
            override(self.trial, {"side.blocks": text, "side.depth": depth, "side.resolution": resolution})
            for text, depth in self.blocks
            for resolution in self.side_resolutions
        )

    def with_other(self, other: "StoreNeed") -> "StoreNeed":
        """What both need."""
        first, second = flatten(self.trial), flatten(other.trial)
        reader = self.trial if reads_features(self.trial) else other.trial
        return StoreNeed(
            trial=override(reader, {name: max(first[name], second[name]) for name in _WIDEST}),
            blocks=_widest_blocks({*self.blocks, *other.blocks}),
            side_resolutions=tuple(sorted({*self.side_resolutions, *other.side_resolutions})),
            summaries=self.summaries or other.summaries,
            images=self.images or other.images,
        )


def _widest_blocks(blocks: set[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    most: dict[str, int] = {}
    for text, depth in blocks:
        most[text] = max(depth, most.get(text, 0))
    return tuple(sorted(one for one in blocks if one[0] not in NESTED or one[1] == most[one[0]]))


def need_of(trial: TrialConfig) -> StoreNeed:
    """What a store must hold for one trial."""
    text = trial.side.blocks
    depth = trial.side.depth if text in PATTERNS else len(text.split(","))
    return StoreNeed(
        trial=trial,
        blocks=((text, depth),),
        side_resolutions=(trial.side.resolution,),
        summaries=trial.method in SUMMARY_METHODS,
        images=reads_low_resolution(trial),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """What a study searches: rows, objectives, and what is fixed for all its trials."""

    rows: tuple[SearchRow, ...]
    objectives: Mapping[str, Mode]
    constraints: Mapping[str, Limit] = field(default_factory=dict)
    """Of objectives and of what is known before training."""
    early_stopping: str = "none"
    grace_epochs: int = 3
    """Epochs before the first trial may be stopped."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    sampler: str = "tpe"
    num_trials: int = 32
    seed: int = 0
    points: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """{name: overrides}; a name is also the label of a table's row."""
    repeats: int = 1
    """Seeds of a trial; its numbers are their mean and standard deviation."""
    choose: tuple[str, ...] = ()
    """Rows whose value is chosen on the validation split, for each combination of the others."""
    rungs: tuple[Rung, ...] = ()
    """Searched one after the other, each over a part of the space; empty: the space is searched at once."""
    text: str = ""
    """The YAML it was read from."""

    def identity(self) -> dict[str, Any]:
        """{field: value} of all that decides what its trials answer.

        How many trials there are, where weights lie (their digest counts) and how YAML is written are no part of it.
        """
        others = ("rows", "fixed", "constraints", "objectives", "num_trials", "rungs", "text")
        plain = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name not in others}
        rows = {f"space.{row.name}": dataclasses.asdict(row) for row in self.rows}
        rungs = {f"rungs.{number}": dataclasses.asdict(rung) for number, rung in enumerate(self.rungs)}
        limits = {f"constraints.{name}": dataclasses.asdict(limit) for name, limit in self.constraints.items()}
        fixed = {f"fixed.{name}": value for name, value in identifying(flatten(self.base())).items()}
        return {**plain, **rows, **rungs, **limits, **fixed, "objectives": list(self.objectives.items())}

    def backbones(self) -> tuple[BackboneConfig, ...]:
        """Every backbone that its trials may have."""
        rows = [row for row in self.rows if row.name.startswith("backbone.")]
        found = [
            self.trial({**self.points.get(point, {}), **dict(zip([row.name for row in rows], values, strict=True))})
            for point in self.points or ("",)
            for values in itertools.product(*(self.values_of(row.name) for row in rows))
        ]
        return tuple(dict.fromkeys(trial.backbone for trial in found))

    @property
    def score(self) -> str:
        """What picks the best epoch, and the best of trials: ``val_auc``, or what ``training.select_by`` says."""
        asked = self.fixed.get("training.select_by", "auto")
        return f"val_{'auc' if asked == 'auto' else asked}"

    @property
    def unused_seed(self) -> int:
        """The first of the seeds that no trial of the search has."""
        of_points = [point["training.seed"] for point in self.points.values() if "training.seed" in point]
        return max(self.widest("training.seed"), *of_points, 0) + self.repeats

    @property
    def enqueues(self) -> bool:
        """Whether all its proposals are enqueued, as those of a grid and of rungs are."""
        return self.sampler == "grid" or bool(self.rungs)

    def base(self) -> TrialConfig:
        """The trial all proposals are overrides of."""
        return trial_from(self.fixed)

    def trial(self, values: Mapping[str, Any]) -> TrialConfig:
        """The trial a proposal {dotted name: value} stands for; it may name a point."""
        plain = {name: value for name, value in values.items() if name != POINT}
        return override(self.base(), {**self.points.get(values.get(POINT, ""), {}), **plain})

    def shape_of(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Of a proposal's values those that trials share which train as one model; None where no other has them."""
        shape = {name: value for name, value in values.items() if name not in OF_EACH}
        return shape if len(shape) < len(values) else None

    def grid(self) -> tuple[dict[str, Any], ...]:
        """Every proposal of a finite space, in order; ConfigError for a continuous one."""
        proposals: list[dict[str, Any]] = [{POINT: name} for name in self.points] or [{}]
        for row in self.rows:
            wider = []
            for proposal in proposals:
                active = row.active(flatten(self.trial(proposal)))
                wider += [{**proposal, row.name: value} for value in row.values()] if active else [proposal]
            proposals = wider
        return tuple(proposals)

    def widest(self, name: str) -> Any:
        """The largest value of a dotted name over the rows, searched or fixed."""
        for row in self.rows:
            if row.name == name:
                return max(row.widest(), flatten(self.base())[name]) if row.when else row.widest()
        return flatten(self.base())[name]

    def values_of(self, name: str) -> tuple[Any, ...]:
        """All values of a dotted name over the rows, searched or fixed."""
        fixed = flatten(self.base())[name]
        for row in self.rows:
            if row.name == name:
                return tuple(dict.fromkeys((*row.values(), fixed))) if row.when else row.values()
        return (fixed,)

    def stores(self) -> tuple[StoreNeed, ...]:
        """What each store holds that the space needs: one for every resolution, importance and kind of reader."""
        wide = {name: self.widest(name) for name in _WIDEST}
        texts = {*self.values_of("side.blocks"), *(point.get("side.blocks") for point in self.points.values())}
        united = (*_UNITED, "side.depth") if EVEN in texts else _UNITED
        searched = [name for name in (*_STORE_FIELDS, *united) if any(row.name == name for row in self.rows)]
        needs: dict[Any, StoreNeed] = {}
        for point in self.points or ("",):
            own = self.points.get(point, {})
            for combined in itertools.product(*(self.values_of(name) for name in searched)):
                values = dict(zip(searched, combined, strict=True))
                if not self._may_occur(values, own):
                    continue
                need = need_of(self.trial({**wide, **own, **values}))
                key = _store_key(need.trial)
                needs[key] = needs[key].with_other(need) if key in needs else need
        return tuple(needs.values())

    def _may_occur(self, values: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
        """Whether a trial of a point has these values together, as far as they decide which of their rows are active.

        A row that is not active leaves its name at the value that is fixed.
        """
        fixed, open_names = {**flatten(self.base()), **own}, {row.name for row in self.rows} - values.keys()
        for row in (row for row in self.rows if row.when and row.name in values):
            known = {name: values.get(name, fixed.get(name)) for name in row.when.keys() - open_names}
            is_active = all(value in row.when[name] for name, value in known.items())
            is_sure = is_active and len(known) == len(row.when)
            stays, inside = values[row.name] == fixed[row.name], row.holds(values[row.name])
            if not (inside if is_sure else stays or (is_active and inside)):
                return False
        return True


def _store_key(trial: TrialConfig) -> Any:
    """What two trials must share to be served by one store."""
    values = flatten(trial)
    if reads_images(trial):
        return tuple(values[name] for name in _IMAGE_FIELDS)
    return tuple(values[name] for name in _STORE_FIELDS if name not in _READERS)


_WIDEST = ("features.token_ratio", "side.depth", "side.num_prompts")
_UNITED = ("side.blocks", "side.resolution")
_READERS = ("method", "features.preloaded")
_PREPARED = tuple(f"features.{item.name}" for item in dataclasses.fields(Preparation))
_IMAGE_FIELDS = ("backbone.name", *_PREPARED, "features.mean", "features.std")
_STORE_FIELDS = (
    *_READERS,
    *_IMAGE_FIELDS,
    "backbone.weights",
    "features.importance",
    "features.dtype",
    "features.precision",
)
"""Values that need a store of their own; of all others, the widest store serves the narrower trials."""
