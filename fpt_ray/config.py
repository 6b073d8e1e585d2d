"""What a trial and a study are, as values: frozen dataclasses, dotted names, search spaces in YAML.

One dotted name, such as ``side.num_prompts``, is the attribute, the command-line flag, the YAML key, the Optuna
parameter and the MLflow parameter. Defaults are the paper's (section 4.2.1), so a default trial *is* FPT+.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

Method = Literal["fpt+", "fpt"]
Importance = Literal["global", "class_token"]
StoredDtype = Literal["float16", "bfloat16", "float32"]
Precision = Literal["auto", "bfloat16", "float32"]
Mode = Literal["max", "min"]
Value = bool | int | float | str | None

OBJECTIVES: Mapping[str, Mode] = {
    "val_auc": "max",
    "ppe": "max",
    "pme": "max",
    "param_ratio": "min",
    "memory_ratio": "min",
}
SAMPLERS = ("tpe", "nsga2", "random")


class ConfigError(ValueError):
    """A value the user gave cannot be used. The message names the field, the value and the remedy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """The large pre-trained model (LPM) M, frozen."""

    name: str = "vit_base_patch16_384.augreg_in21k_ft_in1k"
    """timm's name of the ViT."""
    weights: str | None = None
    """A local .safetensors, .pth or .onnx file; nothing: timm's weights of that name; "random": none (for tests)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesConfig:
    """What is taken from the LPM (sections 3.3 and 3.5). A store may hold more than a trial takes."""

    resolution: int = 512
    """Side of the square high-resolution input I_h, in pixels."""
    token_ratio: float = 0.2
    """The important tokens a head keeps, as a share of all tokens (class token included); the paper's m%."""
    importance: Importance = "global"
    """A token's score: mean attention of all queries, or the class token's attention."""
    dtype: StoredDtype = "float16"
    """Type of the stored keys and values."""
    precision: Precision = "auto"
    """The LPM's arithmetic; auto: bfloat16 where the processor or GPU has it."""
    mean: tuple[float, float, float] | None = None
    """Mean of the input channels in 0..1; nothing: the one the LPM was trained with."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of the input channels in 0..1; nothing: the one the LPM was trained with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SideConfig:
    """The learnable side network S, its fine-grained prompts and fusion modules (sections 3.2 to 3.4)."""

    depth: int = 6
    """Layers L_S; they read the last L_S layers of the LPM (Eq. 5)."""
    num_prompts: int = 16
    """Fine-grained prompts P a layer; 0: the side network alone."""
    reduction: int = 8
    """Factor k between the LPM's width and the side network's."""
    resolution: int = 128
    """Side of the square low-resolution input I_l, in pixels."""
    prompt_dropout: float = 0.5
    """Dropout on what the fusion module hands to the side network (in the authors' code, not in the paper)."""
    prompt_width: int | None = None
    """Width of the prompts; nothing: the LPM's (FPT+), the side network's (FPT)."""
    shared_norm: bool = True
    """One layer norm for the prompts of all fusion modules, or one each (FPT+ only; FPT has none)."""
    shared_projector: bool = True
    """One out-projector for all fusion modules, or one each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How the side network is trained (section 4.2.1; what the paper leaves open is the authors' code's)."""

    epochs: int = 20
    batch_size: int = 16
    """Images a step, over all workers."""
    learning_rate: float = 5e-4
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    """Largest norm of the gradient of all parameters."""
    class_weights: bool = False
    """Weigh the loss by inverse class frequency of the training split."""
    augment: bool = True
    """Random crop, flip, brightness and contrast of the low-resolution input."""
    precision: Precision = "auto"
    """Arithmetic of the side network; auto: bfloat16 autocast on a GPU that has it, else float32."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialConfig:
    """One point of a search space. The default is FPT+ as the paper ran it."""

    method: Method = "fpt+"
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    side: SideConfig = field(default_factory=SideConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        _check_ranges(self)


def _check_ranges(trial: TrialConfig) -> None:
    positive = (
        "features.resolution",
        "features.token_ratio",
        "side.depth",
        "side.reduction",
        "side.resolution",
        "training.epochs",
        "training.batch_size",
        "training.learning_rate",
        "training.clip_norm",
    )
    values = flatten(trial)
    for name in positive:
        if not values[name] > 0:
            raise ConfigError(f"{name} is {values[name]!r}; it must be larger than 0")
    if not trial.features.token_ratio <= 1:
        raise ConfigError(f"features.token_ratio is {trial.features.token_ratio!r}; it is a share, at most 1")
    if trial.side.num_prompts < 0:
        raise ConfigError(f"side.num_prompts is {trial.side.num_prompts}; it must be 0 or more")
    if not 0 <= trial.side.prompt_dropout < 1:
        raise ConfigError(f"side.prompt_dropout is {trial.side.prompt_dropout!r}; it must be in [0, 1)")


# --- dotted names ---------------------------------------------------------------------------------------------


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as {dotted name: value}, in the order of its fields."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[prefix + item.name] = value
    return flat


def field_types(kind: type = TrialConfig, prefix: str = "") -> dict[str, Any]:
    """{dotted name: annotated type} of every leaf of a configuration."""
    hints = typing.get_type_hints(kind)
    leaves: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            leaves |= field_types(typing.cast(type, hint), f"{prefix}{item.name}.")
        else:
            leaves[prefix + item.name] = hint
    return leaves


def override(trial: TrialConfig, values: Mapping[str, Any]) -> TrialConfig:
    """Another trial, with the values of these dotted names.

    Raises:
        ConfigError: a name is unknown or a value does not fit its field.
    """
    leaves = field_types()
    groups: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for name, value in values.items():
        if name not in leaves:
            raise ConfigError(f"unknown name {name!r}; {_nearest(name, leaves)}")
        group, _, leaf = name.rpartition(".")
        (groups.setdefault(group, {}) if group else top)[leaf] = coerce(name, value, leaves[name])
    changed = {group: dataclasses.replace(getattr(trial, group), **leaf) for group, leaf in groups.items()}
    return dataclasses.replace(trial, **changed, **top)


def trial_from(values: Mapping[str, Any]) -> TrialConfig:
    """The default trial with the values of these dotted names."""
    return override(TrialConfig(), values)


def coerce(name: str, value: Any, hint: Any) -> Any:
    """A value from YAML, Optuna or a manifest as its field's type; ConfigError where it does not fit."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        hint = next(arg for arg in args if arg is not type(None))
        origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != len(args):
            raise ConfigError(f"{name} is {value!r}; give {len(args)} numbers")
        return tuple(coerce(name, item, arg) for item, arg in zip(value, args, strict=True))
    if hint is bool or isinstance(value, bool):
        if hint is bool and isinstance(value, bool):
            return value
        raise ConfigError(f"{name} is {value!r}; it takes {_kind(hint)}")
    try:
        converted = hint(value)
        whole = isinstance(value, str) or converted == value
        fits = whole if hint is int else hint is not float or math.isfinite(converted)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{name} is {value!r}; it takes {_kind(hint)}") from None
    if not fits:
        raise ConfigError(f"{name} is {value!r}; it takes {_kind(hint)}")
    return converted


def _kind(hint: Any) -> str:
    kinds = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return kinds.get(hint, str(hint))


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


# --- search spaces --------------------------------------------------------------------------------------------


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

    def widest(self) -> Any:
        """The largest value this row can take."""
        return max(self.choices) if self.choices is not None else self.high  # type: ignore[type-var]

    def values(self) -> tuple[Any, ...]:
        """All values of a finite row; ConfigError for a continuous one."""
        if self.choices is not None:
            return self.choices
        if self.step is None or self.low is None or self.high is None:
            raise ConfigError(f"{self.name} is searched continuously; give it {{choices: [...]}} or a step")
        count = int((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(type(self.low)(self.low + i * self.step) for i in range(count))


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """What a study searches: rows, objectives, and what is fixed for all its trials."""

    rows: tuple[SearchRow, ...]
    objectives: Mapping[str, Mode]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    sampler: str = "tpe"
    num_trials: int = 32
    seed: int = 0
    text: str = ""
    """The YAML it was read from."""

    def base(self) -> TrialConfig:
        """The trial all proposals are overrides of."""
        return trial_from(self.fixed)

    def trial(self, values: Mapping[str, Any]) -> TrialConfig:
        """The trial a proposal {dotted name: value} stands for."""
        return override(self.base(), values)

    def widest(self, name: str) -> Any:
        """The largest value of a dotted name over the space, searched or fixed."""
        for row in self.rows:
            if row.name == name:
                return max(row.widest(), flatten(self.base())[name]) if row.when else row.widest()
        return flatten(self.base())[name]

    def values_of(self, name: str) -> tuple[Any, ...]:
        """All values of a dotted name over the space, searched or fixed."""
        fixed = flatten(self.base())[name]
        for row in self.rows:
            if row.name == name:
                return tuple(dict.fromkeys((*row.values(), fixed))) if row.when else row.values()
        return (fixed,)

    def stores(self) -> tuple[TrialConfig, ...]:
        """The widest trial for each feature store the space needs: one for every high resolution and importance."""
        wide = {name: self.widest(name) for name in ("features.token_ratio", "side.depth", "side.resolution")}
        combinations: list[dict[str, Any]] = [{}]
        for name in ("backbone.name", "backbone.weights", "features.resolution", "features.importance"):
            combinations = [{**known, name: value} for known in combinations for value in self.values_of(name)]
        return tuple(self.trial({**wide, **which}) for which in combinations)


_SPACE_KEYS = ("space", "fixed", "objectives", "sampler", "num_trials", "seed")
_ROW_KEYS = ("low", "high", "step", "log", "choices", "when")


def load_space(path: str | Path) -> SearchSpace:
    """Reads a search space.

    Raises:
        ConfigError: with the file, the key, the value and what to write instead.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the search space cannot be read ({error})") from None
    try:
        return parse_space(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_space(text: str) -> SearchSpace:
    """A search space from YAML text; ConfigError where it is not one."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError("a search space is a mapping with the keys " + ", ".join(_SPACE_KEYS))
    for key in document:
        if key not in _SPACE_KEYS:
            raise ConfigError(f"unknown key {key!r}; {_nearest(str(key), _SPACE_KEYS)}")
    rows = tuple(_row(str(name), row) for name, row in _mapping(document, "space").items())
    names = [row.name for row in rows]
    for row in rows:
        for other in row.when:
            if other not in names[: names.index(row.name)]:
                raise ConfigError(f"space.{row.name}.when: {other!r} must be a row that stands above it")
    space = SearchSpace(
        rows=rows,
        objectives=_objectives(document),
        fixed=_mapping(document, "fixed"),
        sampler=str(document.get("sampler", "tpe")),
        num_trials=coerce("num_trials", document.get("num_trials", 32), int),
        seed=coerce("seed", document.get("seed", 0), int),
        text=text,
    )
    if space.sampler not in SAMPLERS:
        raise ConfigError(f"sampler is {space.sampler!r}; choose one of {', '.join(SAMPLERS)}")
    for name in space.fixed:
        if name in names:
            raise ConfigError(f"{name} is both searched and fixed; remove one of the two")
    space.base()
    return space


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{key} is {value!r}; it must be a mapping from dotted names")
    return value


def _objectives(document: Mapping[str, Any]) -> Mapping[str, Mode]:
    given = _mapping(document, "objectives") or {"val_auc": "max"}
    for name, mode in given.items():
        if name not in OBJECTIVES:
            raise ConfigError(f"objectives: unknown objective {name!r}; {_nearest(str(name), OBJECTIVES)}")
        if mode not in ("max", "min"):
            raise ConfigError(f"objectives.{name} is {mode!r}; choose max or min")
    return given


def _row(name: str, given: Any) -> SearchRow:
    leaves = field_types()
    where = f"space.{name}"
    if name not in leaves:
        raise ConfigError(f"{where}: unknown name; {_nearest(name, leaves)}")
    if not isinstance(given, dict) or not ("choices" in given) ^ ("low" in given and "high" in given):
        forms = "{low: .., high: ..[, step: ..|log: true]} or {choices: [..]}"
        raise ConfigError(f"{where} is {given!r}; give {forms}")
    for key in given:
        if key not in _ROW_KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}; {_nearest(str(key), _ROW_KEYS)}")
    when = {
        str(other): tuple(wanted if isinstance(wanted, list) else [wanted])
        for other, wanted in (given.get("when") or {}).items()
    }
    if "choices" in given:
        choices = given["choices"]
        if not isinstance(choices, list) or not choices:
            raise ConfigError(f"{where}.choices is {choices!r}; the range is empty, give at least one value")
        return SearchRow(name=name, choices=tuple(coerce(where, item, leaves[name]) for item in choices), when=when)
    return _range(name, given, leaves[name], when)


def _range(name: str, given: Mapping[str, Any], hint: Any, when: Mapping[str, tuple[Value, ...]]) -> SearchRow:
    where = f"space.{name}"
    if hint not in (int, float):
        raise ConfigError(f"{where}: {name} is no number; give {{choices: [...]}}")
    low, high = (coerce(f"{where}.{end}", given[end], hint) for end in ("low", "high"))
    step = coerce(f"{where}.step", given["step"], hint) if given.get("step") is not None else None
    log = coerce(f"{where}.log", given.get("log", False), bool)
    if low > high:
        raise ConfigError(f"{where}: low {low} is above high {high}; the range is empty")
    if step is not None and (step <= 0 or log):
        raise ConfigError(f"{where}: step is {step}; it must be larger than 0 and goes without log")
    if log and low <= 0:
        raise ConfigError(f"{where}: low is {low}; a logarithmic range starts above 0")
    if hint is int and step is None and not log:
        step = 1
    return SearchRow(name=name, low=low, high=high, step=step, log=log, when=when)
