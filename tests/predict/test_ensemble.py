"""Several bundles that answer as one, against the mean of their own answers; each LPM looks once at an image."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fpt_ray.config.trial import override
from fpt_ray.errors import ConfigError
from fpt_ray.metrics.intervals import bootstrap, interval
from fpt_ray.predict import seen
from fpt_ray.predict.classifier import load
from fpt_ray.predict.ensemble import ensemble_of, lpm_passes
from fpt_ray.predict.finding import bundles_of_front
from fpt_ray.predict.listing import listed
from fpt_ray.predict.parts import planned
from fpt_ray.predict.pipeline import answer_rows, predict_all
from fpt_ray.predict.summary import summary_text
from fpt_ray.train.bundle import BUNDLE_FILE, FRONT_FILE, read_bundle
from tests.predict.bundles import TRIAL, left, squared, stored, table_of_images
from tests.stores import draw_images

CHANGES = (
    {"method": "probe", "side.depth": 1, "side.blocks": "6"},
    {"features.token_ratio": 0.5},
    {"method": "knn"},
    {"method": "linear_probing"},
    {"method": "probe", "features.resolution": 96},
)
"""The first three look alike at an image, and keep unlike features of it; the fourth has its own LPM."""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return table_of_images(draw_images(tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="module")
def bundles(table, tmp_path_factory):
    """{folder: bundle} of five trials on the same images."""
    folder, uris = tmp_path_factory.mktemp("bundles"), []
    for number, changes in enumerate(CHANGES):
        trial = override(TRIAL, changes)
        own = folder / str(number)
        metrics = {"learnable_parameters": 1000 * (number + 1), "peak_memory_bytes": 2**20, "fit_seconds": 0.5}
        uris.append(left(trial, stored(trial, table, own / "store"), own, metrics=metrics))
    return {uri: read_bundle(uri) for uri in uris}


def squares_of(table, ensemble):
    """{preparation: the test images}."""
    rows = [row for row in table.rows() if row.split == "test"]
    return {
        one: np.stack([squared(table, row, one.resolution) for row in rows]) for one in ensemble.preparations
    }, np.array([row.label for row in rows])


def test_the_lpm_is_given_a_whole_part_and_the_networks_some_images_at_a_time(bundles, table, monkeypatch):
    classifier, given, read = load(next(iter(bundles))), [], []
    images = np.stack([squared(table, row, 64) for row in table.rows() if row.split == "train"])
    each = np.concatenate([classifier.answers(images[[at]]).probabilities for at in range(len(images))])
    extract, batch = seen.extract_batches, seen.Seen.batch
    monkeypatch.setattr(seen, "extract_batches", lambda *some: (given.append(len(some[1])), extract(*some))[1])
    monkeypatch.setattr(seen.Seen, "batch", lambda one, *some: (read.append(len(one.images)), batch(one, *some))[1])
    found = classifier.answers(images)
    assert given == [len(images)]
    assert sum(read) == len(images) > 32
    assert max(read) == 16
    np.testing.assert_allclose(found.probabilities, each, atol=1e-5)


def test_the_answer_is_the_mean_of_the_members_and_each_lpm_looks_once(bundles, table, monkeypatch):
    ensemble, looked = ensemble_of(bundles), []
    squares, _ = squares_of(table, ensemble)
    extract = seen.extract_batches
    monkeypatch.setattr(
        seen, "extract_batches", lambda *given: (looked.append(given[2].resolution), extract(*given))[1]
    )
    found = ensemble.answers(squares)
    assert looked == [64, 96]
    assert lpm_passes(list(bundles.values())) == 2
    each = [load(uri).answers(squares[bundle.spec.preparation]) for uri, bundle in bundles.items()]
    said = np.stack([one.probabilities for one in each])
    np.testing.assert_allclose(found.probabilities, said.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.of_best, said[0], atol=1e-5)
    at = found.probabilities.argmax(axis=1)
    np.testing.assert_allclose(found.spread, said.std(axis=0, ddof=1)[np.arange(len(at)), at], atol=1e-5)
    np.testing.assert_allclose(found.familiarity, each[0].familiarity, atol=1e-6)
    assert ensemble.members[0].lpm is ensemble.members[2].lpm is not ensemble.members[4].lpm
    assert found.decisions == {}


def test_bundles_of_other_classes_cannot_answer_as_one(bundles):
    (uri, one), *_ = bundles.items()
    other = dataclasses.replace(one, target=dataclasses.replace(one.target, classes=("c0", "c1", "x")))
    with pytest.raises(ConfigError, match=r"ensemble: classes is \('c0', 'c1', 'x'\) in b, \('c0', 'c1', 'c2'\) in .*"):
        ensemble_of({uri: one, "b": other})


@pytest.mark.slow
def test_it_goes_through_ray_data_and_says_what_it_gains_and_costs(cluster, bundles, table, tmp_path):
    few = {uri: bundle for number, (uri, bundle) in enumerate(bundles.items()) if number in (0, 1, 4)}
    ensemble, out = ensemble_of(few), str(tmp_path / "out.parquet")
    squares, labels = squares_of(table, ensemble)
    listing = listed(f"{table.root}/test", (), ensemble.members[0].bundle.target)
    rows = predict_all(ensemble, planned("x", listing, out))
    written = pq.read_table(out)
    assert written.column_names == [name for name in rows.column_names if name != "of_best"]
    by_path = {path: at for at, path in enumerate(written["path"].to_pylist())}
    order = [by_path[row.path.partition("/")[2]] for row in table.rows() if row.split == "test"]
    expected = ensemble.answers(squares)
    found = np.stack([written[f"probability_{name}"].to_numpy()[order] for name in expected.target.classes], axis=1)
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-5)
    best, *others = few.values()
    text = summary_text(rows, best, listing, out, others)
    drawn = bootstrap([[expected.probabilities], [expected.of_best]], labels, ("accuracy",), "multiclass")["accuracy"]
    of_all, alone = (float((one.argmax(axis=1) == labels).mean()) for one in (expected.probabilities, expected.of_best))
    assert f"accuracy of the best member alone {alone:.4f}, difference of all from it {of_all - alone:+.4f} (" in text
    assert interval(drawn[0] - drawn[1]).low <= of_all - alone
    assert (
        "cost: 3 bundles with 3 networks; learnt parameters 8,000 in sum (1,000 of the best alone); "
        "peak memory of training in MiB 3 in sum (1 of the best alone); seconds of training 1.5 in sum (0.5 of the "
        "best alone); the ViT looks 2 times at an image for its features (1)"
    ) in text
    plain = answer_rows(load(next(iter(few))).answers(next(iter(squares.values()))), *[[""] * len(labels)] * 3)
    assert "best member" not in summary_text(plain, best, dataclasses.replace(listing, labels=labels), out)
    assert pa.types.is_list(rows.schema.field("of_best").type)


def test_the_front_is_what_the_study_said_when_it_last_ended(tmp_path):
    bundles = tmp_path / "studies/s/bundles"
    for number, score in ((3, 0.8), (12, 0.9), (20, 0.95)):
        folder = bundles / f"trial-{number:04d}"
        folder.mkdir(parents=True)
        document = {"task": "binary", "classes": ["a", "b"], "trial": {}, "metrics": {"val_auc": score}}
        (folder / BUNDLE_FILE).write_text(json.dumps(document))
    with pytest.raises(
        ConfigError, match=r"s is no study in .* that has said which trials are on its front; give one,"
    ):
        bundles_of_front("s", str(tmp_path))
    (bundles / FRONT_FILE).write_text(json.dumps(["trial-0003", "trial-0012"]))
    assert bundles_of_front("s", str(tmp_path)) == [str(Path(bundles, name)) for name in ("trial-0012", "trial-0003")]
