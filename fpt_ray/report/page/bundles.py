"""What the bundles of a study say of themselves.

The rooms that write bundles (``train.bundle``, ``tune.bundles``) stand on higher floors than this one: their
``bundle.json`` is read as what it is, a JSON file at ``bundles/trial-NNNN`` in the study's folder, with the pictures
(PNG) that lie beside and below it. Numbers are shown by their names, so that one which is added there is shown here.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from fpt_ray.display.typesetting import Column, Table, text_column
from fpt_ray.errors import ConfigError
from fpt_ray.storage.files import list_files, read_bytes

_FILE = re.compile(r"trial-(\d+)/bundle\.json")
_CALIBRATION = re.compile(r"(?:val|test)_(.+)_(?:uncalibrated|calibrated)")
_QUANTITIES = {"log_loss": "log loss", "brier": "Brier score", "ece": "expected calibration error"}
_POINTS = {
    "youden": "Youden's J",
    "sensitivity_90": "90 % sensitivity, to rule out",
    "specificity_90": "90 % specificity, to rule in",
}
_RATES = ("sensitivity", "specificity")


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleText:
    """A bundle's own words."""

    number: int
    """Of its trial."""
    document: Mapping[str, Any]
    """What its ``bundle.json`` says."""
    pictures: Mapping[str, int]
    """{URI: bytes} of the pictures in its folder and below it, by path."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """{name with its split: value}."""
        return self.document.get("metrics", {})


def read_bundles(study_uri: str) -> list[BundleText]:
    """The bundles in a study's folder, by number; none where it has left none.

    Raises:
        ConfigError: the JSON of one cannot be read.
        StorageError: S3 fails.
    """
    folder = f"{study_uri}/bundles"
    files = list_files(folder)
    found = []
    for file in files:
        if (named := _FILE.fullmatch(file.path)) is None:
            continue
        own = file.path.removesuffix("bundle.json")
        drawn = [one for one in files if one.path.startswith(own) and one.path.endswith(".png")]
        found.append(
            BundleText(
                number=int(named[1]),
                document=_document(f"{folder}/{file.path}"),
                pictures={f"{folder}/{one.path}": one.bytes for one in drawn},
            )
        )
    return sorted(found, key=lambda one: one.number)


def _document(uri: str) -> Mapping[str, Any]:
    try:
        return json.loads(read_bytes(uri))
    except ValueError:
        raise ConfigError(f"{uri} is no JSON; copy this bundle again, or take its folder away") from None


def calibration_table(metrics: Mapping[str, float]) -> Table | None:
    """The errors of calibration before and after, on both splits; None where none was measured, as of values."""
    names = dict.fromkeys(found[1] for name in metrics if (found := _CALIBRATION.fullmatch(name)))
    if not names:
        return None
    columns = [
        text_column(f"{split}, {when}", [_with_interval(metrics, f"{split}_{name}_{key}", 1, ".4f") for name in names])
        for split in ("test", "val")
        for when, key in (("before", "uncalibrated"), ("after", "calibrated"))
    ]
    return Table(labels=[_QUANTITIES.get(name, name) for name in names], columns=_filled(columns))


def points_table(bundle: Mapping[str, Any]) -> Table | None:
    """The operating points with what they come to on both splits; None where there are none."""
    points: Sequence[Mapping[str, Any]] = bundle.get("operating_points", ())
    metrics: Mapping[str, float] = bundle.get("metrics", {})
    if not points:
        return None
    columns = []
    for split, rate in product(("test", "val"), _RATES):
        cells = [_with_interval(metrics, f"{split}_{rate}_at_{point['name']}", 100, ".1f") for point in points]
        columns.append(text_column(f"{split} {rate} %", cells))
    called = text_column("called from", [f"{point['threshold']:.3f}" for point in points])
    return Table(
        labels=[_point_text(point["name"], point["of"]) for point in points], columns=[called, *_filled(columns)]
    )


def _point_text(name: str, of: str) -> str:
    """What a point is called; of several labels each says of which."""
    kind = name.removesuffix(f"_{of}")
    return _POINTS.get(kind, kind) + (f" ({of})" if kind != name else "")


def _with_interval(metrics: Mapping[str, float], name: str, scale: float, form: str) -> str:
    """A number and, where there is one, its 95 % interval."""
    if (value := metrics.get(name)) is None:
        return "-"
    ends = [metrics.get(f"{name}_{end}") for end in ("low", "high")]
    between = [format(scale * end, form) for end in ends if end is not None]
    return format(scale * value, form) + (f" ({' to '.join(between)})" if len(between) == 2 else "")


def _filled(columns: Iterable[Column]) -> list[Column]:
    """Those of which something is known."""
    return [column for column in columns if any(cell.text != "-" for cell in column.cells)]
