"""What a study's page says, from what the study stored: its runs, its image table, its pictures and its bundles."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient

from fpt_ray.config.tasks import TITLES
from fpt_ray.display.typesetting import Table
from fpt_ray.images.table import read_images
from fpt_ray.report.front_ensemble import front_ensemble_table
from fpt_ray.report.ledger import ledger_table
from fpt_ray.report.page.bundles import BundleText, calibration_table, points_table, read_bundles
from fpt_ray.report.page.embedded import Embedded, embedded
from fpt_ray.report.page.facts import LISTED, classes_table, facts_table, some, time_text, versions_table
from fpt_ray.report.pictures import Picture
from fpt_ray.report.result import StudyResult
from fpt_ray.report.stored import stored_text
from fpt_ray.report.summary import columns_of, further_tables, summarise, value_text
from fpt_ray.report.tested import Tested, score_tables
from fpt_ray.search.importances import FILE as IMPORTANCES
from fpt_ray.search.importances import Importances, importances_from
from fpt_ray.storage.files import exists
from fpt_ray.tracking.records import TrialRecord

_IMAGES = "images.parquet"
"""The study's image table, in its folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What stands on the page; None and what is empty is left out."""

    name: str
    note: str
    """What must be said about the images wherever their numbers stand."""
    time: str
    best: Sequence[tuple[str, str]]
    """(what, number) of the best trial."""
    facts: Table
    classes: Table | None
    front: Table
    picture: Picture
    further: Mapping[str, Table]
    """As ``report.summary.further_tables`` names them."""
    failed: Sequence[str]
    importances: Importances | None
    tested: Sequence[Table]
    confusion: Sequence[tuple[str, Sequence[tuple[int, float]]]]
    """(true class, (images, share of the row) by predicted class); empty where there are none, or too many."""
    seeds: int
    """Of the best trial."""
    calibration: Table | None
    points: Table | None
    calibrated: int | None
    """The trial whose calibration and operating points are shown."""
    pictures: Mapping[int, Sequence[Embedded]]
    """{trial: the pictures of its bundle}, the best trial first."""
    left_out: int
    """Pictures that had no room."""
    ledger: Table | None
    versions: Table | None
    model: str
    """The best trial's bundle, as ``predict`` calls it; "" where there is none."""
    model_uri: str
    workdir: str
    """As a shell takes it."""


def page_of(result: StudyResult, client: MlflowClient, best: tuple[TrialRecord, Tested] | None) -> Page:
    """All of it; ``best`` is what ``best_tested`` says.

    Raises:
        StorageError: S3 fails.
    """
    summary, places, uri = summarise(result), result.places, result.places.uri
    bundles = read_bundles(uri)
    own = _own_bundle(bundles, best[0] if best else None, result.score)
    pictures, left_out = embedded([*([own] if own else []), *(one for one in bundles if one is not own)])
    together = front_ensemble_table(client, result)
    stored = stored_text(client, places.run_id, IMPORTANCES)
    images = read_images(f"{uri}/{_IMAGES}") if exists(f"{uri}/{_IMAGES}") else None
    return Page(
        name=result.name,
        note=result.data_note,
        time=time_text(result.trials),
        best=_best(*best, result) if best else (),
        facts=facts_table(result, images),
        classes=classes_table(images) if images else None,
        front=Table(title=summary.heading[0], notes=summary.heading[-1:], columns=columns_of(summary.rows)),
        picture=summary.picture,
        further=further_tables(summary),
        failed=some(summary.failed),
        importances=importances_from(stored) if stored else None,
        tested=[*(score_tables(*best) if best else ()), *([together] if together else ())],
        confusion=_confusion(best[1]) if best else (),
        seeds=best[1].seeds if best else 0,
        calibration=calibration_table(own.metrics) if own else None,
        points=points_table(own.document) if own else None,
        calibrated=own.number if own else None,
        pictures=pictures,
        left_out=left_out,
        ledger=ledger_table(result.ledger) if result.ledger else None,
        versions=versions_table(result.versions),
        model=f"{result.name}:{own.number}" if own else "",
        model_uri=f"{places.workdir}/studies/{result.name}/bundles/trial-{own.number:04d}" if own else "",
        workdir=shlex.quote(places.workdir),
    )


def _own_bundle(bundles: Sequence[BundleText], best: TrialRecord | None, score: str) -> BundleText | None:
    """That of the best trial; where it has left none, that of the highest validation score."""
    of_best = [one for one in bundles if best is not None and one.number == best.number]
    by_score = sorted(bundles, key=lambda one: -one.metrics.get(f"val_{score}", 0.0))
    return next(iter((*of_best, *by_score)), None)


def _confusion(tested: Tested) -> list[tuple[str, list[tuple[int, float]]]]:
    if not 0 < len(tested.confusion) <= LISTED:
        return []
    sums = [max(1, sum(row)) for row in tested.confusion]
    shares = [[(count, count / total) for count in row] for row, total in zip(tested.confusion, sums, strict=True)]
    return list(zip(tested.classes, shares, strict=True))


def _best(record: TrialRecord, tested: Tested, result: StudyResult) -> list[tuple[str, str]]:
    score, metrics = result.score, record.metrics
    value, low, high = (value_text(f"test_{score}", one) for one in tested.scores[score])
    name = str(record.number) if record.confirms is None else f"{record.confirms}, confirmed as {record.number}"
    ratios = {"param_ratio": "learnable parameters", "memory_ratio": "of full fine-tuning's memory"}
    costs = [(title, f"{100 * metrics[key]:.2f} %") for key, title in ratios.items() if key in metrics]
    return [("best trial", name), (f"test {TITLES[score]}", value), ("95 % interval", f"{low} to {high}"), *costs]
