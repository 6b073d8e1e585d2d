"""What each of the paper's tables and figures shows, and which trial belongs to which of its rows."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from fpt_ray.paper.numbers import METHOD_NAMES, RUNGS

MemoryTable = Literal["table1", "table2", "table3", "table4"]
"""The tables that print what training takes."""
As = Literal["table1", "table1_dino", "table2", "table3", "table4", "figure1", "figure6", "figure7", "figure8"]


@runtime_checkable
class Record(Protocol):
    """A trial, as ``tracking.TrialRecord`` holds it."""

    @property
    def params(self) -> Mapping[str, str]:
        """Its settings, {dotted name: value}."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """Its last numbers."""
        ...

    @property
    def tags(self) -> Mapping[str, str]:
        """What else its run says of it."""
        ...

    @property
    def status(self) -> str:
        """``FINISHED``, ``FAILED``, ``RUNNING`` or ``KILLED``."""
        ...

    @property
    def pruned(self) -> str:
        """Why it has no result that counts though nothing failed; "" where that is not so."""
        ...

    @property
    def complete(self) -> bool:
        """Whether its result counts: it was trained to its end."""
        ...

    @property
    def auxiliary(self) -> bool:
        """Whether it only served to choose values for a row, or confirms another trial."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """What a table or figure shows."""

    title: str
    heading: str
    """Over the rows' labels."""
    needs: str
    """What it shows, in words."""
    key: Callable[[Record], Hashable | None]
    """What a trial is a row of; None: it is not in this table."""
    fields: Sequence[str] = ()
    order: Sequence[Hashable] = ()
    """Of the rows. Default: from the lowest to the highest."""
    space: As | None = None
    """The search space that makes such trials. Default: that of its own name."""


# --- which trial is which row ---------------------------------------------------------------------------------


def _method(record: Record) -> str | None:
    return METHOD_NAMES.get(record.params.get("method", ""))


def _of_dino(record: Record) -> str | None:
    return _method(record) if "dino" in record.params.get("backbone.name", "") else None


def _method_at(record: Record) -> tuple[str, int] | None:
    method = _method(record)
    return None if method is None else (method, int(record.params["features.resolution"]))


def _of_fpt_plus(name: str, kind: Callable[[str], float]) -> Callable[[Record], float | None]:
    def value(record: Record) -> float | None:
        params = record.params
        fits = params.get("method") == "fpt+" and params.get("features.preloaded") == "True"
        return kind(params[name]) if fits and params["side.num_prompts"] != "0" else None

    return value


def _rung(record: Record) -> str | None:
    """The bar of Figure 7 by the trial's label, else by what its configuration is."""
    params, names = record.params, {name.casefold(): name for name in RUNGS}
    if label := names.get(record.tags.get("label", "").casefold()):
        return label
    method, rungs = params.get("method"), list(RUNGS)
    if method not in ("fpt+", "mlp_transfer"):
        return None
    if method == "mlp_transfer":
        return rungs[1]
    if params["side.num_prompts"] == "0":
        return rungs[0]
    if params["features.preloaded"] == "True":
        return rungs[5]
    if float(params["features.token_ratio"]) < 1:
        return rungs[4]
    return rungs[2] if params["side.resolution"] == params["features.resolution"] else rungs[3]


_METHODS = tuple(METHOD_NAMES.values())
_ALL = ("average_auc", "params_percent", "memory_mb", "ppe", "pme")
_SWEPT = "FPT+ trials with preloaded features"
LAYOUTS: Mapping[As, Layout] = {
    "table1": Layout(title="Table 1", heading="Method", needs="trials of its methods", key=_method, order=_METHODS),
    "table1_dino": Layout(
        title="Table 1, DINO",
        heading="Method",
        needs="trials of its methods on a backbone with DINO's weights",
        key=_of_dino,
        order=_METHODS,
    ),
    "table2": Layout(title="Table 2", heading="Method", needs="trials of its methods", key=_method_at, order=_METHODS),
    "table3": Layout(
        title="Table 3",
        heading="Input Resolution",
        needs=_SWEPT,
        key=_of_fpt_plus("side.resolution", int),
        fields=("average_auc", "memory_mb", "pme"),
    ),
    "table4": Layout(
        title="Table 4",
        heading="# Prompt",
        needs=_SWEPT,
        key=_of_fpt_plus("side.num_prompts", int),
        fields=_ALL,
    ),
    "figure1": Layout(
        title="Figure 1",
        heading="Method",
        needs="trials of its methods",
        key=_method,
        fields=("params_percent", "memory_mb", "average_auc"),
        order=_METHODS,
        space="table1",
    ),
    "figure6": Layout(
        title="Figure 6",
        heading="Layers of the side network",
        needs=_SWEPT,
        key=_of_fpt_plus("side.depth", int),
        fields=("average_auc", "ppe", "pme", "memory_mb"),
    ),
    "figure7": Layout(
        title="Figure 7",
        heading="Component",
        needs="trials of FPT+'s components",
        key=_rung,
        fields=("average_auc", "memory_mb"),
        order=tuple(RUNGS),
    ),
    "figure8": Layout(
        title="Figure 8",
        heading="Ratio of important tokens",
        needs=_SWEPT,
        key=_of_fpt_plus("features.token_ratio", lambda text: round(float(text), 6)),
        fields=("average_auc", "ppe", "pme"),
    ),
}
