"""What the test split says of a trial: all scores with their intervals, those of each class, what is taken for what.

It is stored with the trial when the test split is read; a report shows that of the study's best trial.
"""

import json
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from mlflow import MlflowClient

from fpt_ray.config.objectives import Limit
from fpt_ray.config.tasks import TITLES
from fpt_ray.display.charts import caption_inches, save_picture
from fpt_ray.display.typesetting import Column, Table, text_column
from fpt_ray.metrics.intervals import interval
from fpt_ray.metrics.scores import Scores
from fpt_ray.report.stored import stored_text
from fpt_ray.tracking.records import TrialRecord, broken_by

FILE = "test_scores.json"
"""Beside a trial's run."""
_MOST = 100
"""Classes of which a confusion matrix is kept."""
_LISTED = 20
"""Classes that are listed, and whose cells have their numbers written in them."""
_PLAIN = ("mae",)
"""Scores in the unit of what is learnt; all others are shown times 100."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tested:
    """What the test split says of a trial: means over its seeds."""

    classes: tuple[str, ...]
    seeds: int
    scores: Mapping[str, tuple[float, float, float]]
    """{score: its value, and both ends of its 95 % interval over resampled images}."""
    per_class: Mapping[str, Mapping[str, float]]
    """{class or label: {score: value}}; see ``metrics.scores.Scores``."""
    confusion: tuple[tuple[int, ...], ...]
    """Images by true (row) and predicted (column) class, of all seeds together; empty where there is none."""


def of_seeds(
    found: Sequence[Scores], samples: Mapping[str, Float[np.ndarray, " R"]], classes: tuple[str, ...]
) -> Tested:
    """What is stored, by the scores of a trial's seeds and the resamples of their means."""
    ends = {name: interval(samples[name]) for name in found[0].values}
    counted = [one.confusion for one in found if one.confusion is not None and len(classes) <= _MOST]
    return Tested(
        classes=classes,
        seeds=len(found),
        scores={name: (statistics.fmean(one[name] for one in found), own.low, own.high) for name, own in ends.items()},
        per_class={
            name: {
                score: statistics.fmean(one.per_class[name][score] for one in found)
                for score in row
                if all(score in one.per_class[name] for one in found)
            }
            for name, row in found[0].per_class.items()
        },
        confusion=tuple(map(tuple, np.sum(counted, axis=0).tolist())) if counted else (),
    )


def as_json(found: Tested) -> str:
    """As JSON."""
    return json.dumps(asdict(found), indent=1)


def best_tested(
    client: MlflowClient, records: Sequence[TrialRecord], score: str, constraints: Mapping[str, Limit]
) -> tuple[TrialRecord, Tested] | None:
    """The best trial by validation score of those whose test score is stored, confirmed ones first, and what is.

    Those that break a constraint are left out. ``predict.finding.best_of`` follows the same rule among bundles.
    """
    both = {f"val_{score}", f"test_{score}"}
    scored = [one for one in records if both <= one.metrics.keys() and not broken_by(one, constraints)]
    if not scored:
        return None
    best = max(scored, key=lambda one: (one.confirms is not None, one.metrics[f"val_{score}"], -one.number))
    if (text := stored_text(client, best.run_id, FILE)) is None:
        return None  # scored by an earlier version
    content = json.loads(text)
    rows = tuple(map(tuple, content["confusion"]))
    scores = {name: tuple(value) for name, value in content["scores"].items()}
    return best, Tested(**{**content, "classes": tuple(content["classes"]), "scores": scores, "confusion": rows})


# --- shown --------------------------------------------------------------------------------------------------------


def score_tables(record: TrialRecord, found: Tested) -> list[Table]:
    """The scores with their intervals, and those of each class."""
    number = record.number if record.confirms is None else record.confirms
    seeds = f", mean of {found.seeds} seeds" if found.seeds > 1 else ""
    scale = f"Scores x 100{but_for(found.scores)}, 95 % intervals over images."
    title = f"The test split by the best trial, {number}{seeds}. {scale}"
    rows = [(TITLES[name], *(score_text(name, one) for one in values)) for name, values in found.scores.items()]
    columns = [list(column) for column in zip(*rows, strict=True)]
    tables = [Table(title=title, columns=_columns(("score", "test", "95 % from", "to"), columns))]
    if found.per_class:
        tables.append(_class_table(found))
    return tables


def _class_table(found: Tested) -> Table:
    names = list(dict.fromkeys(score for row in found.per_class.values() for score in row))
    listed = list(found.per_class.items())[:_LISTED]
    more = len(found.per_class) - len(listed)
    cells = [[name for name, _ in listed]]
    cells += [[score_text(score, row.get(score)) for _, row in listed] for score in names]
    titles = ["class", *(TITLES.get(score, score) for score in names)]
    return Table(
        title="Each class against the rest; precision, recall and F1 are of what is predicted.",
        columns=_columns(titles, cells),
        footnotes=(f"and {more} more",) if more else (),
    )


def _columns(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> list[Column]:
    pairs = zip(titles, cells, strict=True)
    return [text_column(title, column, left=at == 0) for at, (title, column) in enumerate(pairs)]


def but_for(scores: Iterable[str]) -> str:
    """Which of these scores are not shown x 100."""
    return " but for the MAE" if any(name in _PLAIN for name in scores) else ""


def score_text(name: str, value: float | None) -> str:
    """A score as it is shown: x 100, but for the MAE; counts as they are."""
    if value is None:
        return "-"
    return f"{value:.0f}" if name == "images" else f"{value:.4g}" if name in _PLAIN else f"{100 * value:.2f}"


def draw_confusion(record: TrialRecord, found: Tested, path: Path) -> None:
    """The confusion matrix as a picture: shares of each true class as shades, with the images where there is room."""
    counts = np.array(found.confusion, np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    number = record.number if record.confirms is None else record.confirms
    title = f"What trial {number} takes for what on the test split"
    caption = "Rows are true classes, columns predicted ones. Shades are shares of a row, numbers are images"
    caption += f", of {found.seeds} seeds together." if found.seeds > 1 else "."
    side = max(4.5, 0.45 * len(counts) + 2)
    lines = textwrap.wrap(caption, int(14 * (side + 1)))
    foot = caption_inches(lines)
    figure = Figure(figsize=(side + 1, side + foot), dpi=150)
    panel = figure.subplots()
    image = panel.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=panel, fraction=0.046)
    panel.set_xticks(range(len(counts)), found.classes, rotation=45, ha="right", parse_math=False)
    panel.set_yticks(range(len(counts)), found.classes, parse_math=False)
    panel.set_xlabel("predicted")
    panel.set_ylabel("true")
    for row, column in np.ndindex(*counts.shape) if len(counts) <= _LISTED else ():
        colour = "white" if shares[row, column] > 0.5 else "black"
        panel.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=colour, fontsize=9)
    panel.set_title(title, fontsize=12, parse_math=False)
    figure.tight_layout(rect=(0, foot / figure.get_figheight(), 1, 1))
    save_picture(figure, path, title=title, caption=caption, lines=lines)
