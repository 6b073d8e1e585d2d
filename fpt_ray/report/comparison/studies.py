"""Tables of several studies: the best trial of each, whether it differs from the first study's, and all fronts."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlflow import MlflowClient

from fpt_ray.config.space import POINT
from fpt_ray.config.tasks import TITLES
from fpt_ray.display.typesetting import Cell, Column, Table, text_column
from fpt_ray.errors import ConfigError
from fpt_ray.metrics.intervals import Interval
from fpt_ray.report.predictions import Predictions, difference, read_predictions, same_images
from fpt_ray.report.result import StudyResult
from fpt_ray.report.summary import value_text
from fpt_ray.report.tested import Tested, best_tested
from fpt_ray.tracking.records import TrialRecord

_OF_FRONT = ("param_ratio", "memory_ratio", "peak_memory_bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Studied:
    """A study with the best of its trials whose test score is stored."""

    result: StudyResult
    best: TrialRecord | None
    tested: Tested | None
    predictions: Predictions | None
    """What the best trial says of each test image; None where that was not stored."""


def studied(client: MlflowClient, result: StudyResult) -> Studied:
    """A study as it is compared."""
    best, tested = best_tested(client, result.trials, result.score, result.constraints) or (None, None)
    predictions = read_predictions(client, best.run_id) if best else None
    return Studied(result=result, best=best, tested=tested, predictions=predictions)


def check_comparable(results: Sequence[StudyResult]) -> None:
    """ConfigError unless there are several studies, each once, that are judged by the same score."""
    names = [one.name for one in results]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"compare: {', '.join(names)}; give several studies, each once")
    scores = {one.name: TITLES[one.score] for one in results}
    if len(set(scores.values())) > 1:
        told = ", ".join(f"{name} by {score}" for name, score in scores.items())
        raise ConfigError(f"compare: the studies pick their best trials by different scores ({told}); give others")


def best_table(found: Sequence[Studied]) -> Table:
    """A row for each study: its best trial, with the interval of its difference from the first study's.

    The interval is paired: of both trials on the same resamples of the test images, which must be the same.
    """
    first, score = found[0], found[0].result.score
    differences = [None, *(_difference(one, first, score) for one in found[1:])]
    verdicts = [_verdict(one, first, between) for one, between in zip(found, differences, strict=True)]
    columns = [
        _settings("backbone", "backbone.name", found),
        _settings("px", "features.resolution", found),
        _numbers("best trial", [None if one.best is None else _number(one.best) for one in found]),
        _scores(f"val {TITLES[score]}", f"val_{score}", [_metric(one, f"val_{score}") for one in found]),
        *(
            _scores(title, f"test_{score}", [_test(one, score, end) for one in found])
            for title, end in _test_columns(score)
        ),
        _percents("params %", "param_ratio", [_metric(one, "param_ratio") for one in found]),
        _percents("memory %", "memory_ratio", [_metric(one, "memory_ratio") for one in found]),
        _scores("difference from", "difference_low", [None if ends is None else ends.low for ends in differences]),
        _scores("difference to", "difference_high", [None if ends is None else ends.high for ends in differences]),
        text_column("verdict", verdicts, left=True),
    ]
    return Table(
        title=f"The best trials of the studies {', '.join(one.result.name for one in found)}",
        notes=[
            *image_notes([one.result for one in found]),
            f"{TITLES[score]} is x 100, intervals are of 95 % over images.",
        ],
        heading="study",
        labels=[one.result.name for one in found],
        columns=columns,
    )


def _test_columns(score: str) -> list[tuple[str, int]]:
    return [(f"test {TITLES[score]}", 0), ("95 % from", 1), ("to", 2)]


def image_notes(results: Sequence[StudyResult]) -> list[str]:
    """What must be said about the studies' images, once where it is the same."""
    names: dict[str, list[str]] = {}
    for one in results:
        names.setdefault(one.data_note, []).append(one.name)
    return [f"Images of {', '.join(own)}: {note}." for note, own in names.items() if note]


def _difference(one: Studied, first: Studied, score: str) -> Interval | None:
    mine, theirs = one.predictions, first.predictions
    if mine is None or theirs is None or not same_images(mine, theirs):
        return None
    return difference(mine, theirs, score)


def _verdict(one: Studied, first: Studied, between: Interval | None) -> str:
    """Whether the difference is told apart from none, or why that cannot be said."""
    name = first.result.name
    if one is first:
        return "the others are compared with it"
    for study in (one, first):
        if study.best is None:
            return f"{study.result.name} has no test score"
        if study.predictions is None:
            return f"not compared: {study.result.name} has stored no predictions of its test images"
    if between is None:
        return f"not compared: other test images, labels or classes than {name}'s"
    apart = between.low > 0 or between.high < 0
    return f"differs from {name} beyond chance" if apart else f"not told apart from {name}"


def fronts_table(found: Sequence[Studied]) -> Table:
    """A row for each member of each study's front, by predicted memory."""
    score = found[0].result.score
    members = [
        (one.result.name, record)
        for one in found
        for record in sorted(one.result.front, key=lambda record: record.metrics["peak_memory_bytes"])
    ]
    names = (f"val_{score}", f"test_{score}", *_OF_FRONT)
    titles = (f"val {TITLES[score]}", f"test {TITLES[score]}", "params %", "memory %", "MiB predicted")
    columns = [
        _scores(title, name, [record.metrics.get(name) for _, record in members])
        for title, name in zip(titles, names, strict=True)
    ]
    settings = _varied([record for _, record in members], found)
    columns = [_numbers("trial", [str(record.number) for _, record in members]), *settings, *columns]
    return Table(title="Their fronts", heading="study", labels=[name for name, _ in members], columns=columns)


def _varied(records: Sequence[TrialRecord], found: Sequence[Studied]) -> list[Column]:
    """What any of the studies varies, and in which the members differ."""
    searched = dict.fromkeys(name for one in found for name in one.result.searched if name != POINT)
    columns = []
    for name in searched:
        texts = [value_text(name, record.params.get(name)) for record in records]
        if len(set(texts)) > 1:
            columns.append(text_column(name.rpartition(".")[2] if name.startswith("side.") else name, texts))
    return columns


# --- cells --------------------------------------------------------------------------------------------------------


def _number(record: TrialRecord) -> str:
    return str(record.number) if record.confirms is None else f"{record.confirms}, again {record.number}"


def _metric(one: Studied, name: str) -> float | None:
    return None if one.best is None else one.best.metrics.get(name)


def _test(one: Studied, score: str, end: int) -> float | None:
    return None if one.tested is None else one.tested.scores[score][end]


def _scores(title: str, name: str, values: Sequence[float | None]) -> Column:
    cells = [Cell(text=value_text(name, value), plain=value) for value in values]
    return Column(title=title, name=title, cells=cells)


def _percents(title: str, name: str, ratios: Sequence[float | None]) -> Column:
    cells = [Cell(text=value_text(name, one), plain=None if one is None else 100 * one) for one in ratios]
    return Column(title=title, name=title, cells=cells)


def _numbers(title: str, texts: Sequence[str | None]) -> Column:
    return text_column(title, ["-" if text is None else text for text in texts])


def _settings(title: str, name: str, found: Sequence[Studied]) -> Column:
    """A setting of the best trial; "-" where there is none."""
    return _numbers(title, [None if one.best is None else one.best.params.get(name, "-") for one in found])
