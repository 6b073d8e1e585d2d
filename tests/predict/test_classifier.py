"""A bundle's classifier against the study's own numbers, for every method: on images, with the store moved away."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tifffile import imwrite

import fpt_ray
from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import SUMMARY_METHODS, Method, override
from fpt_ray.errors import ConfigError
from fpt_ray.features.spec import Slice
from fpt_ray.images.decoding import ImageError
from fpt_ray.metrics.calibration import fitted_temperatures
from fpt_ray.metrics.familiarity import fitted_familiarity
from fpt_ray.metrics.operating_points import OperatingPoint, operating_points, rates_at
from fpt_ray.metrics.scores import scores
from fpt_ray.predict import classifier as classifier_module
from fpt_ray.predict.classifier import classifier_of, load
from fpt_ray.train.best import predictions_of_best
from fpt_ray.train.bundle import BUNDLE_FILE, FAMILIARITY_FILE, MODEL_FILE, read_bundle
from fpt_ray.train.card import model_card
from fpt_ray.train.checkpoint import load_checkpoint
from fpt_ray.train.leaving import ensemble
from tests.predict.bundles import TRIAL, left, squared, stored, table_of_images
from tests.stores import draw_images, rows_from_files

METHODS = Method.__args__


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return table_of_images(draw_images(tmp_path_factory.mktemp("images")))


def of_split(store, table, split):
    """The squared images of a split, in the order of its rows."""
    by_hash = {row.sha256: row for row in table.rows()}
    return [by_hash[bytes(one).hex()] for one in store.splits[split].hashes]


EXACT = {"float32": 1e-5, "bfloat16": 5e-3}


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        *((method, "float32") for method in METHODS),
        *((method, "bfloat16") for method in ("fpt+", "probe")),
        *(pytest.param(one, "bfloat16", marks=pytest.mark.slow) for one in METHODS if one not in ("fpt+", "probe")),
    ],
)
def test_a_bundle_says_of_the_images_what_the_study_said_of_their_features(method, precision, table, tmp_path):
    exact = EXACT[precision]
    changes = {"method": method, "features.precision": precision, "training.precision": precision}
    if method == "fpt":
        changes["side.depth"] = 12
    if method == "mlp_transfer":
        changes["features.preloaded"] = False
    trial = override(TRIAL, changes)
    store = stored(trial, table, tmp_path / "store")
    uri = left(trial, store, tmp_path)
    expected, _ = predictions_of_best(trial, store, "test", load_checkpoint(tmp_path))
    of_val, val_labels = predictions_of_best(trial, store, "val", load_checkpoint(tmp_path))
    assert read_bundle(uri).temperatures == tuple(fitted_temperatures(one, val_labels, "multiclass") for one in of_val)
    Path(tmp_path, "store").rename(tmp_path / "moved")
    rows = of_split(store, table, "test")
    found = load(uri).probabilities(np.stack([squared(table, row, 64) for row in rows]))
    np.testing.assert_allclose(found, np.stack(expected), atol=exact)
    again = load(uri).predict([Path(table.root, row.path) for row in rows])
    by = read_bundle(uri).temperatures
    if precision == "bfloat16":
        exact /= min(1.0, by[0][0])  # a small temperature makes differences larger
    np.testing.assert_allclose(again.probabilities, ensemble(expected, by, "multiclass"), atol=exact)
    assert (again.familiarity is not None) == (method in (*SUMMARY_METHODS, "fpt+", "fpt", "probe"))


LABELS = {
    "binary": (("no", "yes"), lambda kinds: (kinds > 0).astype(np.int64)),
    "ordinal": (("0", "1", "2"), lambda kinds: kinds),
    "multilabel": (("x", "y"), lambda kinds: np.stack([kinds > 0, kinds == 2], axis=1).astype(np.float32)),
    "regression": (("mm",), lambda kinds: 40.0 + 10.5 * kinds),
}


@pytest.mark.parametrize("task", LABELS)
@pytest.mark.parametrize("method", ["knn", "fpt+"])
def test_a_bundle_of_every_task_says_what_the_study_said(task, method, table, tmp_path):
    classes, labels_of = LABELS[task]
    labels = labels_of(table.labels)
    if task == "multilabel":
        labels[::5, 0] = np.nan
    own = dataclasses.replace(table, task=task, classes=classes, labels=labels)
    trial = override(TRIAL, {"method": method})
    store = stored(trial, own, tmp_path / "store")
    uri = left(trial, store, tmp_path, seeds=1 if method == "knn" else 2)
    expected, truth = predictions_of_best(trial, store, "test", load_checkpoint(tmp_path))
    paths = [Path(own.root, row.path) for row in of_split(store, own, "test")]
    classifier, bundle = load(uri), read_bundle(uri)
    answers = classifier.predict(paths)
    np.testing.assert_allclose(answers.probabilities, ensemble(expected, bundle.temperatures, task), atol=1e-4)
    first = store.target.scores[0]
    assert bundle.metrics[f"test_{first}"] == pytest.approx(
        np.mean([scores(one, truth, classes, task)[first] for one in expected])
    )
    assert ("test_brier_calibrated" in bundle.metrics) == (task != "regression")
    points = {"binary": ["yes"] * 3, "multilabel": ["x"] * 3 + ["y"] * 3}.get(task, [])
    assert [point.of for point in bundle.operating_points] == points
    of_val, val_truth = predictions_of_best(trial, store, "val", load_checkpoint(tmp_path))
    chosen = operating_points(ensemble(of_val, bundle.temperatures, task), val_truth, classes, task)
    assert [point.threshold for point in bundle.operating_points] == pytest.approx([p.threshold for p in chosen])
    for point in bundle.operating_points:
        at = rates_at(point, answers.probabilities, truth, classes)
        for name, share in (("sensitivity", at.sensitivity), ("specificity", at.specificity)):
            found = [bundle.metrics.get(f"test_{name}_at_{point.name}{end}") for end in ("", "_low", "_high")]
            assert found == pytest.approx(share, abs=1e-4)
        assert (
            answers.decisions[point.name] == (answers.probabilities[:, classes.index(point.of)] >= point.threshold)
        ).all()
    card = Path(uri, "README.md").read_text()
    assert Path(uri, "reliability.png").exists() == ("](reliability.png)" in card) == (task != "regression")
    assert [len(by) for by in bundle.temperatures] == [{"multilabel": 2, "regression": 0}.get(task, 1)] * len(expected)
    if task == "multilabel":
        names = [[name for name, share in zip("xy", row, strict=True) if share >= 0.5] for row in answers.probabilities]
        assert answers.labels == ["|".join(one) for one in names]
    if task == "regression":
        assert 30 < answers.probabilities.mean() < 70, "values are in the target's unit"
        spread = np.std([one[:, 0] for one in expected], axis=0, ddof=len(expected) - 1)
        np.testing.assert_allclose(answers.spread, spread, atol=1e-4)


@pytest.fixture(scope="module")
def two_seeds(table, tmp_path_factory):
    """(folder of a bundle of two seeds, its store)."""
    folder = tmp_path_factory.mktemp("two")
    trial = override(TRIAL, {"method": "probe"})
    store = stored(trial, table, folder / "store")
    return left(trial, store, folder, seeds=2, metrics={"val_auc": 0.75, "peak_memory_bytes": 1e6}), store


def test_seeds_are_averaged_and_their_spread_is_told(two_seeds, table):
    uri, store = two_seeds
    classifier = load(uri)
    images = np.stack([squared(table, row, 64) for row in of_split(store, table, "test")])
    one, other = classifier.probabilities(images)
    assert np.abs(one - other).max() > 1e-3
    answers = classifier.answers(images)
    np.testing.assert_allclose(
        answers.probabilities, ensemble([one, other], classifier.bundle.temperatures, "multiclass"), atol=1e-6
    )
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1, atol=1e-6)
    assert answers.labels == [answers.target.classes[at] for at in answers.probabilities.argmax(axis=1)]
    assert (answers.spread > 0).any()
    assert classifier.answers(images[:0]).probabilities.shape == (0, 3)


def test_of_many_images_few_are_held_at_once_and_the_answers_are_the_same(two_seeds, table, monkeypatch):
    uri, store = two_seeds
    classifier, held = load(uri), []
    paths = [Path(table.root, row.path) for row in of_split(store, table, "train")]
    whole = classifier.answers(np.stack([squared(table, row, 64) for row in of_split(store, table, "train")]))
    seen_by = classifier_module.seen_by
    monkeypatch.setattr(classifier_module, "_MOST_HELD", 16)
    monkeypatch.setattr(
        classifier_module,
        "seen_by",
        lambda lpm, images, spec: (held.append(len(images)), seen_by(lpm, images, spec))[1],
    )
    found = classifier.predict(paths)
    assert len(paths) > 32
    assert held == [16] * (len(paths) // 16) + [len(paths) % 16] * (len(paths) % 16 > 0)
    for name in ("probabilities", "spread", "familiarity"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), atol=1e-6)
    assert list(found.decisions) == list(whole.decisions)
    assert (len(classifier.predict([]).labels), held[-1]) == (0, 0)
    with pytest.raises(ImageError, match="image 33: "):
        classifier.predict([*paths[:33], b"no image"])


def test_familiarity_is_measured_on_the_validation_images_from_the_last_class_token(two_seeds, table):
    """Of each of the twelve: how many of them are as far from the training images, by what the store holds of them."""
    uri, store = two_seeds
    cut = Slice(blocks=(), num_kept=0, low_resolutions=(), summaries=True)
    train, val = (
        rows_from_files(store, split, cut).take(range(store.num_rows(split))).summaries[:, -1, 0].float().numpy()
        for split in ("train", "val")
    )
    far = fitted_familiarity(train, val).distances(val)
    found = load(uri).predict([Path(table.root, row.path) for row in of_split(store, table, "val")])
    np.testing.assert_allclose(found.familiarity, [(far >= one).mean() for one in far], atol=1e-6)
    assert sorted(found.familiarity) == pytest.approx(np.arange(1, 13) / 12)
    black = load(uri).predict([np.zeros((64, 64, 3), np.uint8)])
    assert black.familiarity == [0.0]


def test_a_bundle_of_the_first_version_is_read_as_it_was_meant(two_seeds, table, tmp_path):
    """Thresholds were of the second class alone, and nothing was said of familiarity."""
    shutil.copytree(two_seeds[0], tmp_path / "bundle")
    digests = json.loads((tmp_path / "bundle" / BUNDLE_FILE).read_text())["sha256"]
    digests = {name: one for name, one in digests.items() if name != FAMILIARITY_FILE}
    edit(tmp_path / "bundle", schema_version=1, sha256=digests, thresholds={"youden": 0.25})
    found = load(str(tmp_path / "bundle")).predict([Path(table.root, table.row(0).path)])
    assert found.familiarity is None
    assert found.decisions["youden"].tolist() == [found.probabilities[0, 1] >= 0.25]


def test_files_bytes_arrays_and_pillows_images_are_the_same_image(two_seeds, table):
    uri, _ = two_seeds
    path = Path(table.root, table.row(0).path)
    image = Image.open(path)
    found = load(uri).predict([str(path), path, path.read_bytes(), np.asarray(image), image]).probabilities
    np.testing.assert_array_equal(found, np.repeat(found[:1], 5, axis=0))
    with pytest.raises(ImageError, match=r"image 0: an array of float64 and shape \(2, 2\); give uint8"):
        load(uri).predict([np.zeros((2, 2))])
    with pytest.raises(ImageError, match=r"nowhere.png: there is no such file"):
        load(uri).predict(["nowhere.png"])


@pytest.mark.parametrize("kind", ["lossy TIFF", "transparent PNG", "white is zero"])
def test_an_opened_image_is_that_of_its_file(two_seeds, table, tmp_path, kind):
    """It was encoded once more: with loss where its file was, and without what is transparent."""
    uri, _ = two_seeds
    image, path = Image.open(Path(table.root, table.row(0).path)), tmp_path / "one.tif"
    if kind == "lossy TIFF":
        image.save(path, compression="jpeg", quality=40)
    elif kind == "transparent PNG":
        path = tmp_path / "one.png"
        image.quantize(8).save(path, transparency=3)
    else:
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        imwrite(path, grey, photometric="miniswhite")
    found = load(uri).predict([path, Image.open(path)]).probabilities
    np.testing.assert_array_equal(found[0], found[1])


def test_the_card_counts_patients_and_says_how_images_are_prepared(two_seeds):
    bundle = read_bundle(two_seeds[0])
    spec = dataclasses.replace(bundle.spec, aspect="pad", crop_black=10)
    data = {**bundle.data, "groups": {"train": 9, "val": 2, "test": 4}}
    card = model_card(dataclasses.replace(bundle, spec=spec, data=data), "uri")
    assert "; groups, such as patients: 9 train, 2 val, 4 test." in card
    assert "64 px, made square with black bars; features.crop_black 10." in card


def test_the_model_card_and_the_json_say_what_it_is(two_seeds):
    uri, store = two_seeds
    bundle, card = read_bundle(uri), Path(uri, "README.md").read_text()
    document = json.loads(Path(uri, BUNDLE_FILE).read_text())
    assert bundle.data["images"] == {split: store.num_rows(split) for split in ("train", "val", "test")}
    assert bundle.data["groups"] == {}
    assert "64 px, stretched to a square. Networks: 2" in card
    assert "groups" not in card
    assert document["backbone"]["weights_digest"] == store.spec.weights_digest
    test_auc = bundle.metrics["test_auc"]
    ends = [f"{bundle.metrics[f'test_auc{end}']:.4f}" for end in ("_low", "_high")]
    assert f"| {test_auc:.4f} ({' to '.join(ends)}) |" in card, "what is not known is computed"
    assert "| auc | 0.7500 (" in card, "what is known is kept"
    assert f"fpt-ray predict --model {uri}" in card
    assert "Input: 64 px, stretched to a square. Networks: 2" in card
    assert "fpt-ray predict --model '/a folder' --images" in model_card(bundle, "/a folder")
    low, value, high = (bundle.metrics[f"test_log_loss_calibrated{end}"] for end in ("_low", "", "_high"))
    assert low < value < high
    assert f" {value:.4f} ({low:.4f} to {high:.4f}) |" in card
    assert "| log_loss_calibrated_low |" not in card
    with Image.open(Path(uri, "reliability.png")) as diagram:
        assert diagram.info["Title"] == "Reliability diagram"
    assert (
        document["sha256"]["reliability.png"] == hashlib.sha256(Path(uri, "reliability.png").read_bytes()).hexdigest()
    )
    assert not [path.name for path in Path(uri).iterdir() if path.suffix in (".pt", ".pkl")]


def test_the_card_says_which_labels_have_no_operating_points(two_seeds):
    target = Target(task="multilabel", classes=("x", "y", "z"))
    points = (OperatingPoint(name="youden_y", of="y", threshold=0.25),)
    bundle = dataclasses.replace(read_bundle(two_seeds[0]), target=target, operating_points=points)
    card = model_card(bundle, "URI")
    assert "An image is called 'y' where its probability is at least:\n\n- `youden_y`: 0.2500\n" in card
    assert "Of x, z there are no operating points: the validation split lacks one kind of images." in card
    assert "nothing warns of images of" in model_card(dataclasses.replace(bundle, familiarity=None), "URI")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / MODEL_FILE).write_bytes(b"x"), "model.safetensors is not the file that bundle.json"),
        (lambda folder: (folder / MODEL_FILE).unlink(), "model.safetensors is missing; copy the bundle again"),
        (lambda folder: (folder / "README.md").write_text("x"), "README.md is not the file that bundle.json names"),
        (lambda folder: (folder / "reliability.png").unlink(), "reliability.png is missing; copy the bundle again"),
        (lambda folder: with_features(folder, aspect="crop"), "features has aspect crop, and its trial was .* squash"),
        (lambda folder: with_features(folder, mean=[0, 0, 0]), r"features has mean \(0, 0, 0\), and its trial was"),
        (lambda folder: with_features(folder, resolution=128), "features has resolution 128, and its trial was .* 64"),
        (lambda folder: (folder / BUNDLE_FILE).unlink(), "is no bundle: it has no bundle.json"),
        (lambda folder: (folder / BUNDLE_FILE).write_text("{}"), "KeyError: 'schema_version'"),
        (lambda folder: edit(folder, schema_version=4), "schema_version is 4, this program reads 1 to 3; update"),
        (lambda folder: edit(folder, schema_version=2, task="ordinal"), "its grades were calibrated so that"),
        (
            lambda folder: edit(folder, backbone={"weights": "random", "weights_digest": "0" * 64}),
            r"backbone.weights \(SHA-256\) is .* of random, the bundle's trial had 000000000000",
        ),
    ],
)
def test_what_was_changed_is_refused(two_seeds, tmp_path, spoil, said):
    copy = tmp_path / "bundle"
    copy.mkdir()
    for path in Path(two_seeds[0]).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    spoil(copy)
    with pytest.raises(ConfigError, match=said):
        load(str(copy))


def edit(folder, **changes):
    file = folder / BUNDLE_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def with_features(folder, **changes):
    edit(folder, features=json.loads((folder / BUNDLE_FILE).read_text())["features"] | changes)


def test_it_is_found_as_the_package_offers_it(two_seeds):
    assert fpt_ray.load is load
    bundle = read_bundle(two_seeds[0])
    assert classifier_of(bundle).bundle.identity == "it"
    assert (
        hashlib.sha256(Path(two_seeds[0], MODEL_FILE).read_bytes()).hexdigest()
        in Path(two_seeds[0], BUNDLE_FILE).read_text()
    )
