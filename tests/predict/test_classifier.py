"""A bundle's classifier against the study's own numbers: of every method, on the images themselves, the store left out."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fpt_ray
from fpt_ray.config.space import need_of
from fpt_ray.config.trial import Method, override, trial_from
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import join
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.spec import store_spec
from fpt_ray.images.decoding import ImageError, decode, resize
from fpt_ray.images.splits import with_hashed_splits
from fpt_ray.images.table import accept, inspect_image, read_images
from fpt_ray.models.weights import known_weights, load_backbone
from fpt_ray.predict.classifier import classifier_of, load
from fpt_ray.preload.batches import extract_batches
from fpt_ray.train.best import predictions_of_best
from fpt_ray.train.bundle import BUNDLE_FILE, MODEL_FILE, read_bundle
from fpt_ray.train.checkpoint import load_checkpoint, save_checkpoint
from fpt_ray.train.leaving import Leaving, ensemble, leave_bundle
from fpt_ray.train.seeds import fit_seeds, trial_task
from tests.stores import add_rows, draw_images, rows_from_files

METHODS = Method.__args__
TRIAL = trial_from(
    {
        "backbone.name": "vit_tiny_patch16_224",
        "backbone.weights": "random",
        "features.resolution": 64,
        "features.precision": "float32",
        "side.resolution": 32,
        "side.depth": 2,
        "side.reduction": 4,
        "side.num_prompts": 2,
        "training.epochs": 1,
        "training.batch_size": 8,
    }
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    found = read_images(draw_images(tmp_path_factory.mktemp("images")))
    return with_hashed_splits(accept(found, [inspect_image(found.root, row)[0] for row in found.rows]))


def stored(trial, table, folder):
    """The features of a trial's images, without Ray."""
    digest = known_weights([trial.backbone], ".")[trial.backbone]
    spec = store_spec(need_of(trial), weights_digest=digest, precision="float32")
    rows = sorted(table.rows, key=lambda row: row.sha256)
    high = np.stack([squared(table, row, spec.resolution) for row in rows])
    low = [np.stack([one if side == len(one) else resize(one, side) for one in high]) for side in spec.low_resolutions]
    features = extract_batches(load_backbone(trial.backbone, spec.resolution), high, spec) if spec.blocks else None
    return join(add_rows(folder, spec, rows, features, low, per_shard=len(rows)), table)


def squared(table, row, resolution):
    return resize(decode(Path(table.root, row.path).read_bytes(), row.path), resolution)


def left(trial, store, folder, seeds=1, metrics=None):
    """Trains, keeps the checkpoint and leaves a bundle in the folder."""
    cut = trial_slice(trial, store.spec)
    rows = {split: rows_from_files(store, split, cut) for split in ("train", "val")}
    *_, last = fit_seeds(trial, seeds, rows, trial_task(store, torch.device("cpu")), identity="it", started=0.0)
    save_checkpoint(last.checkpoint, folder)
    leaving = Leaving(
        uri=f"{folder}/bundle",
        checkpoint=str(folder),
        identity="it",
        weights_digest=known_weights([trial.backbone], ".")[trial.backbone],
        metrics=metrics or {},
        versions={"git_commit": "c0ffee"},
    )
    leave_bundle(trial, store, leaving)
    return leaving.uri


def of_split(store, table, split):
    """The squared images of a split, in the order of its rows."""
    by_hash = {row.sha256: row for row in table.rows}
    return [by_hash[bytes(one).hex()] for one in store.splits[split].hashes]


@pytest.mark.parametrize("method", METHODS)
def test_a_bundle_says_of_the_images_what_the_study_said_of_their_features(method, table, tmp_path):
    changes = {"method": method, "side.depth": 12} if method == "fpt" else {"method": method}
    if method == "mlp_transfer":
        changes["features.preloaded"] = False
    trial = override(TRIAL, changes)
    store = stored(trial, table, tmp_path / "store")
    uri = left(trial, store, tmp_path)
    expected, _ = predictions_of_best(trial, store, "test", load_checkpoint(tmp_path))
    Path(tmp_path, "store").rename(tmp_path / "moved")
    rows = of_split(store, table, "test")
    found = load(uri).probabilities(np.stack([squared(table, row, 64) for row in rows]))
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)
    again = load(uri).predict([Path(table.root, row.path) for row in rows])
    np.testing.assert_allclose(again.probabilities, ensemble(expected, read_bundle(uri).temperatures), atol=1e-5)


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
    np.testing.assert_allclose(answers.probabilities, ensemble([one, other], classifier.bundle.temperatures), atol=1e-6)
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1, atol=1e-6)
    assert answers.labels == [answers.classes[at] for at in answers.probabilities.argmax(axis=1)]
    assert (answers.spread > 0).any()
    assert classifier.answers(images[:0]).probabilities.shape == (0, 3)


def test_files_bytes_arrays_and_pillows_images_are_the_same_image(two_seeds, table):
    uri, _ = two_seeds
    path = Path(table.root, table.rows[0].path)
    image = Image.open(path)
    found = load(uri).predict([str(path), path, path.read_bytes(), np.asarray(image), image]).probabilities
    np.testing.assert_array_equal(found, np.repeat(found[:1], 5, axis=0))
    with pytest.raises(ImageError, match=r"image 0: an array of float64 and shape \(2, 2\); give uint8"):
        load(uri).predict([np.zeros((2, 2))])
    with pytest.raises(ImageError, match=r"nowhere.png: there is no such file"):
        load(uri).predict(["nowhere.png"])


def test_the_model_card_and_the_json_say_what_it_is(two_seeds):
    uri, store = two_seeds
    bundle, card = read_bundle(uri), Path(uri, "README.md").read_text()
    document = json.loads(Path(uri, BUNDLE_FILE).read_text())
    assert bundle.data["images"] == {split: store.num_rows(split) for split in ("train", "val", "test")}
    assert document["backbone"]["weights_digest"] == store.spec.weights_digest
    assert "| auc | 0.7500 |  |" in card
    assert f"fpt-ray predict --model {uri}" in card
    assert not [path.name for path in Path(uri).iterdir() if path.suffix in (".pt", ".pkl")]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / MODEL_FILE).write_bytes(b"x"), "model.safetensors is not the file that bundle.json"),
        (lambda folder: (folder / MODEL_FILE).unlink(), "model.safetensors is missing; copy the bundle again"),
        (lambda folder: (folder / BUNDLE_FILE).unlink(), "is no bundle: it has no bundle.json"),
        (lambda folder: (folder / BUNDLE_FILE).write_text("{}"), "KeyError: 'schema_version'"),
        (lambda folder: edit(folder, schema_version=2), "schema_version is 2, this program reads 1; update fpt_ray"),
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


def test_it_is_found_as_the_package_offers_it(two_seeds):
    assert fpt_ray.load is load
    bundle = read_bundle(two_seeds[0])
    assert classifier_of(bundle).bundle.identity == "it"
    assert (
        hashlib.sha256(Path(two_seeds[0], MODEL_FILE).read_bytes()).hexdigest()
        in Path(two_seeds[0], BUNDLE_FILE).read_text()
    )
