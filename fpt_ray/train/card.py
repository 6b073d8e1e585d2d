"""The model card of a bundle: what it is, how far to trust it, what it must not be used for, how it is used.

After Mitchell et al., "Model Cards for Model Reporting" (arXiv 1810.03993).
"""

from collections.abc import Sequence

from fpt_ray.train.bundle import Bundle


def model_card(bundle: Bundle, uri: str) -> str:
    """Markdown, of which every number is in the bundle."""
    trial, data = bundle.trial, bundle.data
    sizes = ", ".join(f"{count} {split}" for split, count in data["images"].items())
    note = [f"**{data['note']}**", ""] if data["note"] else []
    return "\n".join(
        [
            f"# {trial.method} on {trial.backbone.name}",
            "",
            *note,
            f"Task: {bundle.target.task} ({', '.join(bundle.target.classes)}). Images: {sizes} (image table "
            f"{data['images_digest'][:12]}).",
            f"Input: {bundle.spec.resolution} px, squared by resizing. Networks: {len(bundle.states)}, one a seed, "
            "whose calibrated answers are averaged.",
            "",
            "## How good it is",
            "",
            *_table("quantity", bundle.metrics, ("val", "test")),
            "",
            "`low` and `high` are the ends of a 95 % interval. Temperatures and thresholds were chosen on the",
            "validation split, as the epoch and the trial were: its numbers are optimistic, the test split's are not.",
            "",
            *_operating_points(bundle),
            "## What it must not be used for",
            "",
            *(f"- {one}" for one in must_not(bundle)),
            "",
            "## How to use it",
            "",
            "```",
            f"fpt-ray predict --model {uri} --images DIR --out predictions.parquet",
            "```",
            "",
            "```python",
            "import fpt_ray",
            "",
            f'fpt_ray.load("{uri}").predict(["image.png"])',
            "```",
            "",
            f"It needs the weights of {trial.backbone.name} whose digest (SHA-256) is {bundle.weights_digest[:12]}...,",
            "which are checked.",
            "",
            f"Made with {_versions(bundle)}.",
            "",
        ]
    )


def must_not(bundle: Bundle) -> list[str]:
    """What a bundle must not be used for, a sentence each."""
    found = [
        "Diagnosis, or any decision about a person: it has seen its own images and no others, and no authority has "
        "approved it.",
        "Images of another kind (other devices, populations, magnifications) before it was measured on them.",
    ]
    if bundle.trial.method == "knn":
        found.append("Handing on, where the training images must not be: it holds a feature vector of each of them.")
    return found


def _versions(bundle: Bundle) -> str:
    return ", ".join(f"{name.removeprefix('version.')} {version}" for name, version in sorted(bundle.versions.items()))


def _table(heading: str, metrics: object, splits: Sequence[str]) -> list[str]:
    """A row for each metric that one of the splits has, a column for each split."""
    assert isinstance(metrics, dict)
    names = list(dict.fromkeys(name.partition("_")[2] for name in metrics if name.partition("_")[0] in splits))
    rows = [
        f"| {name} | " + " | ".join(_shown(metrics.get(f"{split}_{name}")) for split in splits) + " |" for name in names
    ]
    return [f"| {heading} | {' | '.join(splits)} |", "|---|" + "---:|" * len(splits), *rows]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _operating_points(bundle: Bundle) -> list[str]:
    if not bundle.thresholds:
        return []
    positive = bundle.target.classes[1]
    return [
        f"An image is called {positive!r} where its probability is at least:",
        "",
        *(f"- `{name}`: {threshold:.4f}" for name, threshold in bundle.thresholds.items()),
        "",
    ]
