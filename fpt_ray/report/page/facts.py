"""The question of a study and its data, as tables: what was asked, of which images, when, with what."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from fpt_ray.display.typesetting import Table, text_column
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.labels import CLASS_TASKS
from fpt_ray.images.table import ImageTable, counts_by_split
from fpt_ray.report.result import StudyResult
from fpt_ray.tracking.records import TrialRecord

LISTED = 30
"""Classes and failures that are listed."""


def facts_table(result: StudyResult, images: ImageTable | None) -> Table:
    """What was asked, of which images, and how far the search went."""
    facts: dict[str, str] = {}
    if images is not None:
        skipped = f", {len(images.skipped)} could not be read" if images.skipped else ""
        sizes = ", ".join(f"{len(images.of(split)):,} {split}" for split in SPLITS)
        facts |= {
            "task": images.task,
            "images": f"{len(images):,} ({sizes}){skipped}",
            "image table": images.digest()[:12],
        }
        if images.fold:
            facts["fold that validates"] = images.fold
    backbones = sorted({one.params[name] for one in result.trials if (name := "backbone.name") in one.params})
    sizes_px = {int(one.params[name]) for one in result.trials if (name := "features.resolution") in one.params}
    facts |= {
        "large pre-trained model": ", ".join(backbones) or "-",
        "resolution": ", ".join(f"{size} px" for size in sorted(sizes_px)) or "-",
        "searched": ", ".join(result.searched) or "nothing",
        "objectives": ", ".join(f"{name} ({mode})" for name, mode in result.objectives.items()),
    }
    if result.constraints:
        facts["constraints"] = "; ".join(f"{name} {limit}" for name, limit in result.constraints.items())
    counts = Counter(one.pruned or one.status.lower() for one in result.trials if one.stage != "confirm")
    facts["trials"] = ", ".join(f"{count} {ending}" for ending, count in counts.items()) or "none"
    if result.confirmed:
        facts["confirmed with new seeds"] = f"{len(result.confirmed)} trials"
    return Table(labels=list(facts), columns=[text_column("", list(facts.values()), left=True)])


def classes_table(images: ImageTable) -> Table | None:
    """Images of each class in each split; the names alone where an image may have several labels."""
    if images.task not in CLASS_TASKS:
        return Table(labels=list(some(images.classes)), heading="labels" if len(images.classes) > 1 else "value")
    counts = counts_by_split(images)
    shown = images.classes[:LISTED]
    more = len(images.classes) - len(shown)
    columns = [
        text_column(split, [f"{count:,}" for count in row[: len(shown)]])
        for split, row in zip(SPLITS, counts.tolist(), strict=True)
    ]
    footnotes = [f"and {more} more classes"] if more else []
    return Table(heading="class", labels=list(shown), columns=columns, footnotes=footnotes)


def time_text(trials: Sequence[TrialRecord]) -> str:
    """From the first trial's beginning to the last one's end, in UTC."""
    began = [one.started_s for one in trials if one.started_s]
    ended = [one.ended_s for one in trials if one.ended_s]
    if not began or not ended:
        return ""
    first, last = (datetime.fromtimestamp(at, UTC) for at in (min(began), max(ended)))
    return f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"


def some(lines: Sequence[str]) -> Sequence[str]:
    """The first lines, and how many more there are."""
    return lines if len(lines) <= LISTED else (*lines[:LISTED], f"and {len(lines) - LISTED} more")


def versions_table(versions: Mapping[str, str]) -> Table | None:
    """What computed it: libraries and the commit; None where that was not stored."""
    known = {name.removeprefix("version.").replace("git_", ""): versions[name] for name in sorted(versions)}
    return Table(labels=list(known), columns=[text_column("", list(known.values()), left=True)]) if known else None
