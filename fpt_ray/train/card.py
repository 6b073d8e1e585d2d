"""The model card of a bundle: what it is, how far to trust it, what it must not be used for, how it is used.

After Mitchell et al., "Model Cards for Model Reporting" (arXiv 1810.03993).
"""

import json
import shlex
from collections.abc import Mapping, Sequence

from fpt_ray.config.preparation import Aspect
from fpt_ray.metrics.familiarity import UNLIKE
from fpt_ray.train.bundle import Bundle

LOW, HIGH = "_low", "_high"
"""What the names of metrics end in that are the ends of another one's 95 % interval."""
RELIABILITY_FILE = "reliability.png"
SPLIT_TITLES = {"val": "validation", "test": "test"}
"""What splits are called."""
_SQUARED: Mapping[Aspect, str] = {
    "squash": "stretched to a square",
    "pad": "made square with black bars",
    "crop": "cut down to its middle square",
}


def model_card(bundle: Bundle, uri: str, *, whole: bool = False) -> str:
    """Markdown, of which every number is in the bundle; ``whole``: the LPM's weights lie in it, too."""
    trial, data = bundle.trial, bundle.data
    sizes, groups = (_counts(data.get(kind, {})) for kind in ("images", "groups"))
    note = [f"**{data['note']}**", ""] if data["note"] else []
    splits = [split for split in SPLIT_TITLES if any(name.startswith(f"{split}_") for name in bundle.metrics)]
    return "\n".join(
        [
            f"# {trial.method} on {trial.backbone.name}",
            "",
            *note,
            f"Task: {bundle.target.task} ({', '.join(bundle.target.classes)}). Images: {sizes} (image table "
            f"{data['images_digest'][:12]})" + (f"; groups, such as patients: {groups}." if groups else "."),
            f"Input: {bundle.spec.resolution} px, {_prepared(bundle)}. Networks: {len(bundle.states)}, one a seed, "
            "whose calibrated answers are averaged.",
            "",
            "## How good it is",
            "",
            *_table(bundle.metrics, splits),
            "",
            "In brackets are the ends of a 95 % interval. Temperatures and thresholds were chosen on the validation",
            "split, as the epoch and the trial were: its numbers are optimistic, "
            + ("the test split's are not." if "test" in splits else "and the test split was kept for other trials."),
            "",
            *_reliability(bundle, SPLIT_TITLES[splits[-1]]),
            *_operating_points(bundle),
            "## What it must not be used for",
            "",
            *(f"- {one}" for one in out_of_scope_uses(bundle)),
            "",
            "## How to use it",
            "",
            "```",
            f"fpt-ray predict --model {shlex.quote(uri)} --images DIR --out predictions.parquet",
            "```",
            "",
            "```python",
            "import fpt_ray",
            "",
            f'fpt_ray.load({json.dumps(uri)}).predict(["image.png"])',
            "```",
            "",
            "Of a copy of this folder, give the copy's path in place of this one.",
            "",
            *_weights(bundle, whole),
            "",
            f"Made with {_versions(bundle)}.",
            "",
        ]
    )


def _counts(by_split: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in by_split.items())


def _prepared(bundle: Bundle) -> str:
    """How an image becomes a square, and which other settings of its preparation are not the defaults."""
    chosen = bundle.spec.preparation.chosen
    squared = _SQUARED[chosen.pop("aspect", "squash")]
    return "; ".join([squared, *(f"features.{name} {value}" for name, value in chosen.items())])


def out_of_scope_uses(bundle: Bundle) -> list[str]:
    """What a bundle must not be used for, a sentence or more each (section 4.2 of the paper on model cards)."""
    found = [
        "Diagnosis, or any decision about a person: it has seen its own images and no others, and no authority has "
        "approved it.",
        "Images of another kind (other devices, populations, magnifications) before it was measured on them.",
        _unfamiliar(bundle),
    ]
    if bundle.trial.method == "knn":
        found.append("Handing on, where the training images must not be: it holds a feature vector of each of them.")
    return found


def _weights(bundle: Bundle, whole: bool) -> list[str]:
    name, digest = bundle.trial.backbone.name, f"{bundle.weights_digest[:12]}..."
    if whole:
        return [f"The weights of {name} (SHA-256 {digest}) lie in it and are checked: it needs no network."]
    return [f"It needs the weights of {name} whose digest (SHA-256) is {digest},", "which are checked."]


def _versions(bundle: Bundle) -> str:
    return ", ".join(f"{name.removeprefix('version.')} {version}" for name, version in sorted(bundle.versions.items()))


def _table(metrics: Mapping[str, float], splits: Sequence[str]) -> list[str]:
    """A row for each metric that one of the splits has, a column for each split, the ends of intervals in brackets."""
    names = dict.fromkeys(name.partition("_")[2] for name in metrics if name.partition("_")[0] in splits)
    ends = {f"{name}{end}" for name in names for end in (LOW, HIGH)}
    rows = [
        f"| {name} | " + " | ".join(_shown(metrics, f"{split}_{name}") for split in splits) + " |"
        for name in names
        if name not in ends
    ]
    return [f"| quantity | {' | '.join(splits)} |", "|---|" + "---:|" * len(splits), *rows]


def _shown(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    low, high = metrics.get(f"{name}{LOW}"), metrics.get(f"{name}{HIGH}")
    between = "" if low is None or high is None else f" ({low:.4f} to {high:.4f})"
    return f"{metrics[name]:.4f}{between}"


def _reliability(bundle: Bundle, split: str) -> list[str]:
    if bundle.target.task == "regression":
        return []
    return [
        f"![How often it is right, against how sure it is, before and after calibration]({RELIABILITY_FILE})",
        "",
        f"Of the {split} split. In resamples the expected calibration error (`ece`) is larger than in the images",
        "themselves, since chance adds to every bin: its interval lies high, the more so the fewer images there are.",
        "",
    ]


def _operating_points(bundle: Bundle) -> list[str]:
    lines = []
    for of in dict.fromkeys(point.of for point in bundle.operating_points):
        points = [point for point in bundle.operating_points if point.of == of]
        chosen = [f"- `{point.name}`: {point.threshold:.4f}" for point in points]
        lines += [f"An image is called {of!r} where its probability is at least:", "", *chosen, ""]
    if without := without_points(bundle):
        lines += [
            f"Of {', '.join(without)} there are no operating points: the validation split lacks one kind of images.",
            "",
        ]
    return lines


def without_points(bundle: Bundle) -> list[str]:
    """The labels that have no operating points, where others may have some."""
    having = {point.of for point in bundle.operating_points}
    return [name for name in bundle.target.classes if name not in having] if bundle.target.task == "multilabel" else []


def _unfamiliar(bundle: Bundle) -> str:
    if bundle.familiarity is None:
        return (
            "Images that nobody else looks at: the frozen ViT does not see them, so that nothing warns of images of "
            "another kind."
        )
    return (
        f"Images whose `familiarity` is below {UNLIKE}: they are farther from the training images than "
        f"{1 - UNLIKE:.0%} of the validation images are, by the class token of the ViT's last block. It tells other "
        "images, not other patients: an image may be familiar and its answer wrong."
    )
